"""Equations in LaTeX, as GitHub draws them, to MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert as to_mathml

MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.S
)


def convert(page: str) -> str:
    """Replace what the extension arithmatex marks as an equation."""

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return to_mathml(html.unescape(found["latex"]).strip(), display=display)

    return MARKED.sub(mathml, page)
