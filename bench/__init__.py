"""Measurements: what README and docs/ claim, and the commands that made it.

| to                                              | |
|-------------------------------------------------|-|
| measure everything here, or go on               | `python -m bench run` |
| write README's tables and the plots, check them | `python -m bench tables [--check]` |
| compare two result files                        | `python -m bench compare A B` |
| do all that wants a GPU                         | `python -m bench gpu` |
| watch one op while working on it                | `pytest bench/bench_linkage.py` |
| time to solve copy, beside other models         | `python -m bench run solve` |

harness/ is how anything is measured, reports/ what is made of results, bench_*.py the ops under
pytest-benchmark. gpu.py and gpu_kernels.py want a GPU. compile_kernels.py, copy_task.py,
narrow_checkpoints.py and usage_order.py are evidence for choices, each a command of its own.
"""
