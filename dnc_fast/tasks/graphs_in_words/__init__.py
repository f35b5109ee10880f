"""Questions on graphs, told and asked in short English sentences.

task.py      the task: options, lessons, parts, batches
railway.py   stations and lines: random ones, parts of the Underground, what is told and asked
family.py    people and their parents: random ones, parts of a known family, likewise
"""

from .task import GraphsInWordsTask

__all__ = ["GraphsInWordsTask"]
