"""The documentation holds: links lead somewhere, snippets run, every public name is explained."""

import ast
import importlib
import inspect
import json
import re
import runpy
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import trained

from dnc_fast.tasks import CopyTask

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
ELSEWHERE = ("http://", "https://", "mailto:")
RUN_ELSEWHERE = {
    "docs/distributed.md": "ranks.py",  # takes two processes
    "docs/export.md": "test_export.py",
    "docs/migration.md": "test_compat.py",
    "docs/official_weights.md": "test_official.py",  # with a stand-in for TensorFlow
    "docs/sharing.md": "test_pretrained.py",
}
"""Pages whose snippets another file of tests runs, and looks at what they make."""

API = runpy.run_path(str(ROOT / "docs/site/api.py"))
PUBLIC = API["modules"](ROOT)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page or notebook without its code."""
    if page.suffix == ".ipynb":
        return "\n".join(text for kind, text, _ in cells(page) if kind == "markdown")
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


def cells(notebook: Path) -> list[tuple[str, str, dict]]:
    """Each cell of a notebook: its kind, its text, and all of it."""
    content = json.loads(notebook.read_text())["cells"]
    return [(cell["cell_type"], "".join(cell["source"]), cell) for cell in content]


def anchors(file: Path) -> set[str]:
    """What a link can name: a page's headings, as they are shown on GitHub; a module's functions.

    On GitHub a link to a function opens the file, in the site it leads to the page of the API.
    """
    if file.suffix == ".py":
        return {node.name for node in ast.parse(file.read_text()).body if hasattr(node, "name")}
    headings = re.findall(r"^#+ (.+)$", prose(file), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(ELSEWHERE):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: there is no such file"
        if anchor:
            assert anchor in anchors(file), f"{target}: there is no such heading or function"


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))
        if not target.startswith(ELSEWHERE)
    }
    pages = [*ROOT.glob("docs/*.md"), *NOTEBOOKS]
    lost = [page.name for page in pages if page not in linked]
    assert not lost


def test_equations_of_the_primer_and_their_functions_name_each_other() -> None:
    primer = (ROOT / "docs/primer.md").read_text()
    equation = r'<a id="equation-(\d+)"></a>\n\*\*\((\d+)\)\*\* \[`(\w+)`\]\(\.\./(\S+)\.py#(\w+)\)'
    found = re.findall(equation, primer)
    assert [int(number) for number, *_ in found] == list(range(1, 14)) and "(14)**" not in primer
    for anchor, number, shown, path, function in found:
        assert anchor == number and shown == function
        explained = getattr(importlib.import_module(path.replace("/", ".")), function).__doc__
        assert f"Equation ({number}) of docs/primer.md." in explained
        assert API["place"](ROOT, f"{path}.py", function), f"{function} is not in the API"


def test_pictures_of_the_primer_are_drawn(monkeypatch, tmp_path) -> None:
    trained(tmp_path / "run", CopyTask(6, 6, num_bits=2, num_sequences=2), max_steps=1)
    monkeypatch.setattr(sys, "argv", ["primer.py", f"{tmp_path}/run", "--out", f"{tmp_path}/out"])
    runpy.run_path(str(ROOT / "docs/pictures/primer.py"), run_name="__main__")
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert drawn == sorted(path.name for path in ROOT.glob("docs/pictures/primer_*.png"))


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("page", list(filter(snippets, PAGES)), ids=name_of)
def test_snippets_run(page: Path, monkeypatch, tmp_path) -> None:
    """All of a page, one after another, as a reader would who types them in."""
    if name_of(page) in RUN_ELSEWHERE:
        assert name_of(page) in (ROOT / "tests" / RUN_ELSEWHERE[name_of(page)]).read_text()
        return
    monkeypatch.chdir(tmp_path)  # for the files that they write
    if "runs/copy" in page.read_text():
        trained("runs/copy", max_steps=1)
    names: dict[str, object] = {}
    for code in snippets(page):
        exec(compile(code, name_of(page), "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_run(notebook: Path, monkeypatch, tmp_path) -> None:
    """At tiny size, by `exec`: Jupyter would bring a hundred packages and a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, Image=Path))
    names: dict[str, object] = {}
    for kind, text, cell in cells(notebook):
        if kind == "code":
            exec(compile(text, name_of(notebook), "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names.update(STEPS=2, EPISODES=1)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_keep_their_outputs(notebook: Path) -> None:
    assert notebook.stat().st_size < 300_000
    counts = [cell["execution_count"] for kind, _, cell in cells(notebook) if kind == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run all cells, from the first to the last"
    outputs = [output for *_, cell in cells(notebook) for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error" and output.get("name") != "stderr"


@cache
def values_explained() -> set[str]:
    """The names at the top of modules that have a string below them: what they are."""
    bodies = [ast.parse(path.read_text()).body for path in (ROOT / "dnc_fast").rglob("*.py")]
    return {
        ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        for body in bodies
        for node, below in pairwise(body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def explanation(value: object, name: str) -> str | None:
    """The docstring of a public name, if it is its own and a person wrote it."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return name if name in values_explained() else None
    text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return None if text and text.startswith(f"{name}(") else text  # as dataclasses have


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_explained(module: str) -> None:
    for name in PUBLIC[module]:
        value = getattr(importlib.import_module(module), name)
        assert explanation(value, name), f"{module}.{name} has no docstring"


@pytest.mark.parametrize("module", PUBLIC)
def test_public_methods_are_explained(module: str) -> None:
    for name in PUBLIC[module]:
        value = getattr(importlib.import_module(module), name)
        if not inspect.isclass(value):
            continue
        for attribute, member in vars(value).items():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(member) and not attribute.startswith("_"):
                assert inspect.getdoc(getattr(value, attribute)), f"{module}.{name}.{attribute}"
