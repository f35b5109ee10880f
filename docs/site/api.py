"""The pages of the API: every name that a public module lists in `__all__`, from its docstring."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

HOME = "api/dnc_fast.md"
ALSO = {
    "dnc_fast.linkages.dense": ["update_link", "directional_weightings"],
    "dnc_fast.reference.similarity": ["cosine"],
}
"""Names of the primer that their package does not list, because it has several of a kind."""

EQUATION = re.compile(r"Equation \((\d+)\) of docs/primer\.md")
PAGE = re.compile(r"(?<![\w/])docs/(\w+)\.md")


@cache
def modules(root: Path) -> dict[str, list[str]]:
    """The public modules, each with the names it offers."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "dnc_fast").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if "kernels" in parts:
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                found[module] = [name for name in names if not name.startswith("__")]
    return {**found, **ALSO}


def pages(root: Path) -> dict[str, str]:
    """The Markdown of each page, by its path in docs/."""
    made = {}
    for module, names in modules(root).items():
        entries = "".join(f"::: {module}.{name}\n\n" for name in names)
        about = f"::: {module}\n    options: {{members: false, show_root_heading: false}}\n\n"
        made[f"api/{module}.md"] = f"# {module}\n\n{about}{entries}"
    return made


def place(root: Path, path: str, name: str) -> tuple[str, str] | None:
    """The page and anchor of a function or class in a file of the package; None: it has none."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    while name and module:
        if name in modules(root).get(module, []):
            return f"api/{module}.md", f"#{module}.{name}"
        module = module.rpartition(".")[0]
    return None


def link_pages(html: str) -> str:
    """Make the pages that docstrings name, and the primer's equations, links to them."""
    html = EQUATION.sub(
        r'<a href="../primer.html#equation-\1">Equation (\1) of the primer</a>', html
    )
    return PAGE.sub(r'<a href="../\1.html">docs/\1.md</a>', html)
