"""A notebook as a page of the site: its text, its code, and the outputs that were saved in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path


def contents(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """The files that a notebook becomes, by their names: a page, and what its code drew."""
    page = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        page.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            shown, name = output.get("data", {}), f"{path.stem}_{number}"
            if "image/png" in shown:
                yield f"{name}.png", base64.b64decode("".join(shown["image/png"]))
                page.append(f"![Output]({name}.png)")
            elif "text/html" in shown:
                yield f"{name}.html", "".join(shown["text/html"])
                page.append(f'<iframe src="{name}.html" class="notebook"></iframe>')
            else:
                text = "".join(output.get("text", shown.get("text/plain", "")))
                page.append(f"```text\n{text}\n```")
    yield f"{path.stem}.md", "\n\n".join(page)
