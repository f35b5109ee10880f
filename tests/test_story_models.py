"""The models that read stories: how stories are cut, and their maths against plain versions."""

import numpy as np
import plain_stories as plain
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dnc_fast.baselines import BASELINES, StoryModel
from dnc_fast.baselines.dmn import AttentionGRU
from dnc_fast.baselines.stories import read
from dnc_fast.presets import model_config
from dnc_fast.tasks import BabiTask, CopyTask
from dnc_fast.training.evaluation import evaluate

WORDS = 9
MODELS = [name for name, kind in BASELINES.items() if issubclass(kind, StoryModel)]
every_model = pytest.mark.parametrize("name", MODELS)

# Words are counted from 1: full stop, question mark, answer mark, and others.
STORIES = [
    [4, 5, 1, 6, 7, 8, 1, 4, 9, 2, 3, 7, 1, 5, 6, 2, 3, 3, 8, 1],
    [5, 4, 2, 3, 9, 1, 6, 2, 3, 4, 1],
    [8, 8, 1, 9, 1, 7, 1, 6, 1, 5, 1, 4, 2, 3, 9, 5, 6, 6, 2, 3],
]


def stacked(stories, steps=20):
    return torch.tensor([story + [0] * (steps - len(story)) for story in stories]).t()


def one_hot(stories):
    return F.one_hot(stacked(stories), WORDS + 1)[..., 1:].double()


def model_of(name, **options):
    torch.manual_seed(0)
    signs = {"full_stop": 0, "question_mark": 1, "answer_mark": 2}
    model = BASELINES[name](WORDS, 6, hidden_size=8, dtype=torch.float64, **signs, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def test_stories_are_cut_into_facts_and_questions():
    asked, steps = read(stacked(STORIES), (1, 2, 3))
    expected = [
        (step, row, *parts)
        for row, story in enumerate(STORIES)
        for step, *parts in plain.read(story)
    ]
    assert len(steps) == len(expected) == 7
    found = {}
    for place, (step, row) in enumerate(zip(steps.tolist(), asked.rows.tolist(), strict=True)):
        known = asked.facts[row][asked.known[place]].tolist()
        facts = [[word for word in fact if word] for fact in known]
        question = [word for word in asked.questions[place].tolist() if word]
        found[step, row] = (facts, question, int(asked.number[place]))
    assert found == {(step, row): tuple(rest) for step, row, *rest in expected}


@every_model
@pytest.mark.parametrize("options", [{}, {"most_facts": 2}])
def test_answers_equal_those_of_a_plain_version(name, options):
    model = model_of(name, **(options if name == "memn2n" else {}))
    output, _ = model(one_hot(STORIES))
    counted = 0
    for row, story in enumerate(STORIES):
        for step, facts, question, number in plain.read(story):
            if facts or name != "dmn":  # a GRU has no state before its first fact
                expected = getattr(plain, name)(model, facts, question, number)
                np.testing.assert_allclose(
                    output[step, row].detach(), expected, rtol=1e-9, atol=1e-11
                )
                counted += 1
    assert counted == (6 if name == "dmn" else 7)
    silent = stacked(STORIES) != 3
    assert (output[silent] == 0).all() and output[~silent].any(-1).all()


@every_model
def test_stories_go_on_from_a_state_and_begin_anew(name):
    model, x = model_of(name), one_hot(STORIES)
    whole, final = model(x)
    for cut in (3, 9, 17):
        first, state = model(x[:cut])
        second, end = model(x[cut:], state)
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(end.parts, final.parts)
    mask = torch.tensor([True, False, True])
    again, _ = model(x, final.reset_rows(mask))
    torch.testing.assert_close(again[:, mask], whole[:, mask])
    assert (again[:, 1] - whole[:, 1]).abs().max() > 1e-4, "the first telling counts too"
    alone, _ = model(x[:, 1])
    torch.testing.assert_close(alone, whole[:, 1])


@every_model
def test_no_answer_depends_on_what_comes_later(name):
    model = model_of(name)
    before, _ = model(one_hot(STORIES))
    changed = [[*story[:11], 9, 9, 1, *story[14:]] for story in STORIES]
    after, _ = model(one_hot(changed))
    torch.testing.assert_close(after[:11], before[:11], rtol=1e-9, atol=1e-12)
    assert (after[14:] - before[14:]).abs().max() > 1e-4


@every_model
def test_gradients_reach_every_parameter(name):
    model = model_of(name)
    model(one_hot(STORIES))[0].square().sum().backward()
    for label, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, label
        if label.startswith(("words", "ages", "numbers")):
            assert parameter.grad[0].abs().sum() == 0, "no word, and no fact, is learned"


@every_model
def test_inputs_without_a_question_are_answered_by_zeros(name):
    model = model_of(name)
    assert not model(one_hot([[4, 5, 1]]))[0].any()
    assert model(torch.zeros(3, 0, WORDS, dtype=torch.float64))[0].shape == (3, 0, 6)


def test_attention_gru_gradients():
    torch.manual_seed(0)
    layer = AttentionGRU(3).double()
    facts = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(layer, (facts, shares))


def test_only_stories_are_read():
    with pytest.raises(ValueError, match="model 'memn2n' answers stories, so task must be 'babi'"):
        model_config(CopyTask(), "memn2n")
    config = model_config(BabiTask(), "entnet", num_blocks=5)
    assert (config.full_stop, config.question_mark, config.answer_mark) == (1, 2, 0)


def test_a_generated_story_is_learned():
    torch.manual_seed(0)
    task, generator = BabiTask(), torch.Generator().manual_seed(0)
    model = BASELINES["memn2n"].from_config(model_config(task, "memn2n", hidden_size=32))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(200):
        batch = task.batch(8, generator)
        optimizer.zero_grad()
        task.loss(model(batch.inputs)[0], batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    assert evaluate(model, task, 30, 0).right > 0.8
