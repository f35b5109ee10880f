"""bAbI: stories with questions, from its files or generated.

task.py        the task: options, parts, batches, score
text.py        words, vocabulary, the parser of the files
files.py       which file of a folder or archive holds which task
library.py     the stories of a part by length, and how often each is drawn
stories.py     generated stories
names.py       swaps names in stories; drill.py: shuffles facts and asks for each
encoding.py    stories as batches
published.py   the results of others
"""

from .encoding import encode, hear
from .task import BabiTask
from .text import ANSWER, VOCABULARY, BabiError, Story, check_words, split_words

__all__ = [
    "ANSWER",
    "VOCABULARY",
    "BabiError",
    "BabiTask",
    "Story",
    "check_words",
    "encode",
    "hear",
    "split_words",
]
