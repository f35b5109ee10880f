"""All CPU kernels are compiled beforehand, so that no process compiles a forgotten one again."""

import subprocess
import sys

import pytest
from states import HAS_NUMBA

SCRIPT = """
import pkgutil, importlib
import torch
from dnc_fast import DNC, DNCCell, functional
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.kernels import cpu
from dnc_fast.kernels.cpu.compile import Kernel
from dnc_fast.step_options import USAGE_ORDERS

def train(cells=5, steps=3, **options):
    model = DNC(3, 4, num_cells=cells, cell_size=3, num_read_heads=2, backend="cpu", **options)
    model(torch.randn(steps, 2, 3))[0].sum().backward()

for controller in CONTROLLERS:
    train(controller=controller, num_layers=2, checkpoint_interval=2)
train(cells=300, num_write_heads=2)
train(dropout=0.5, num_layers=2)
for linkage in ("dense", "sparse", "separable", "none"):
    for order in USAGE_ORDERS:
        train(linkage=linkage, usage_order=order, read_topk=2)
        train(linkage=linkage, usage_order=order, write_topk=2, num_write_heads=2)
train(cells=5000, steps=2, linkage="sparse", read_topk=4, write_topk=4)
train(cells=5000, steps=2, linkage="separable", num_write_heads=2)
cell = DNCCell(3, 4, num_cells=5, cell_size=3, backend="cpu")
cell(torch.randn(2, 3))[0].sum().backward()
usage = torch.rand(2, 5, requires_grad=True)
functional.allocation_weighting(usage, backend="cpu").sum().backward()
link = torch.rand(2, 1, 5, 5, requires_grad=True)
weights = torch.rand(2, 1, 5)
functional.linkage(link, weights, weights, torch.rand(2, 2, 5), backend="cpu")[1].sum()

missed = []
for module in pkgutil.iter_modules(cpu.__path__):
    module = importlib.import_module(f"{cpu.__name__}.{module.name}")
    for name, function in vars(module).items():
        if isinstance(function, Kernel):
            missed += [(name, kinds) for kinds in function.whole.stats.cache_misses]
assert not missed, missed
"""


@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
def test_no_kernel_is_compiled_in_the_process_that_uses_it():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
