"""The house is as its plan says: packages, floors, commands of the README."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dnc_fast"

# From the ground up, as in CONTRIBUTING.md; nothing imports from a floor above its own.
FLOORS = (
    {"checks", "kernels"},
    {"links", "state", "interface"},
    {"reference"},
    {"backends", "trace"},
    {"functional", "controllers", "engine", "sequences"},
    {"config"},
    {"dnc"},
    {"tasks", "pictures"},
    {"presets"},
    {"training"},
    {"cli"},
)


def modules():
    """Each module's file and its name below dnc_fast, such as ("reference", "step")."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts
        if name not in {("__init__",), ("__main__",)}:
            yield path, name


def imported_rooms(path, name):
    """The rooms of dnc_fast (files and folders at its top) that a module imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = name[: len(name) - node.level]
        target = (*base, *(node.module or "").split(".")) if node.module else base
        if target:
            yield target[0]
        else:
            yield from (alias.name for alias in node.names if alias.name != "__version__")


def floor_of(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor_and_imports_only_downwards():
    for path, name in modules():
        for room in imported_rooms(path, name):
            assert floor_of(room) <= floor_of(name[0]), f"{'.'.join(name)} imports {room}"


def test_kernels_never_import_dnc_fast():
    for path in (ROOT / "kernels").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) dnc_fast", path.read_text(), re.M), path


def test_every_package_is_installed():
    setup = (ROOT / "setup.py").read_text()
    for folder in PACKAGE.rglob("__init__.py"):
        package = ".".join(folder.parent.relative_to(ROOT).parts)
        assert f'"{package}"' in setup, f"setup.py does not list {package}"


def test_installed_kernels_are_the_folder_kernels():
    kernels = pytest.importorskip("dnc_fast.kernels", reason="dnc_fast is not installed")
    assert Path(kernels.__file__).parent == ROOT / "kernels"


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.M)
    train, test = commands
    assert train.endswith("dnc-fast train copy") and test.endswith("pytest")
    assert test in (ROOT / ".ci/run").read_text().splitlines()


@pytest.mark.parametrize(("page", "count"), [("README.md", 2), ("docs/large_memories.md", 1)])
def test_examples_in_the_docs_run(page, count):
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert len(examples) == count
    for example in examples:
        exec(compile(example, page, "exec"), {})
