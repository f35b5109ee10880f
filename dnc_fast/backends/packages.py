"""Packages that a backend needs: whether they work is known only once they are imported."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import NamedTuple


class Needed(NamedTuple):
    """A package that a backend needs.

    | field   | what                                         |
    |---------|----------------------------------------------|
    | backend | the backend's name                           |
    | title   | the package's name in sentences              |
    | oldest  | the oldest version with all that is used     |
    | install | how to install it                            |
    | update  | how to get a newer one                       |
    """

    backend: str
    title: str
    oldest: tuple[int, int]
    install: str
    update: str

    def load(self) -> ModuleType:
        """Import it.

        Raises:
            ModuleNotFoundError: it is not installed.
            RuntimeError: it is too old, or fails while it is imported.
        """
        needs = f"backend {self.backend!r} needs {self.title}".replace("'", '"')
        try:
            package = import_module(self.title.lower())
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{needs}, which cannot be imported ({error}); {self.install}"
            ) from error
        except Exception as error:  # made for another NumPy, or a shared library is missing
            raise RuntimeError(
                f"{needs}, which fails while it is imported ({type(error).__name__}: {error}); "
                f"{self.update}"
            ) from error
        version = str(package.__version__)
        if _numbers(version) < self.oldest:
            oldest = ".".join(map(str, self.oldest))
            raise RuntimeError(f"{needs} {oldest} or newer, got {version}; {self.update}")
        return package

    def fails_with(self, package: ModuleType, error: Exception) -> RuntimeError:
        """What to raise if the backend's own modules fail with this version of it."""
        return RuntimeError(
            f"backend {self.backend!r} does not work with {self.title} {package.__version__} "
            f"({type(error).__name__}: {error}); {self.update}".replace("'", '"', 2)
        )


def _numbers(version: str) -> tuple[int, ...]:
    """(3, 6) of 3.6.0+git."""
    first, second, *_ = [*version.split("."), "0"]
    digits = ("".join(filter(str.isdigit, part)) or "0" for part in (first, second))
    return tuple(map(int, digits))
