"""The models of pytorch-dnc (the PyPI package `dnc`) by their own names and arguments.

`from dnc_fast.compat import DNC, SAM, SDNC` in place of `from dnc import DNC, SAM, SDNC`: the same
constructors, calls and states, run by the models of this package. docs/migration.md lists what
differs.
"""

from .models import DNC, SAM, SDNC

__all__ = ["DNC", "SAM", "SDNC"]
