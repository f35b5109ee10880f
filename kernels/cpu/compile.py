"""How the CPU kernels are compiled: by Numba, without the GIL, cached on disk.

A kernel that Python calls is compiled as a whole with all that it calls, and shares no machine code
with other kernels. So results depend neither on what a process compiled or loaded before, nor on
whether it compiled a kernel itself or loaded it. Inside of others a kernel is not optimised for
itself, nor made into machine code, but only as a part of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.extending import typeof_impl

from .store import Store

FASTMATH = {"reassoc", "contract", "nsz"}
"""Flags that let sums be vectorised. NaN and infinity keep their meaning."""

on_part: list[Callable[[], None]] = []
"""Called whenever one more part of a kernel is about to be compiled; to show progress."""


class _NoEnvironment:
    """Stands for the code generator where Numba would set a function's environment.

    Parts have no address to store it at, and use none: they raise and print nothing.
    """

    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        pass


class _PartLibrary(JITCodeLibrary):
    """The code of a kernel inside of others, which link it as it is."""

    codegen = _NoEnvironment

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _WholeLibrary(JITCodeLibrary):
    """The code of a kernel that Python calls, with that of all its parts."""

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        # Parts of the same name in other kernels may be optimised differently.
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == llvm.Linkage.linkonce_odr:
                function.linkage = "internal"

    def serialize_using_object_code(self) -> Any:
        """Without the intermediate code, which nothing links: only names are taken from it."""
        self._ensure_finalized()
        names = [
            function.name
            for function in self._final_module.functions
            if not function.is_declaration and function.linkage == llvm.Linkage.external
        ]
        bodies = (f'define void @"{name}"() {{ ret void }}' for name in names)
        named = llvm.parse_assembly("\n".join(bodies))
        return self.name, "object", (self._get_compiled_object(), named.as_bitcode())


class _CompilePart(Compiler):
    library: type[JITCodeLibrary] = _PartLibrary
    noalias = False

    def define_pipelines(self) -> Any:
        state = self.state
        state.flags.noalias = self.noalias
        state.flags.no_cfunc_wrapper = True
        state.flags.no_cpython_wrapper = self.library is _PartLibrary
        state.library = self.library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        for call in on_part:
            call()
        return super().define_pipelines()


class _CompilePartApart(_CompilePart):
    noalias = True


class _CompileWhole(_CompilePart):
    library = _WholeLibrary


class _CompileWholeApart(_CompileWhole):
    noalias = True


class Kernel:
    """A function compiled for the types of its arguments, at the first call, or loaded from disk.

    Args:
        function: in the part of Python that Numba compiles.
        apart: whether no two of its arguments share memory.
        fastmath: flags for floating-point arithmetic.

    Attributes:
        part: what other kernels call.
        whole: what Python calls.
        name: for files.
    """

    def __init__(self, function: Callable[..., Any], apart: bool, fastmath: set[str]) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        # Kernels allocate nothing, so Numba need not count references to the views that they work
        # on (`_nrt`): that is atomic arithmetic, and took a quarter of the time of small steps.
        compiled = functools.partial(
            numba.njit, nogil=True, fastmath=fastmath, error_model="numpy", _nrt=False
        )
        self.part = compiled(pipeline_class=_CompilePartApart if apart else _CompilePart)(function)
        self.whole = compiled(pipeline_class=_CompileWholeApart if apart else _CompileWhole)(
            function
        )
        self.whole._cache = Store(self.name)

    def __call__(self, *arguments: Any) -> Any:
        return self.whole(*arguments)

    def is_compiled(self, signature: tuple[Any, ...]) -> bool:
        """Whether it is compiled for these types, in this process or on disk."""
        return signature in self.whole.overloads or self.whole._cache.has(
            signature, self.whole.targetctx
        )

    def compile(self, signature: tuple[Any, ...]) -> None:
        """Load it for these types, or compile it."""
        self.whole.compile(signature)

    def parts(self) -> set[Kernel]:
        """The kernels that it is made of, itself included."""
        found = {self}
        ahead = [self]
        while ahead:
            new = set(ahead.pop()._callees()) - found
            found |= new
            ahead += new
        return found

    def _callees(self) -> Iterator[Kernel]:
        names = self.py_func.__code__.co_names
        known = self.py_func.__globals__
        for name in names:
            value = known.get(name)
            if isinstance(value, Kernel):
                yield value
            elif isinstance(value, ModuleType):
                members = (getattr(value, member, None) for member in names)
                yield from (member for member in members if isinstance(member, Kernel))


@typeof_impl.register(Kernel)
def _type_of_a_kernel(kernel: Kernel, context: Any) -> Any:
    return typeof_impl(kernel.part, context)


def kernel(function: Callable[..., Any]) -> Kernel:
    """A function for the CPU."""
    return Kernel(function, False, FASTMATH)


def apart(function: Callable[..., Any]) -> Kernel:
    """A kernel whose arguments must not share memory.

    Otherwise a loop that writes to several arrays cannot be vectorised; others write to one.
    """
    return Kernel(function, True, FASTMATH)


def in_order(function: Callable[..., Any]) -> Kernel:
    """Like `apart`, and sums keep the order in which they are written."""
    return Kernel(function, True, FASTMATH - {"reassoc"})
