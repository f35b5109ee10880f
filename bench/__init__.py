"""Measurements: everything that README and docs/ claim, and the commands that produced it.

| to                                                  | |
|-----------------------------------------------------|-|
| measure everything here, or continue                | `python -m bench run` |
| write the tables and plots, or check them           | `python -m bench tables [--check]` |
| compare two result files                            | `python -m bench compare A B` |
| do everything that needs a GPU                      | `python -m bench gpu` |
| time one op while working on it                     | `pytest bench/bench_linkage.py` |
| train large memories with every linkage             | `python -m bench run large` |
| measure the time to solve copy, with other models   | `python -m bench run solve` |

harness/ is how everything is measured, reports/ what is made of results, bench_*.py the ops under
pytest-benchmark. gpu.py and gpu_kernels.py need a GPU. compile_kernels, copy_task, key_value,
narrow_checkpoints and usage_order are evidence for choices, each a command of its own.
"""
