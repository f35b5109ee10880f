"""Which backend runs, and why another is refused."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import HAND_DERIVED, HAS_NUMBA, needs_numba, python, random_interfaces, separated_state

from dnc_fast import memory_step
from dnc_fast.backends import VARIABLE, backend_problem, resolve_backend
from dnc_fast.state import MemorySizes

CPU, CUDA, META = map(torch.device, ("cpu", "cuda", "meta"))

SIZES = MemorySizes(2, 7, 3, 2, 2)

# On a CPU; Triton's interpreter only where it is switched on.
RUNNABLE = ["reference", "eager"] + [
    name for name in ("cpu", "triton") if backend_problem(name, CPU, torch.float32) is None
]


# Which one runs


@pytest.fixture
def without_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(params=[True, False], ids=["numba", "no numba"])
def numba(
    request: pytest.FixtureRequest, without: Callable[[str], None], without_variable: None
) -> bool:
    """With Numba and without it."""
    if request.param and not HAS_NUMBA:
        pytest.skip("needs numba")
    if not request.param:
        without("numba")
    return request.param


@pytest.fixture
def gpu(
    monkeypatch: pytest.MonkeyPatch, without: Callable[[str], None], without_variable: None
) -> Callable[..., None]:
    """Makes this a machine with a GPU, as far as the choice of a backend can see."""

    def build(version: str | None = "3.6.0", capability: tuple[int, int] = (8, 0)) -> None:
        if version is None:
            without("triton")
        else:
            monkeypatch.setattr(
                pytest.importorskip("triton", minversion="3.6"), "__version__", version
            )
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    return build


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_takes_the_fastest_that_can_run(numba: bool, dtype: torch.dtype) -> None:
    assert resolve_backend("auto", CPU, dtype) == ("cpu" if numba else "eager")
    assert resolve_backend("auto", META, dtype) == "reference"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", [CPU, META], ids=str)
def test_auto_is_the_reference_in_half_precision(
    numba: bool, device: torch.device, dtype: torch.dtype
) -> None:
    assert resolve_backend("auto", device, dtype) == "reference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("version", ["3.6.0", "3.9.1+git", "3.10.0", "4.0"])
def test_auto_on_a_gpu_is_triton(
    gpu: Callable[..., None], version: str, dtype: torch.dtype
) -> None:
    gpu(version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_backend("auto", CUDA, dtype) == "triton"
        assert resolve_backend("triton", CUDA, dtype) == "triton"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"version": None}, ModuleNotFoundError, "needs Triton, which cannot .*pip install triton"),
        ({"version": "3.5.1"}, RuntimeError, "needs Triton 3.6 or newer, got 3.5.1.*newer torch"),
        ({"version": "2.9"}, RuntimeError, "needs Triton 3.6 or newer, got 2.9"),
        ({"capability": (7, 5)}, RuntimeError, "capability 8.0 or newer, got a GPU"),
    ],
)
def test_where_triton_cannot_run_auto_says_so_once_and_the_name_raises(
    gpu: Callable[..., None], given: dict[str, Any], error: type[Exception], message: str
) -> None:
    gpu(**given)
    with pytest.warns(UserWarning, match=message):
        assert resolve_backend("auto", CUDA, torch.float32) == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_backend("auto", CUDA, torch.float32) == "eager"
        assert resolve_backend("auto", CUDA, torch.bfloat16) == "reference"
    with pytest.raises(error, match=message):
        resolve_backend("triton", CUDA, torch.float32)


@pytest.mark.parametrize("device", [CPU, META], ids=str)
def test_triton_takes_nothing_that_is_elsewhere(
    gpu: Callable[..., None], device: torch.device
) -> None:
    gpu()
    message = f'backend "triton" needs tensors on a CUDA or ROCm device, got {device}; use "auto"'
    with pytest.raises(ValueError, match=message):
        resolve_backend("triton", device, torch.float32)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_name_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also against the environment, which only says what `auto` is."""
    for variable in RUNNABLE:
        monkeypatch.setenv(VARIABLE, variable)
        assert resolve_backend(name, CPU, torch.float32) == name


@pytest.mark.parametrize("name", RUNNABLE)
def test_variable_says_what_auto_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(VARIABLE, name)
    assert resolve_backend("auto", CPU, torch.float64) == name


@pytest.mark.parametrize("value", ["auto", ""])
def test_variable_may_say_auto_or_nothing(
    monkeypatch: pytest.MonkeyPatch, numba: bool, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert resolve_backend("auto", CPU, torch.float32) == ("cpu" if numba else "eager")


@pytest.mark.parametrize("name", ["gpu", "CPU"])
def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"^backend must be.*'reference'.*got " + repr(name)):
        resolve_backend(name, CPU, torch.float32)
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(ValueError, match=rf"^{VARIABLE} must be.*'reference'.*got {name!r}"):
        resolve_backend("auto", CPU, torch.float32)


def test_kernels_without_numba_say_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, without: Callable[[str], None]
) -> None:
    """An explicit name never falls back, nor does the variable."""
    without("numba")
    message = r'backend "cpu" needs Numba, which cannot be imported.*`pip install numba`'
    with pytest.raises(ModuleNotFoundError, match=message):
        resolve_backend("cpu", CPU, torch.float32)
    with pytest.raises(ModuleNotFoundError, match=message):
        memory_step(random_interfaces(1, SIZES)[0], separated_state(SIZES), backend="cpu")
    monkeypatch.setenv(VARIABLE, "cpu")
    with pytest.raises(ModuleNotFoundError, match=message):
        resolve_backend("auto", CPU, torch.float32)


@needs_numba
@pytest.mark.parametrize("device", [CUDA, META], ids=str)
def test_kernels_take_nothing_that_is_elsewhere(device: torch.device) -> None:
    with pytest.raises(ValueError, match=rf'backend "cpu" needs tensors on the cpu, got {device}'):
        resolve_backend("cpu", device, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", HAND_DERIVED)
def test_half_precision_is_refused_by_name(name: str, dtype: torch.dtype) -> None:
    message = rf"backend '{name}' needs float32 or float64, got {dtype}; \"reference\""
    with pytest.raises(ValueError, match=message):
        resolve_backend(name, CPU, dtype)
    with pytest.raises(ValueError, match=message):
        memory_step(random_interfaces(1, SIZES)[0], separated_state(SIZES).to(dtype), backend=name)


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None  # whoever imports it fails
import torch
from dnc_fast import DNC
assert torch.isfinite(DNC(2, 3, num_cells=4, cell_size=2)(torch.zeros(3, 1, 2))[0]).all()
try:
    DNC(2, 3, backend="cpu")(torch.zeros(3, 1, 2))
except ModuleNotFoundError as error:
    print(error)
"""


def test_works_where_numba_cannot_be_imported(without_variable: None) -> None:
    assert "pip install numba" in python(WITHOUT_NUMBA)


BROKEN_PACKAGES = {
    "for another NumPy": (
        "raise ImportError('Numba needs NumPy 2.2 or less. Got NumPy 2.5.')",
        "fails while it is imported (ImportError: Numba needs NumPy 2.2 or less. Got NumPy 2.5.)",
    ),
    "compiled for another NumPy": (
        "raise SystemError('initialization of _internal failed')",
        "fails while it is imported (SystemError: initialization of _internal failed)",
    ),
    "without what it needs": (
        "import llvmlite_that_is_not_there",
        "which cannot be imported (No module named 'llvmlite_that_is_not_there')",
    ),
    "too old": ("__version__ = '0.41.0'", "needs Numba 0.59 or newer, got 0.41.0"),
    "too new": (
        "__version__ = '9.0.0'; config = type('', (), {'DISABLE_JIT': 0})",
        "does not work with Numba 9.0.0 (",
    ),
}

WITH_A_BROKEN_PACKAGE = """
import warnings, sys
import torch
from dnc_fast import DNC
from dnc_fast.cli import main
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        assert torch.isfinite(DNC(2, 3, num_cells=4, cell_size=2)(torch.zeros(3, 1, 2))[0]).all()
print(*(one.message for one in said), sep="\\n")
print("---")
try:
    DNC(2, 3, backend="cpu")(torch.zeros(3, 1, 2))
except (ImportError, RuntimeError) as error:
    print(error)
print("---")
main(["info"])
"""


@pytest.mark.parametrize("kind", BROKEN_PACKAGES)
def test_a_package_that_does_not_work_is_as_good_as_none(
    tmp_path: Path, without_variable: None, kind: str
) -> None:
    """It is installed, so that only importing it shows that; "auto" does without, and says so."""
    code, reason = BROKEN_PACKAGES[kind]
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba/__init__.py").write_text(code)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    printed = python(WITH_A_BROKEN_PACKAGE, PYTHONPATH=os.pathsep.join(paths))
    warned, raised, info = printed.split("---\n")
    assert warned.count(reason) == (kind != "without what it needs")
    assert reason in raised
    assert 'auto on cpu is eager (backend "cpu" ' in info and reason in info


def test_numba_that_must_not_compile(without_variable: None) -> None:
    printed = python(WITH_A_BROKEN_PACKAGE, NUMBA_DISABLE_JIT="1")
    assert printed.count("NUMBA_DISABLE_JIT forbids") == (3 if HAS_NUMBA else 0)


IMPORTS = """
import sys, torch
before = set(sys.modules)
{code}
heavy = {{"torch._dynamo", "numba", "triton", "matplotlib", "tqdm"}}
print(heavy & (set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    "code",
    ["import dnc_fast", "from dnc_fast import *", "import dnc_fast.functional, dnc_fast.training"],
)
def test_importing_imports_nothing_heavy(code: str) -> None:
    assert python(IMPORTS.format(code=code)) == "set()\n"


def test_importing_the_package_alone_does_not_even_import_torch() -> None:
    code = "import sys, dnc_fast, dnc_fast.cli; print({'torch', 'numpy'} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_names_of_the_package_and_its_modules() -> None:
    code = """
import dnc_fast
for name in dnc_fast.__all__:
    assert getattr(dnc_fast, name) is not None
assert dnc_fast.functional.content_weighting and set(dnc_fast.__all__) <= set(dir(dnc_fast))
try:
    dnc_fast.nothing
except AttributeError as error:
    print(error)
"""
    assert python(code) == "module 'dnc_fast' has no attribute 'nothing'\n"
