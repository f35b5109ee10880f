"""The interactive page: what is embedded, that nothing escapes, and that it runs in a browser."""

from __future__ import annotations

import base64
import html
import html.parser
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import trained

from dnc_fast import DNC
from dnc_fast.cli import main
from dnc_fast.cli.look import write_page
from dnc_fast.pictures import Graph, Transcript, viewer_page
from dnc_fast.pictures.reads import triples_read
from dnc_fast.pictures.viewer import encode
from dnc_fast.tasks import BabiTask, CopyTask, TraversalTask

T, X, Y, N, W, R, HW = 9, 5, 3, 6, 4, 2, 2
SHOWN = (
    *("write_weights", "read_weights", "allocation_weights", "write_gates", "allocation_gates"),
    *("free_gates", "read_modes", "write_strengths", "read_strengths", "erase_vectors"),
    "write_vectors",
)
HOSTILE = "</script x></script><script>window.hacked = 1</script><!-- &lt; {{script}} \u2028"


def model(cells=N):
    torch.manual_seed(0)
    return DNC(X, Y, num_cells=cells, cell_size=W, num_read_heads=R, num_write_heads=HW)


def sequence(cells=N):
    """The arguments of viewer_page but the title."""
    generator = torch.Generator().manual_seed(1)
    inputs = 3 * torch.randn(T, X, generator=generator)
    with torch.no_grad():
        outputs, _, trace = model(cells)(inputs, return_trace=True)
    targets = (torch.rand(T, Y, generator=generator) > 0.5).float()
    mask = torch.arange(T) >= 5
    return {"inputs": inputs, "outputs": outputs.sigmoid(), "targets": targets, "mask": mask} | {
        "trace": trace
    }


class Reader(html.parser.HTMLParser):
    """The elements of a page, and the text within those that have an id, and scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "input"):
            self._open.append(dict(attributes).get("id", tag))

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, text):
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + text

    @property
    def data(self):
        return json.loads(self.texts["data"])


def decode(array):
    values = np.frombuffer(base64.b64decode(array["data"]), np.dtype(array["type"]))
    return torch.from_numpy(values.reshape(array["shape"]).astype(np.float32))


def test_the_page_holds_the_trace():
    given = sequence()
    data = Reader(viewer_page(**given, title="title")).data
    arrays = {name: decode(array) for name, array in data["arrays"].items()}
    for name in SHOWN:
        assert torch.equal(arrays[name], getattr(given["trace"], name).half().float()), name
    assert torch.equal(arrays["usage"][:, 0], given["trace"].usage.half().float())
    for name in ("inputs", "outputs", "targets", "mask"):
        assert torch.equal(arrays[name], given[name].half().float()), name
    wrong = ((given["outputs"] > 0.5) != (given["targets"] > 0.5)) & given["mask"][:, None]
    assert torch.equal(arrays["wrong"].bool(), wrong) and wrong.any()
    assert (data["steps"], data["cells"], data["links"]) == (T, N, True)


def test_bits_take_a_byte_and_no_value_is_rounded_to_one():
    assert encode(torch.tensor([0.0, 1.0, 255.0]))["type"] == "uint8"
    for value in (0.5, -1.0, 256.0, float("nan"), float("inf")):
        array = encode(torch.tensor([0.0, value]))
        assert array["type"] == "float16"
        assert torch.equal(decode(array).nan_to_num(7.0), torch.tensor([0, value]).nan_to_num(7.0))


def test_a_large_memory_is_shown_without_contents_by_the_largest_of_neighbours():
    given = sequence(cells=600)
    data = Reader(viewer_page(**given, title="title")).data
    assert (data["cells"], data["pool"], data["contents"], data["links"]) == (600, 3, False, False)
    assert "write_vectors" not in data["arrays"]
    largest = given["trace"].read_weights.unflatten(2, (200, 3)).amax(3)
    assert torch.equal(decode(data["arrays"]["read_weights"]), largest.half().float())


def test_the_graph_holds_what_each_head_reads(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # which the page does not need
    given = sequence()
    told = [("a", "x", "b"), ("b", "y", "c"), ("c", "x", "a")]
    data = Reader(
        viewer_page(**given, title="", graph=Graph(told, told[:1], [("a", "z", "#7")]))
    ).data
    assert data["graph"]["nodes"] == ["a", "b", "c", "#7"]
    assert data["graph"]["told"] == [[0, "x", 1], [1, "y", 2], [2, "x", 0]]
    assert data["graph"]["answered"] == [[0, "z", 3]]
    trace = given["trace"]
    shares = triples_read(trace.read_weights, trace.write_weights.sum(1), 3)
    assert torch.equal(decode(data["arrays"]["triple_shares"]), shares.half().float())
    assert decode(data["arrays"]["places"]).shape == (4, 2)


def test_nothing_is_loaded_and_no_text_becomes_markup():
    words = Transcript([HOSTILE] * T, ["<img src=x onerror=alert(1)>"] * T, ["&amp;"] * T)
    page = viewer_page(**sequence(), title=HOSTILE, transcript=words)
    seen, plain = Reader(page), Reader(viewer_page(**sequence(), title="", transcript=words))
    assert seen.tags == plain.tags, "a text of the user's became an element"
    assert seen.texts["title"] == seen.texts["h1"] == HOSTILE
    assert seen.data["words"] == {name: list(texts) for name, texts in words._asdict().items()}
    assert not any({"src", "href", "onerror"} & attributes.keys() for _, attributes in seen.tags)
    ours = page.replace(seen.texts["data"], "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|import\(", ours)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"trace": "x"}, TypeError, "trace must be a dnc_fast.Trace, got str"),
        ({"mask": torch.ones(T + 1)}, ValueError, "mask"),
        (
            {"transcript": Transcript([""] * T, [""] * (T - 1), [""] * T)},
            ValueError,
            "transcript.wanted must hold a text for each of 9 steps, got 8",
        ),
        ({"graph": Graph([], [], [])}, ValueError, "graph.told must hold .* of 9 steps.* got 0"),
        ({"graph": Graph([("a", "x", "b")] * T, [], [])}, ValueError, "not for all, got 9"),
    ],
)
def test_mistakes_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        viewer_page(**(sequence() | changes), title="title")


def test_show_writes_the_page(tmp_path, capsys):
    trained(tmp_path / "run", model={"backend": "eager"}, max_steps=2)
    assert main(["show", str(tmp_path / "run"), "--html"]) == 0
    page = tmp_path / "run/show/viewer.html"
    assert capsys.readouterr().out.strip().endswith(str(page))
    other = tmp_path / "new/one.html"
    assert main(["show", str(tmp_path / "run"), "--linkage", "none", "--html", str(other)]) == 0
    seen, unlinked = (Reader(path.read_text(encoding="utf-8")).data for path in (page, other))
    assert (seen["links"], unlinked["links"]) == (True, False)
    assert main(["show", str(tmp_path / "run"), "--html", str(tmp_path)]) != 0
    assert f"--html must name a file, got the folder {tmp_path}" in capsys.readouterr().err


# In a browser


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium or Chrome to open the page with"
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--virtual-time-budget=5000", "--window-size=1280,900", "--dump-dom"),
)


def opened(folder, page, address="", script=""):
    """The page after its scripts, and one of the test's, have run in a browser."""
    found = folder / "page.html"
    found.write_text(page.replace("</body>", f"<script>{script}</script></body>"))
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"{found.as_uri()}{address}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = Reader(done.stdout)
    errors = next(attributes for _, attributes in seen.tags if attributes.get("id") == "errors")
    assert "hidden" in errors, seen.texts["errors"]
    return seen


TELL = """
function tell(result) {
  const told = Object.assign(document.createElement("pre"), { id: "told" });
  told.textContent = JSON.stringify(result);
  document.body.append(told);
}
"""


@in_browser
def test_the_page_rebuilds_memory_and_links_and_takes_no_text_for_markup(tmp_path):
    words = Transcript([HOSTILE] * T, ["<b>x</b>"] * T, ["<img src=x>"] * T)
    given = sequence() | {"title": HOSTILE, "transcript": words}
    states, state = [], None
    with torch.no_grad():
        for step in given["inputs"].split(1):
            _, state = model()(step, state)
            states.append(state.memory)
    script = """
      const at = (step) => [contentsAt(step).memory, contentsAt(step).links].map((one) => [...one]);
      const title = document.querySelector("h1").textContent, images = document.images.length;
      tell([[3, 8, 1].map(at), title, images, window.hacked ?? null]);  // ahead and back
    """
    seen = opened(tmp_path, viewer_page(**given), script=TELL + script)
    contents, *others = json.loads(seen.texts["told"])
    assert others == [HOSTILE, 0, None]
    for step, (memory, link) in zip((3, 8, 1), contents, strict=True):
        # What the page starts from is rounded to 11 bits, and at most 9 steps add up.
        for found, true in ((memory, states[step].memory), (link, states[step].link)):
            true = true.flatten()
            error = (torch.tensor(found) - true).norm() / true.norm()
            assert error < 9 * 2**-11


DRIVE = """
const canvases = document.querySelectorAll("aside section > canvas");
const pictures = () => [...canvases].map((one) => one.toDataURL()).join();
const press = (key) =>
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const result = { start: now, heading: document.querySelector("aside h2").textContent };
const before = pictures();
press("ArrowRight");
result.key = now;
result.changed = pictures() !== before;
press("ArrowLeft");
result.back = pictures() === before;
slider.value = 7;
slider.dispatchEvent(new Event("input"));
result.slider = now;
result.text = document.getElementById("step").textContent;
const titled = (panel) => panel.plot.parentElement.textContent.startsWith("write weighting");
const panel = panels.find(titled);
const box = panel.plot.getBoundingClientRect();
const place = {
  clientX: box.left + (4.5 / STEPS) * box.width,
  clientY: box.top + (0.5 / CELLS) * box.height,
};
panel.plot.dispatchEvent(new PointerEvent("pointermove", place));
result.tip = document.getElementById("tip").textContent;
panel.plot.dispatchEvent(new PointerEvent("pointermove", { ...place, buttons: 1 }));
result.dragged = now;
const cursor = panel.cursor.getBoundingClientRect();
result.cursor = (cursor.left - box.left) / cursor.width;
const themed = pictures();
document.getElementById("theme").click();
result.theme = pictures() !== themed;
press("Home");
result.first = now;
press(" ");
setTimeout(() => { result.played = now; press(" "); location.hash = "#t=2"; }, 900);
setTimeout(() => {
  result.address = now;
  const parts = document.querySelectorAll("html, aside, section, .panel, .side, td");
  result.cut = [...parts].filter((one) => one.scrollWidth > one.clientWidth)
    .map((one) => one.textContent.slice(0, 40));
  tell(result);
}, 1500);
"""


@in_browser
@pytest.mark.parametrize("task", [CopyTask(6, 6, num_bits=2), BabiTask(), TraversalTask()], ids=str)
def test_one_walks_through_a_sequence(tmp_path, task):
    torch.manual_seed(0)
    dnc = DNC(
        task.input_size,
        16,
        num_cells=8,
        cell_size=4,
        num_read_heads=2,
        output_size=task.output_size,
    )
    write_page(dnc, task, seed=0, path=tmp_path / "written.html")
    page = (tmp_path / "written.html").read_text()
    assert len(page) < 500_000
    arrays = {name: decode(array) for name, array in Reader(page).data["arrays"].items()}
    steps = len(arrays["mask"])
    seen = opened(tmp_path, page, "#t=5", TELL + DRIVE)
    told = json.loads(seen.texts["told"])
    graph = isinstance(task, TraversalTask)
    assert told["heading"].startswith("graph: triple 6" if graph else "memory M after step 5")
    assert told["start"] == 5 and told["key"] == 6 and told["slider"] == 7
    assert told["text"] == f"step 7 of {steps - 1}"
    assert told["changed"] and told["back"] and told["theme"]
    assert told["tip"].startswith("step 4")
    assert told["tip"].endswith(f"cell 0: {arrays['write_weights'][4, 0, 0]:.3f}")
    assert told["cursor"] == pytest.approx(4, abs=0.01)
    assert told["dragged"] == 4 and told["first"] == 0 and told["address"] == 2
    assert told["played"] in (3, 4, 5), "five steps a second"
    assert told["cut"] == [], "too wide for a window of 1280 pixels"


FRAMED = """
setTimeout(() => {
  const inside = document.querySelector("iframe").contentDocument;
  tell([inside.getElementById("errors").hidden, inside.getElementById("step").textContent]);
}, 1500);
"""


@in_browser
def test_the_page_works_in_a_frame_of_a_notebook(tmp_path):
    """Which has no address that the page could change."""
    frame = f'<iframe srcdoc="{html.escape(viewer_page(**sequence(), title="framed"))}"></iframe>'
    page = f'<body><div id="errors" hidden></div>{frame}</body>'
    seen = opened(tmp_path, page, script=TELL + FRAMED)
    assert json.loads(seen.texts["told"]) == [True, f"step 0 of {T - 1}"]
