"""Stories with questions, told word by word: what the tasks of this kind share.

text.py      words, a vocabulary, a story
encoding.py  stories as batches
task.py      a task of stories: words, scores by question
"""

from .encoding import encode, hear
from .task import StoryTask
from .text import ANSWER, Question, Sentence, Story, StoryError, Vocabulary

__all__ = [
    "ANSWER",
    "Question",
    "Sentence",
    "Story",
    "StoryError",
    "StoryTask",
    "Vocabulary",
    "encode",
    "hear",
]
