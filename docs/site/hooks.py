"""What the site adds to MkDocs: pages from outside docs/, and pages made from code.

Links are written as they work in the repository. Here a link to a file outside docs/ leads to a
copy of that file in the site; one to a function, as `../dnc_fast/dnc.py#DNC`, to its place in the
API.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import api
import math_ml
import notebook
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent.parent
HOME = {"README.md": "index.md"}
SHOWN = {".md", ".png"}
"""Kinds of files that are a page or a picture of the site; of others, the text is shown as code."""

LINK = re.compile(r"(\]\()([^)#\s]*)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```.*?^```\s*?$)", re.M | re.S)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API in the place of `api/` in the navigation."""
    for section in config.nav:
        for title, place in section.items():
            if place == "api/":
                section[title] = [api.HOME, *sorted(set(api.pages(ROOT)) - {api.HOME})]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked from outside docs/, and from what is added, and the API."""
    for name, text in api.pages(ROOT).items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "docs").rglob("*.ipynb")):
        folder = path.relative_to(ROOT / "docs").parent
        for name, content in notebook.contents(path):
            files.append(File.generated(config, (folder / name).as_posix(), content=content))
    waiting = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        *(f"docs/{file.src_uri}" for file in files.documentation_pages() if not file.generated_by),
    ]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith("docs/"):
            files.append(outside(config, path))
        if path.endswith(".md"):
            text = FENCE.sub("", (ROOT / path).read_text())
            waiting += [there for link in LINK.finditer(text) if (there := target(path, link[2]))]
    return files


def target(page: str, link: str) -> str | None:
    """The file of the repository that a link on a page leads to; None: another page or place."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return path if link and "://" not in link and (ROOT / path).is_file() else None


def outside(config: MkDocsConfig, path: str) -> File:
    """The file of the site for a file of the repository outside docs/."""
    if Path(path).suffix in SHOWN:
        return File.generated(config, place(path), abs_src_path=str(ROOT / path))
    language = {".py": "python"}.get(Path(path).suffix, "text")
    text = f"# {path}\n\n````{language}\n{(ROOT / path).read_text()}\n````\n"
    hidden = InclusionLevel.NOT_IN_NAV
    return File.generated(config, place(path), content=text, inclusion=hidden)


def place(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    return HOME.get(path, path if Path(path).suffix in SHOWN else f"{path}.md")


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    origin = next((path for path, name in HOME.items() if name == here), None)
    origin = origin or (here if (ROOT / here).is_file() else f"docs/{here}")

    def turned(link: re.Match[str]) -> str:
        path = target(origin, link[2])
        if path is None:
            return link[0]
        there, anchor = place(path), link[3] or ""
        if found := api.place(ROOT, path, anchor.removeprefix("#")):
            there, anchor = found
        return (
            f"{link[1]}{posixpath.relpath(there, posixpath.dirname(here) or '.')}{anchor}{link[4]}"
        )

    parts = FENCE.split(markdown)  # every second one is a block of code
    return "".join(part if n % 2 else LINK.sub(turned, part) for n, part in enumerate(parts))


def on_page_content(html: str, page: Any, **others: Any) -> str:
    """Equations as MathML, which browsers draw by themselves; docstrings with links to pages."""
    return math_ml.convert(api.link_pages(html) if page.file.src_uri.startswith("api/") else html)
