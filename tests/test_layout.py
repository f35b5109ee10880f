"""The layout of the code is as CONTRIBUTING.md says: packages, layers, commands of the README."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dnc_fast"

# From the ground up, as in CONTRIBUTING.md; nothing imports from a floor above its own.
FLOORS = (
    {"checks", "compiling", "files", "kernels", "opaque", "portable", "untraced", "workers"},
    {"options", "interface", "layout"},
    {"step_options"},
    {"linkages"},
    {"state", "links"},
    {"reference"},
    {"backends", "trace", "sequences"},
    {"functional", "precision"},
    {"controllers"},
    {"engine", "config"},
    {"given_state", "pretrained", "state_pair"},
    {"cell"},
    {"dnc"},
    {"memory_lstm", "compat", "official", "baselines"},
    {"models", "tasks", "pictures"},
    {"presets"},
    {"training"},
    {"cli"},
)

MOST_LINES = {"a file": 450, "a function": 80}
"""In dnc_fast, so that each has one subject and fits in a reader's head."""


def modules():
    """Each module's file and its name below dnc_fast, such as ("reference", "step")."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts
        if name not in {("__init__",), ("__main__",)}:
            yield path, name


def relative_imports(nodes, name):
    """Of a module: where each of its relative imports begins, and the names that it imports."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            package = name[: len(name) - node.level]  # of "__init__" too, whose own folder it is
            yield (
                (*package, *(node.module or "").split(".")) if node.module else package,
                node.names,
            )


def imported_rooms(path, name):
    """The rooms of dnc_fast (files and folders at its top) that a module imports from."""
    for base, aliases in relative_imports(ast.walk(ast.parse(path.read_text())), name):
        if base:
            yield base[0]
        else:
            yield from (alias.name for alias in aliases if alias.name != "__version__")


def floor_of(room):
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room} has no floor"
    return found[0]


def test_every_room_has_a_floor_and_imports_only_downwards():
    for path, name in modules():
        for room in imported_rooms(path, name):
            assert floor_of(room) <= floor_of(name[0]), f"{'.'.join(name)} imports {room}"


def imported_modules(path, name):
    """The modules of dnc_fast that a module imports from when it is itself imported."""
    for base, aliases in relative_imports(ast.parse(path.read_text()).body, name):
        for alias in aliases:  # a module of a package, or a name in a module
            if PACKAGE.joinpath(*base, f"{alias.name}.py").exists():
                yield (*base, alias.name)
            elif PACKAGE.joinpath(*base, alias.name, "__init__.py").exists():
                yield (*base, alias.name, "__init__")
            elif PACKAGE.joinpath(*base).is_dir():
                yield (*base, "__init__")
            else:
                yield base


def test_no_modules_import_each_other_in_a_circle():
    imports = {name: set(imported_modules(path, name)) - {name} for path, name in modules()}
    left = dict(imports)
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"a circle among {sorted('.'.join(name) for name in left)}"
        for name in free:
            del left[name]


def test_files_and_functions_are_short():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= MOST_LINES["a file"], path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= MOST_LINES["a function"], f"{path}: {node.name} has {length} lines"


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
    assert Path(kernels.__file__).resolve().parent == ROOT / "kernels"


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    """Such as the clone, when Python is started in the folder that contains it."""
    (tmp_path / "dnc_fast").mkdir()
    names = "[getattr(finder, '__name__', type(finder).__name__) for finder in sys.meta_path]"
    code = f"import dnc_fast, sys; print(dnc_fast.__file__, {names})"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def found_in(folder):
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    elsewhere = found_in(tmp_path / "dnc_fast").stdout
    if not elsewhere or "_EditableFinder" in elsewhere:
        pytest.skip("dnc_fast is not installed, or where setup.py could make no links")
    assert found_in(tmp_path).stdout == elsewhere


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.M)
    train, test = commands
    assert train.endswith("dnc-fast train copy") and test.endswith("pytest -n auto")
    assert test in (ROOT / ".ci/run").read_text().splitlines()
