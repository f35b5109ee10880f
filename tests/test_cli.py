"""The command line: every command, in this process or, where it matters, in one of its own."""

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from runs import TINY_OPTIONS

from dnc_fast.cli import COMMANDS, main
from dnc_fast.cli.compiling import shown_compiling
from dnc_fast.compiling import tell
from dnc_fast.tasks import TASKS
from dnc_fast.training import Trainer, load_checkpoint, read_metrics
from dnc_fast.training.checkpoint import save_checkpoint
from dnc_fast.training.progress import takes_bar

TINY = [word for option in TINY_OPTIONS.items() for word in option]
PICTURES = {"learning_curve.png", "memory.png", "hidden.png", "gates.png", "contents.png"}


def command(*arguments):
    return [sys.executable, "-m", "dnc_fast", *map(str, arguments)]


def run(*arguments, status=0):
    """Run a command in this process, which spares an import; returns what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:  # of the parser
            code = end.code
    assert code == status, printed.getvalue()
    return printed.getvalue()


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_train_eval_show(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "run"
    printed = run("train", "copy", *TINY, "--max-steps", 10, "--out", out)
    assert "not solved after 10 steps" in printed
    assert re.search(r"4 held-out sequences: [\d.]+ bits wrong per sequence", printed)
    assert re.search(r"[\d.]+ % of it waiting for batches", printed)
    assert f"--out {out} --resume --max-steps 20" in printed
    assert names(out) == {"checkpoint.pt", "metrics.jsonl", *PICTURES}

    printed = run("train", "copy", "--out", out, "--resume", "--max-steps", 15, "--no-pictures")
    assert "after 15 steps" in printed
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")][-1] == 15

    printed = run("eval", out, "--task", "min_length=3", "max_length=3", "--num-cells", 9)
    assert "copy 3 vectors of 2 bits; 9 cells" in printed and "4 held-out" in printed
    assert "7 held-out" in run("eval", out, "--sequences", 7)

    pictures = tmp_path / "pictures"
    run("show", out / "checkpoint.pt", "--out", pictures)
    assert names(pictures) == PICTURES
    before = (out / "memory.png").read_bytes()
    run("show", out, "--seed", 9)
    assert names(out / "show") == PICTURES
    assert (out / "memory.png").read_bytes() == before, "the run's own pictures stay"


@pytest.mark.parametrize("linkage", [("sparse", "--link-fan-out", 2), ("separable",), ("none",)])
def test_linkages_train_resume_are_drawn_and_scored_with_others(tmp_path, linkage):
    pytest.importorskip("matplotlib")
    arguments = ("train", "copy", *TINY, "--linkage", *linkage, "--out", tmp_path)
    run(*arguments, "--read-topk", 3, "--write-topk", 2, "--max-steps", 5)
    assert {path.name for path in tmp_path.glob("*.png")} == PICTURES
    other = run(*arguments, "--resume", "--metrics", "csv", status=2)
    assert "--metrics must stay jsonl when a run is resumed, got csv" in other
    run(*arguments, "--resume", "--max-steps", 10, "--metrics", "jsonl", "--no-pictures")
    content = load_checkpoint(tmp_path)
    assert content["model"]["linkage"] == linkage[0] and content["progress"]["step"] == 10
    changed = run("train", "copy", "--out", tmp_path, "--resume", "--linkage", "dense", status=2)
    assert f"--linkage must stay {linkage[0]} when a run is resumed, got dense" in changed
    scores = [run("eval", tmp_path)]
    for other in ("dense", "sparse", "separable", "none"):
        again = run("eval", tmp_path, "--linkage", other, "--num-cells", 9, "--read-topk", 1)
        assert "9 cells" in again
        scores.append(again.rpartition("loss")[2])
    assert len(set(scores)) > 1
    short = run("eval", tmp_path, "--linkage", "separable", "--link-history", 1, status=2)
    assert "a separable link holds at most link_history=1 writes" in short
    bad = run("eval", tmp_path, "--read-topk", 0, status=2)
    assert "error: read_topk must be at least 1, got 0" in bad


def test_variants_train_and_are_scored(tmp_path):
    out = ("--out", tmp_path, "--no-pictures")
    chosen = ("--masked-lookup", "--mask-floor", 0.2, "--deallocate", "--link-sharpness")
    chosen += ("--similarity", "euclidean", "--allocation", "softmax")
    run("train", "copy", *TINY, *chosen, "--max-steps", 2, *out)
    model = load_checkpoint(tmp_path)["model"]
    assert model["masked_lookup"] and model["deallocate"] and model["link_sharpness"]
    assert (model["mask_floor"], model["similarity"], model["allocation"]) == (
        *(0.2, "euclidean", "softmax"),
    )
    run("train", "copy", *out, "--resume", "--deallocate", "--max-steps", 3)
    again = run("train", "copy", *out, "--resume", "--no-deallocate", status=2)
    assert "--deallocate must stay True when a run is resumed, got False" in again
    assert "held-out" in run("eval", tmp_path, "--linkage", "none")


def test_runs_from_before_an_option_have_its_default(tmp_path):
    run("train", "copy", *TINY, "--max-steps", 1, "--no-pictures", "--out", tmp_path)
    content = load_checkpoint(tmp_path)
    del content["model"]["linkage"]
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    again = ("train", "copy", "--out", tmp_path, "--resume", "--no-pictures", "--max-steps", 2)
    run(*again, "--linkage", "dense")
    assert "must stay dense" in run(*again, "--linkage", "none", status=2)


def test_interrupt_saves_and_exits_cleanly(tmp_path):
    arguments = ("train", "copy", *TINY, "--solved-at", 2, "--max-steps", 10**6, "--out", tmp_path)
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert errors == ""
    step = load_checkpoint(tmp_path)["progress"]["step"]
    assert f"stopped at step {step} and saved; to continue: dnc-fast train copy" in printed
    assert "--resume" in printed


TINY_SIZES = [*TINY[4:], "--num-cells", "4"]  # what every task takes
TINY_TASKS = {
    "priority-sort": ("--num-items", 3, "--num-sorted", 2),
    "characters": ("--chunk-length", 4, "--num-chunks", 2),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains_is_scored_and_drawn(name, tmp_path):
    pytest.importorskip("matplotlib")
    few = (*TINY_SIZES, *TINY_TASKS.get(name, ()), "--max-steps", 4, "--seed", 3)
    assert "not solved after 4 steps" in run("train", name, *few, "--out", tmp_path)
    is_graph = name in ("traversal", "shortest-path", "inference")
    expected = PICTURES | ({"graph.png", "reads.png"} if is_graph else set())
    expected |= {"reads.png"} if name == "shrdlu" else set()
    expected -= {"gates.png"} if name in ("key-value", "shrdlu") else set()  # without an LSTM
    assert names(tmp_path) == {"checkpoint.pt", "metrics.jsonl", *expected}
    printed = run("eval", tmp_path)
    published = {
        "characters": "bits per character",
        "echo": "% of bits right",
        "babi": "% of questions right",
        "graphs-in-words": "% of questions right",
    }
    first, model, guessing = printed.splitlines()[:3]
    assert first.endswith("seed 3") and guessing.startswith("by guessing: ")
    for line in (model, guessing):
        assert published.get(name, "% of sequences right") in line


def test_tasks_are_listed_a_line_each():
    lines = run("tasks").splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    assert all(len(line) < 120 and len(line.split()) > 5 for line in lines)


def test_several_seeds_make_a_table_and_go_on_in_parts(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    few = ("train", "copy", *TINY, "--max-steps", 3, "--no-pictures", "--seeds", 3, "--seed", 5)
    printed = run(*few, "--out", whole)
    table = (whole / "summary.md").read_text()
    assert printed.endswith(table)
    labels = [line.split("|")[1].strip() for line in table.splitlines()[4:]]
    assert labels == ["5", "6", "7", "mean", "standard deviation"]

    again = (*few, "--out", parts, "--max-minutes", 1e-9)
    printed, calls = run(*again), 1
    while not (parts / "summary.md").exists() and calls < 20:
        assert f"--out {parts} --seeds 3 --resume" in printed
        printed, calls = run(*again, "--resume"), calls + 1
    assert calls == 7  # a step each, the last of a seed ends it, and a last call for the table
    for seed in (5, 6, 7):
        metrics = f"seed-{seed}/metrics.jsonl"
        assert (whole / metrics).read_bytes() == (parts / metrics).read_bytes()


def test_data_workers_are_chosen(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Trainer, "train", lambda *args, **options: asked.append(options))
    few = ("train", "copy", *TINY, "--no-pictures")
    for number, more in enumerate(((), ("--data-workers", "auto"), ("--data-workers", 2))):
        run(*few, "--out", tmp_path / str(number), *more)
    assert [options["data_workers"] for options in asked] == [None, None, 2]
    printed = run(*few, "--data-workers", "-1", status=2)
    assert "must be auto, or an integer of at least 0, got -1" in printed


def test_out_of_time_is_told_and_gone_on_with(tmp_path):
    arguments = ("train", "echo", "--out", tmp_path, "--no-pictures", "--hidden-size", 8)
    printed = run(*arguments, "--max-minutes", 0.002, "--solved-at", 2, "--progress", "off")
    step = load_checkpoint(tmp_path)["progress"]["step"]
    assert f"out of time at step {step} and saved; to continue: dnc-fast train echo" in printed
    none = run(*arguments, "--resume", "--max-minutes", 0, status=2)
    assert "--max-minutes must be finite, above 0, got 0" in none


def test_tensorboard_gets_the_rows_of_the_metrics(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arguments = ("train", "copy", *TINY, "--tensorboard", "--no-pictures", "--out", tmp_path)
    run(*arguments, "--max-steps", 6)
    run(*arguments, "--resume", "--max-steps", 12)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    curve = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert curve == [(row["step"], pytest.approx(row["loss"])) for row in rows]
    assert [event.step for event in events.Scalars("evaluation/solved")] == [5, 10]


def test_missing_tensorboard_is_named_with_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    printed = run("train", "copy", *TINY, "--tensorboard", "--out", tmp_path, status=2)
    assert "`pip install tensorboard` installs it" in printed


def test_info_names_versions_and_backends():
    printed = run("info")
    for word in ("dnc_fast", "python", "torch", "triton", "threads", "backends", "reference"):
        assert word in printed


@pytest.mark.parametrize(
    "arguments", [(), ("train",), ("train", "copy"), ("eval",), ("show",), ("tasks",)]
)
def test_help(arguments):
    printed = run(*arguments, "--help")
    assert "usage: dnc-fast" in printed and "None" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "juggle"), "invalid choice: 'juggle'"),
        (("train", "copy", "--max-length", 0), "max_length must be at least 1, got 0"),
        (("train", "copy", "--learning-rate", "nan"), "learning_rate must be finite"),
        (("train", "copy", "--device", "gpu"), "--device must name a device"),
        (("train", "copy", "--resume"), "there is no checkpoint"),
        (("train", "copy", "--seeds", 0), "--seeds must be at least 1, got 0"),
        (("train", "characters", "--file", "no.txt"), "file must name a text file, got 'no.txt'"),
        (("eval", "nowhere"), "there is no checkpoint nowhere"),
        (("show", "setup.cfg"), "setup.cfg is not a dnc_fast checkpoint"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.cfg").write_text("[metadata]\n")
    assert message in run(*arguments, status=2)
    assert not (tmp_path / "runs").exists()


def test_resume_refuses_another_run(tmp_path):
    run("train", "copy", *TINY, "--max-steps", 1, "--no-pictures", "--out", tmp_path)
    again = ("train", "copy", "--out", tmp_path)
    assert "holds a run already; continue it with --resume" in run(*again, status=2)
    changed = run(*again, "--resume", "--hidden-size", 9, status=2)
    assert "--hidden-size must stay 8 when a run is resumed, got 9" in changed
    other = run("train", "mapping", "--out", tmp_path, "--resume", status=2)
    assert "holds a run of the task 'copy', got 'mapping'" in other
    wrong = run("eval", tmp_path, "--task", "max_length=long", status=2)
    assert "--task max_length takes int, got 'long'" in wrong
    unknown = run("eval", tmp_path, "--task", "bits=3", status=2)
    assert "--task takes NAME=VALUE, where NAME is one of min_length, max_length" in unknown
    misspelt = run("eval", tmp_path, "--task", "min_lenght=3", status=2)
    assert "got 'min_lenght=3'; did you mean min_length?" in misspelt


def test_compile_for_a_gpu_elsewhere(tmp_path):
    pytest.importorskip("triton", minversion="3.6")
    run_folder, out = tmp_path / "run", tmp_path / "kernels"
    sizes = ("--num-cells", 5, "--controller", "feedforward", "--max-steps", 1, "--no-pictures")
    run("train", "copy", *TINY, *sizes, "--out", run_folder)
    words = ("compile", run_folder, "--target", "sm_90", "--out", out)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command(*words), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count = int(re.search(r"compiling (\d+) GPU kernels, only this once", done.stderr)[1])
    assert f"{count} of {count} kernels for sm_90 are in {out}" in done.stdout
    assert len(list(out.glob("*/*.cubin"))) == count > 2


def test_compile_says_what_is_wrong(tmp_path, monkeypatch):
    pytest.importorskip("triton", minversion="3.6")
    words = ("compile", "--out", tmp_path)
    assert "--target" in run(*words, status=2)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET must not be set" in run(*words, "--target", "sm_90", status=2)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "named like sm_90 or gfx942, got 'h100'" in run(*words, "--target", "h100", status=2)
    assert "hidden_size" in run(*words, "--target", "sm_90", "--hidden-size", 0, status=2)


def test_compiling_is_shown_while_training(capsys, monkeypatch):
    with shown_compiling():
        tell("GPU kernels", 0, 7)
        tell("GPU kernels", 7, 7)
    said = capsys.readouterr().err
    assert "compiling GPU kernels, only this once" in said and "compiled GPU kernels in" in said
    with shown_compiling(False):
        tell("GPU kernels", 0, 7)
    assert capsys.readouterr().err == ""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with shown_compiling():
        tell("GPU kernels", 0, 7)
        tell("GPU kernels", 7, 7)
    assert "compiling GPU kernels, only this once:" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "bar"), [(80, True), (0, False)])
def test_a_terminal_without_columns_gets_lines(columns, bar):
    """A bar would be invisible there."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(master), open(slave, "w") as terminal:
        assert takes_bar(terminal) == bar


# Messages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "dnc-fast: error: .*'trian'.*did you mean train?"),
        (("train", "coppy"), "dnc-fast train: error: .*did you mean copy?"),
        (("train", "copy", "--hiden-size", 3), "train copy: error: .*did you mean --hidden-size?"),
        (("train", "copy", "--controller", "lst"), "did you mean lstm?"),
        (("train", "copy", "--hidden-size", "x"), "argument --hidden-size: invalid int value: 'x'"),
        (("--verison",), "did you mean --version?"),
        (("compile",), "required: --target, --out\n"),
        (("compile", "--tarjet", "sm_90"), "required: --target, --out; did you mean --target?"),
        (("train", "copy", "--preset", "paper"), "only babi, .* have presets, got paper\n"),
    ],
)
def test_the_nearest_word_is_named(words, message):
    printed = run(*words, status=2)
    assert re.search(message.replace("?", r"\?"), printed) and "--help` lists" in printed


def test_out_must_be_a_folder(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "run"):
        printed = run("train", "copy", *TINY, "--out", out, status=2)
        assert f"--out must name a folder, got {out}: {file} is a file" in printed


def test_a_finished_run_says_why_there_is_nothing_to_train(tmp_path):
    arguments = ("train", "copy", *TINY, "--out", tmp_path, "--no-pictures")
    run(*arguments, "--max-steps", 5)
    printed = run(*arguments, "--resume", "--max-steps", 5)
    assert "nothing to train: the run has already taken its 5 steps; --max-steps 10" in printed
    solved = tmp_path / "solved"
    easy = ("--max-length", 1, "--num-bits", 1, "--solved-at", 0.2, "--solved-evaluations", 1)
    run("train", "copy", *TINY, *easy, "--out", solved, "--no-pictures")
    printed = run("train", "copy", "--out", solved, "--no-pictures", "--resume")
    assert "nothing to train: the run was solved at step 5 (1 solved evaluations" in printed


def test_options_without_effect_are_named_once(tmp_path):
    arguments = ("train", "copy", *TINY, "--max-steps", 1, "--no-pictures", "--out", tmp_path)
    printed = run(*arguments, "--link-fan-out", 3)
    assert printed.count("note: link_fan_out is an option of linkage") == 1


def test_a_reader_that_has_had_enough(tmp_path):
    """As `dnc-fast info | head -1`: no message, and the status of a broken pipe."""
    process = subprocess.Popen(
        command("tasks"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), 1),
        (("--hidden-size", 512), 3),
        (("--num-cells", 400), 3),
        (("--num-cells", 400, "--linkage", "sparse"), 1),
        (("--hidden-size", 512, "--threads", 2), 2),
        (("--threads", "auto"), 1),
    ],
)
def test_threads_suit_the_model(tmp_path, monkeypatch, options, expected):
    """One for small models, and for others as many as torch takes."""
    seen = []
    monkeypatch.setattr(
        Trainer, "train", lambda self, *_, **__: seen.append(torch.get_num_threads())
    )
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run("train", "copy", *options, "--max-minutes", 1, "--no-pictures", "--out", tmp_path)
    finally:
        torch.set_num_threads(before)
    assert seen == [expected]


def test_number_of_threads_is_checked():
    for wrong in ("0", "-1", "many", "1.5"):
        printed = run("train", "copy", f"--threads={wrong}", status=2)
        assert "must be auto, or an integer of at least 1" in printed


def test_info_says_where_kernels_are_kept(tmp_path):
    pytest.importorskip("numba")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for folder, words in ((tmp_path, "MB in all\n"), ("/dev/null", "it is not writable")):
        environment["NUMBA_CACHE_DIR"] = str(folder)
        done = subprocess.run(command("info"), capture_output=True, text=True, env=environment)
        (line,) = [line for line in done.stdout.splitlines(True) if line.startswith("cpu kernels")]
        assert f"{folder}/kernels-" in line and words in line


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_what_needs_no_torch_does_not_import_it(arguments):
    code = f"""
import sys
from dnc_fast.cli import COMMANDS, main
try:
    main({list(arguments)!r})
finally:
    assert not {{"torch", "numpy", "numba"}} & set(sys.modules)
"""
    assert (
        "dnc"
        in subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def test_every_command_is_listed_and_has_its_options():
    printed = run("--help")
    for name, (what, _) in COMMANDS.items():
        assert re.search(rf"^    {name} +{re.escape(what)}$", printed, re.M)
        assert "usage: dnc-fast" in run(name, "--help")


def test_interrupt_while_importing():
    """Ctrl-C ends with a line, not with a traceback, also within torch's import."""
    code = (
        "import sys; from dnc_fast.cli import main; print(1, flush=True); sys.exit(main(['info']))"
    )
    for delay in (0.01, 0.3, 0.6):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) in ((130, "dnc-fast: interrupted\n"), (0, ""))


def test_compiling_is_shown_and_not_counted(tmp_path):
    pytest.importorskip("numba")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    arguments = [
        "train",
        "copy",
        *TINY,
        "--linkage",
        "separable",
        "--max-steps",
        2,
        "--no-pictures",
    ]
    arguments[arguments.index("off")] = "lines"
    for number, shown in enumerate((True, False)):
        done = subprocess.run(
            command(*arguments, "--out", tmp_path / str(number)),
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert ("compiling CPU kernels, only this once" in done.stderr) == shown
        assert (
            re.search(r"^compiled CPU kernels in \d+ s$", done.stderr, re.M) is not None
        ) == shown
        seconds = load_checkpoint(tmp_path / str(number))["progress"]["seconds"]
        assert seconds < 2


def test_a_run_begins_with_what_it_will_do(tmp_path):
    arguments = ("train", "copy", *TINY, "--no-pictures", "--progress", "lines", "--out", tmp_path)
    planned = r"^copy 1 to 2 vectors of 2 bits: [\d,]+ parameters on cpu, "
    often = ", an evaluation every 5 steps$"
    printed = run(*arguments, "--max-steps", 1)
    assert re.search(f"{planned}at most 1 step{often}", printed, re.M)
    printed = run(*arguments, "--max-steps", 2, "--resume")
    assert re.search(f"{planned}from step 1 on, at most 2 steps{often}", printed, re.M)
    assert not re.search(planned, run(*arguments, "--resume"), re.M)  # there is nothing to do
