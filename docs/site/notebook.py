"""A notebook as a page of the site: its text, its code, and the outputs that were saved in it."""

from __future__ import annotations
