"""Language models write: what they read, what they draw, words, and what is refused."""

import re

import pytest
import torch
from test_models import run
from torch import nn

from dnc_fast import DNC
from dnc_fast.models import MODELS
from dnc_fast.presets import model_config
from dnc_fast.tasks import CharactersTask
from dnc_fast.tasks.text import UNKNOWN, join_text, read_text, split_text
from dnc_fast.training import CheckpointError, Trainer, load_checkpoint, save_checkpoint, write

TEXT = "abcd " * 100
FEW = ("--hidden-size", 8, "--batch-size", 2, "--chunk-length", 4, "--num-chunks", 2)
FEW += ("--max-steps", 2, "--evaluation-size", 2, "--progress", "off", "--no-pictures")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT + "A cat, a dog (and a dog's bone): a cat! " * 10)
    return str(path)


class Successor(nn.Module):
    """Is almost sure of the next symbol of the alphabet, and counts its steps in its state."""

    config = None

    def __init__(self, size):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.size, self.states = size, []

    def forward(self, inputs, state=None):
        self.states.append((len(inputs), state))
        return 3 * inputs.roll(1, -1), (state or 0) + len(inputs)


def tasks_of(text_file):
    return CharactersTask(text_file, chunk_length=4, num_chunks=2)


def test_the_most_likely_symbol_follows_and_the_state_is_carried(text_file):
    task = tasks_of(text_file)
    model = Successor(len(task.alphabet))
    place = task.alphabet.index("a")
    assert write(model, task, "cda", 3, temperature=0) == "cda" + task.alphabet[place + 1 :][:3]
    assert model.states == [(3, None), (1, 3), (1, 4)]


def test_what_is_drawn_follows_the_temperature_and_the_seed(text_file):
    task = tasks_of(text_file)
    model = Successor(len(task.alphabet))
    place = task.alphabet.index("a")

    def share_of_successors(temperature, seed=0):
        written = write(model, task, "a", 500, temperature, seed)
        places = torch.tensor([task.alphabet.index(symbol) for symbol in written])
        return written, ((places[1:] - places[:-1]) % len(task.alphabet) == 1).float().mean()

    for temperature in (0.5, 1.0, 2.0):
        sure = torch.tensor(3 / temperature).exp()
        expected = sure / (sure + len(task.alphabet) - 1)
        assert share_of_successors(temperature)[1] == pytest.approx(float(expected), abs=0.07)
    assert share_of_successors(1e-30)[1] == 1.0
    text = share_of_successors(1.0)[0]
    assert text == share_of_successors(1.0)[0] != share_of_successors(1.0, seed=1)[0]
    assert text[0] == "a" and task.alphabet[place] == "a"
    firsts = {write(model, task, "", 1, 0, seed)[0] for seed in range(20)}
    assert len(firsts) > 3, "without a prompt the first symbol is drawn"


@pytest.mark.parametrize("name", ["dnc", "gru", "ntm", "transformer"])
def test_one_symbol_at_a_time_equals_reading_the_whole(name, text_file):
    task = tasks_of(text_file)
    model = MODELS[name].from_config(model_config(task, name, hidden_size=8))
    written = write(model, task, "abc", 12, temperature=0)
    assert written.startswith("abc") and len(written) == 15
    with torch.no_grad():
        outputs, _ = model(task.encode(written).unsqueeze(1))
    expected = [task.alphabet[place] for place in outputs[2:-1, 0].argmax(-1).tolist()]
    assert written[3:] == "".join(expected)


def test_words_are_cut_and_joined():
    text = "A dog's bone (or two), 'tis said: no; 3.5!"
    words = split_text(text, "words")
    assert words[:5] == ["A", "dog's", "bone", "(", "or"] and words[-4:] == ["3", ".", "5", "!"]
    assert join_text(words, "words") == "A dog's bone (or two), ' tis said: no; 3. 5!"
    assert join_text(split_text(text, "characters"), "characters") == text


def test_the_most_frequent_words_are_known_and_others_are_one(text_file):
    task = CharactersTask(text_file, 4, 2, symbols="words", vocabulary=4)
    assert task.alphabet == (UNKNOWN, "abcd", "a", "cat")
    assert (task.unit, task.input_size, str(task)) == ("word", 4, "words of text.txt")
    steps = task.encode("abcd has a cat")
    assert steps.argmax(-1).tolist() == [1, 0, 2, 3] and (steps.sum(-1) == 1).all()
    assert task.decode(steps) == f"abcd {UNKNOWN} a cat"
    batch = task.batch(5, torch.Generator().manual_seed(0))
    assert torch.equal(batch.inputs[1:], batch.targets[:-1])
    assert task.words(batch.inputs[:, 0])[0] in task.alphabet
    assert task.batch(5, torch.Generator()).inputs.shape == (8, 5, 4)
    held_out = task.held_out().batch(20, torch.Generator().manual_seed(0))
    assert held_out.inputs[..., 0].any(), "rare words of the held-out part"


def test_a_trained_model_writes_on_the_command_line(text_file, tmp_path):
    run("train", "characters", "--file", text_file, *FEW, "--out", tmp_path / "run")
    words = ("write", tmp_path / "run", "--prompt", "abcd ", "--length", 30)
    first = run(*words)
    assert first.startswith("abcd ") and len(first) == 36
    assert run(*words) == first != run(*words, "--seed", 7)
    likeliest = run(*words, "--temperature", 0)
    assert likeliest == run(*words, "--temperature", 0, "--seed", 7)
    assert "lacks 'x', 'Ö'" in run("write", tmp_path / "run", "--prompt", "axaÖx", status=2)
    assert "temperature must be finite, at least 0, got -0.5" in run(
        *words, "--temperature", -0.5, status=2
    )
    assert "length must be at least 1, got 0" in run(*words, "--length", 0, status=2)


def test_words_are_trained_scored_and_written(text_file, tmp_path):
    options = ("--file", text_file, "--symbols", "words", "--vocabulary", 5, "--model", "lstm")
    printed = run("train", "characters", *options, *FEW, "--out", tmp_path)
    assert "bits per word" in printed
    written = run("write", tmp_path, "--prompt", "a cat", "--length", 20)
    assert len(re.findall(r"<unknown>|\w+|[^\w\s]", written)) == 22
    shown = run("eval", tmp_path, "--show", 1)
    assert re.search(r"read +\S+ \S+ \S+", shown), "there are spaces between words"
    assert "prompt must have a word, got ' '" in run("write", tmp_path, "--prompt", " ", status=2)


def test_a_text_that_has_changed_since_the_training(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    run("train", "characters", "--file", text, *FEW, "--model", "gru", "--out", tmp_path / "run")
    first = run("eval", tmp_path / "run")

    def assert_refused(changed, message):
        text.write_text(changed)
        read_text.cache_clear()  # as in another process
        for words in (("eval",), ("show",), ("write",)):
            assert message in run(*words, tmp_path / "run", status=2)
        with pytest.raises(CheckpointError, match=re.escape(message)):
            Trainer.resume(tmp_path / "run")

    sizes = "the task must have the model's input and output sizes (5, 5), got (9, 9) in characters"
    assert_refused(TEXT + "more", sizes)
    symbols = "the task must have the model's symbols, got as many others in characters of text.txt"
    assert_refused(TEXT.replace("a", "z"), symbols)
    (tmp_path / "kept.txt").write_text(TEXT)
    kept = run("eval", tmp_path / "run", "--task", f"file={tmp_path / 'kept.txt'}")
    assert kept == first.replace("text.txt", "kept.txt")
    text.write_text(TEXT.replace("a", "z"))
    content = load_checkpoint(tmp_path / "run")
    content["task"].pop("alphabet")
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", content)  # as the first versions wrote it
    assert "held-out" in run("eval", tmp_path / "run")


def test_who_cannot_write_is_told(tmp_path):
    run("train", "copy", *FEW[:4], "--max-steps", 1, "--no-pictures", "--out", tmp_path)
    assert "run of the task 'characters', got 'copy'" in run("write", tmp_path, status=2)
    task = CharactersTask()
    model = DNC(**vars(model_config(task, bidirectional_controller=True, hidden_size=4)))
    with pytest.raises(ValueError, match="bidirectional_controller must be False in a model that"):
        write(model, task, "a")
