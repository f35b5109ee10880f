"""Lessons that are ranges of a task's options, as the DNC paper lists them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from ..checks import check_integer
from .base import Task

Lesson = tuple[tuple[int, int], ...]


class RangedTask(Task):
    """A task of which each lesson is a range for each of some pairs of options."""

    LESSONS: ClassVar[tuple[Lesson, ...]]
    """From easy to hard."""

    RANGES: ClassVar[tuple[tuple[str, str], ...]]
    """The options for the least and the greatest value, in the order of a lesson's ranges."""

    def check_ranges(self) -> None:
        """Raise unless each range is one of positive integers."""
        for low, high in self.RANGES:
            check_integer(low, getattr(self, low), minimum=1)
            check_integer(high, getattr(self, high), minimum=getattr(self, low))

    def lessons(self) -> tuple[Task, ...]:
        """Those of the paper's lessons that are within the task's ranges, then the task itself."""
        present = tuple((getattr(self, low), getattr(self, high)) for low, high in self.RANGES)
        earlier = (
            replace(self, **self.lesson_options(lesson))
            for lesson in self.LESSONS
            if lesson != present
            and all(high <= most for (_, high), (_, most) in zip(lesson, present, strict=True))
        )
        return (*earlier, self)

    @classmethod
    def lesson_options(cls, lesson: Lesson) -> dict[str, Any]:
        """The options that one of the lessons sets."""
        pairs = zip(cls.RANGES, lesson, strict=True)
        return {name: end for names, ends in pairs for name, end in zip(names, ends, strict=True)}
