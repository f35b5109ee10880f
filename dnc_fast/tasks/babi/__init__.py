"""bAbI: stories with questions, from its files or generated.

task.py        the task: options, parts, batches, score
text.py        the vocabulary, the parser of the files
files.py       which file of a folder or archive holds which task
library.py     the stories of a part by length, and how often each is drawn
stories.py     generated stories
names.py       swaps names in stories; drill.py: shuffles facts and asks for each
published.py   the results of others
"""

from .task import BabiTask
from .text import VOCABULARY

__all__ = ["VOCABULARY", "BabiTask"]
