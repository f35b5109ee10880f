"""Tasks: what a batch holds by a plain reading of each specification, losses, scores, lessons."""

import math

import pytest
import torch
from runs import generator

from dnc_fast.tasks import (
    TASKS,
    AssociativeRecallTask,
    AutoencodingTask,
    Batch,
    CharactersTask,
    CopyTask,
    EchoTask,
    KeyValueTask,
    MappingTask,
    PrioritySortTask,
    RepeatCopyTask,
    SortTask,
    TemporalOrderTask,
    summary,
    task_name,
)

# Each reader goes through the inputs of one sequence, a list for each step, and works out what must
# be answered: {step: target}. It shares no code with the generators.


def read_copy(task, steps):
    heard, answers, listening, left = [], {}, False, 0
    for step, (*bits, start, recall) in enumerate(steps):
        if start:
            assert not any(bits) and not recall
            heard, listening = [], True
        elif recall:
            assert not any(bits) and task.min_length <= len(heard) <= task.max_length
            listening, left = False, len(heard)
        elif listening:
            heard.append(bits)
        elif left:
            assert not any(bits)
            answers[step] = heard[-left]
            left -= 1
    return answers


def read_repeat_copy(task, steps):
    assert steps[0][-2] == 1 and sum(steps[0]) == 1
    end = next(step for step, values in enumerate(steps) if values[-1])
    heard = [values[:-2] for values in steps[1:end]]
    repeats = round(10 * steps[end][-1])
    assert task.min_length <= len(heard) <= task.max_length
    assert task.min_repeats <= repeats <= task.max_repeats
    assert not any(steps[end][:-1]) and not any(map(any, steps[end + 1 :]))
    said = [[*vector, 0] for _ in range(repeats) for vector in heard] + [[0] * task.num_bits + [1]]
    return {end + 1 + place: vector for place, vector in enumerate(said)}


def read_associative_recall(task, steps):
    item_cues = [step for step, values in enumerate(steps) if values[-2]]
    query_cues = [step for step, values in enumerate(steps) if values[-1]]
    assert task.min_items <= len(item_cues) <= task.max_items and len(query_cues) == 2
    size = task.item_length

    def after(cue):
        return [values[:-2] for values in steps[cue + 1 : cue + 1 + size]]

    assert item_cues == [number * (size + 1) for number in range(len(item_cues))]
    assert query_cues == [item_cues[-1] + size + 1, item_cues[-1] + 2 * (size + 1)]
    items, query = [after(cue) for cue in item_cues], after(query_cues[0])
    assert query in items[:-1]
    answer = items[items.index(query) + 1]
    assert not any(map(any, steps[query_cues[1] + 1 :]))
    return {query_cues[1] + 1 + place: vector for place, vector in enumerate(answer)}


def read_key_value(task, steps):
    pairs, answers = {}, {}
    for step, (*bits, store, query) in enumerate(steps):
        key, value = tuple(bits[: task.key_bits]), bits[task.key_bits :]
        assert store + query == 1 and len(value) == task.value_bits
        if store:
            assert not answers and key not in pairs
            pairs[key] = value
        else:
            assert not any(value)
            answers[step] = pairs[key]
    assert task.min_items <= len(pairs) <= task.max_items
    assert len(answers) == task.num_queries
    return answers


def read_priority_sort(task, steps):
    (cue,) = (step for step, values in enumerate(steps) if values[-1])
    assert cue == task.num_items and not any(steps[cue][:-1])
    heard = [(values[-2], values[:-2]) for values in steps[:cue]]
    assert all(-1 <= priority < 1 for priority, _ in heard)
    assert not any(map(any, steps[cue + 1 :]))
    said = [vector for _, vector in sorted(heard, key=lambda pair: -pair[0])]
    return {cue + 1 + place: said[place] for place in range(task.num_sorted)}


TEMPORAL_RANGES = {  # lengths, places of the first and the second mark, all included
    "easy": (range(7, 10), range(1, 3), range(4, 6)),
    "moderate": (range(60, 81), range(10, 21), range(45, 55)),
    "hard": (range(100, 111), range(10, 21), range(50, 61)),
}


def read_temporal_order(task, steps):
    letters = ""
    for values in steps:
        assert sum(values) in (0, 1)
        letters += "abcdBEXY"[values.index(1)] if any(values) else " "
    text = letters.lstrip()
    lengths, first, second = TEMPORAL_RANGES[task.difficulty]
    assert len(letters) == lengths[-1] and len(text) in lengths
    assert text[0] == "B" and text[-1] == "E" and set(text[1:-1]) <= set("abcdXY")
    places = [place for place, letter in enumerate(text) if letter in "XY"]
    assert places[0] in first and places[1] in second and len(places) == 2
    number = ["XX", "XY", "YX", "YY"].index(text[places[0]] + text[places[1]])
    return {len(steps) - 1: [float(number == place) for place in range(4)]}


def read_echo(task, steps):
    return {step: steps[step - task.delay] for step in range(task.delay, len(steps))}


def read_autoencoding(task, steps):
    half = len(steps) // 2
    digits = [values.index(1) for values in steps[:half]]
    end = digits.index(1)
    assert task.min_length <= end <= task.max_length == half - 1
    assert all(2 <= digit <= 9 for digit in digits[:end]) and not any(digits[end + 1 :])
    assert not any(map(any, steps[half:]))
    return {half + place: steps[place] for place in range(end + 1)}


def read_sort(task, steps):
    numbers = [number for number, present in steps if present]
    assert task.min_items <= len(numbers) <= task.max_items and len(steps) == 2 * len(numbers)
    assert all(0 <= number < 1 for number in numbers) and not any(map(any, steps[len(numbers) :]))
    places = sorted(range(len(numbers)), key=lambda place: numbers[place])
    return {
        len(numbers) + step: [float(place == other) for other in range(task.max_items)]
        for step, place in enumerate(places)
    }


def read_mapping(task, steps):
    to = task.mapping().tolist()
    return {
        step: [float(place == to[values.index(1)]) for place in range(task.num_symbols)]
        for step, values in enumerate(steps)
    }


TEXT = "the quick brown fox jumps over the lazy dog; " * 20


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT + "ÄÖ and so on for a while, until the end of it all is near.", "utf-8")
    return str(path)


CASES = [
    (CopyTask(), read_copy),
    (CopyTask(2, 5, 3, 4), read_copy),
    (CopyTask(1, 1, 1, 1), read_copy),
    (CopyTask(7, 7, 8, 2), read_copy),
    (RepeatCopyTask(), read_repeat_copy),
    (RepeatCopyTask(1, 10, 1, 10, 8), read_repeat_copy),
    (RepeatCopyTask(1, 1, 3, 3, 1), read_repeat_copy),
    (AssociativeRecallTask(), read_associative_recall),
    (AssociativeRecallTask(2, 2, 1, 9), read_associative_recall),
    (AssociativeRecallTask(5, 7, 2, 8), read_associative_recall),
    (KeyValueTask(), read_key_value),
    (KeyValueTask(1, 1, 3, 1, 1), read_key_value),
    (KeyValueTask(30, 32, 2, 6, 4), read_key_value),  # half of all keys: many are drawn again
    (KeyValueTask(200, 200, 4, 62), read_key_value),
    (PrioritySortTask(), read_priority_sort),
    (PrioritySortTask(1, 1, 2), read_priority_sort),
    (PrioritySortTask(6, 6, 4), read_priority_sort),
    (TemporalOrderTask("easy"), read_temporal_order),
    (TemporalOrderTask("moderate"), read_temporal_order),
    (TemporalOrderTask("hard"), read_temporal_order),
    (EchoTask(), read_echo),
    (EchoTask(1, 1, 2), read_echo),
    (AutoencodingTask(), read_autoencoding),
    (AutoencodingTask(1, 1), read_autoencoding),
    (MappingTask(6, 5), read_mapping),
    (SortTask(), read_sort),
    (SortTask(1, 7), read_sort),
]


@pytest.mark.parametrize(
    ("task", "read"), CASES, ids=lambda case: getattr(case, "__name__", str(case))
)
def test_batches_are_as_a_plain_reading_of_the_specification(task, read):
    batch = task.batch(40, generator())
    steps = int(batch.lengths.max())
    assert batch.inputs.shape == (steps, 40, task.input_size)
    assert batch.targets.shape == (steps, 40, task.output_size)
    assert batch.mask.shape == (steps, 40) and batch.mask.dtype == torch.bool
    assert batch.inputs.dtype == batch.targets.dtype == torch.float32
    assert batch.lengths.dtype == torch.int64
    for place, length in enumerate(batch.lengths.tolist()):
        answers = read(task, batch.inputs[:length, place].tolist())
        counted = batch.mask[:, place].nonzero().flatten().tolist()
        assert counted == sorted(answers)
        for step, target in answers.items():
            assert batch.targets[step, place].tolist() == target
        assert batch.mask[length:, place].sum() == batch.inputs[length:, place].abs().sum() == 0
        if not isinstance(task, AutoencodingTask):  # whose padding is shown but does not count
            assert not batch.targets[~batch.mask[:, place], place].any()
    if read is not read_echo and read is not read_mapping and read is not read_temporal_order:
        assert max(counted) < length


def test_characters_are_passages_of_the_text(text_file):
    task = CharactersTask(text_file, chunk_length=5, num_chunks=4)
    held_out = task.held_out()
    text = TEXT + "ÄÖ and so on for a while, until the end of it all is near."
    assert task.alphabet == "".join(sorted(set(text))) == held_out.alphabet
    cut = round(0.9 * len(text))
    for each, part in ((task, text[:cut]), (held_out, text[cut:])):
        batch = each.batch(30, generator())
        assert batch.inputs.shape == batch.targets.shape == (20, 30, len(task.alphabet))
        assert batch.mask.all() and (batch.lengths == 20).all()
        places = set()
        for place in range(30):
            one_hot = batch.inputs[:, place].tolist() + batch.targets[-1:, place].tolist()
            read = "".join(task.alphabet[values.index(1)] for values in one_hot)
            assert read in part
            places.add(read)
            assert torch.equal(batch.inputs[1:, place], batch.targets[:-1, place])
        assert len(places) > 10


def test_characters_without_a_file_are_pythons_own_help():
    task = CharactersTask()
    assert len(task.alphabet) > 50 and "e" in task.alphabet
    assert task.batch(2, generator()).inputs.sum() == 2 * 500


@pytest.mark.parametrize(
    ("task", "values"),
    [
        (CopyTask(3, 6), {3, 4, 5, 6}),
        (AutoencodingTask(3, 5), {4, 5, 6}),  # with the end
        (RepeatCopyTask(2, 2, 1, 3), {3, 5, 7}),
    ],
    ids=str,
)
def test_lengths_cover_their_range_evenly(task, values):
    lengths = task.batch(4000, generator()).mask.sum(0)
    found, counts = lengths.unique(return_counts=True)
    assert set(found.tolist()) == values
    assert (counts > 0.9 * 4000 / len(values)).all()


def test_classes_and_queries_are_even():
    classes = TemporalOrderTask().batch(4000, generator()).targets.sum((0, 1))
    assert (classes > 900).all() and classes.sum() == 4000
    inputs = AssociativeRecallTask(4, 4, 1, 20).batch(3000, generator()).inputs[..., :-2]
    query = [(inputs[1 + 2 * item] == inputs[9]).all(-1).sum().item() for item in range(4)]
    assert query[3] == 0 and min(query[:3]) > 900


def test_pairs_keys_and_queries_are_even():
    task = KeyValueTask(2, 5, 3, 4, 1)
    batch = task.batch(4000, generator())
    stored, keys = batch.inputs[..., -2].bool(), batch.inputs[..., :4]
    counts = stored.sum(0).bincount()
    assert counts[:2].sum() == 0 and counts[2:].min() > 900
    numbers = (keys[stored] @ torch.tensor([1.0, 2, 4, 8])).long().bincount()
    assert numbers.min() > 0.9 * numbers.sum() / 16
    four = stored.sum(0) == 4
    asked = (keys[:4, four] == keys[4, four]).all(-1).sum(1)  # of the first query
    assert asked.sum() == four.sum() and asked.min() > 0.85 * four.sum() / 4


def test_mapping_is_fixed_by_its_seed():
    task = MappingTask(num_symbols=6, length=5)
    assert sorted(task.mapping().tolist()) == list(range(6))
    assert not torch.equal(task.mapping(), MappingTask(6, map_seed=1).mapping())


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_seeded_named_and_described(name):
    task = TASKS[name]()
    first, again, other = (task.batch(8, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.inputs.shape != other.inputs.shape or not torch.equal(first.inputs, other.inputs)
    assert task_name(task) == name
    assert 20 < len(summary(type(task))) < 100 and str(task)


@pytest.mark.parametrize("name", TASKS)
def test_torch_s_default_dtype_does_not_matter(name):
    expected = TASKS[name]().batch(8, generator())
    torch.set_default_dtype(torch.float64)
    try:
        found = TASKS[name]().batch(8, generator())
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("name", TASKS)
def test_lessons_lead_to_the_task_and_fit_one_model(name):
    task = TASKS[name]()
    lessons = task.lessons()
    assert lessons[-1] == task and len(set(lessons)) == len(lessons)
    for lesson in lessons:
        assert (lesson.input_size, lesson.output_size) == (task.input_size, task.output_size)
        assert lesson.num_chunks == task.num_chunks


def test_lessons_grow():
    assert [lesson.max_length for lesson in CopyTask(1, 20).lessons()] == [1, 2, 4, 8, 16, 20]
    grown = [(each.max_length, each.max_repeats) for each in RepeatCopyTask(1, 10, 1, 3).lessons()]
    assert grown == [(1, 1), (2, 2), (4, 3), (8, 3), (10, 3)]
    assert [lesson.max_items for lesson in AssociativeRecallTask().lessons()] == [2, 3, 4, 5, 6]
    assert [lesson.max_items for lesson in KeyValueTask(2, 80).lessons()] == [16, 32, 64, 80]
    assert KeyValueTask(2, 9).lessons() == (KeyValueTask(2, 9),)
    assert [lesson.delay for lesson in EchoTask(3).lessons()] == [1, 2, 3]
    names = [lesson.difficulty for lesson in TemporalOrderTask("hard").lessons()]
    assert names == ["easy", "moderate", "hard"]
    sorts = [(each.num_items, each.num_sorted) for each in PrioritySortTask(5, 4).lessons()]
    assert sorts == [(2, 2), (4, 4), (5, 4)]


def batch_of(targets, mask):
    """A batch of given targets (T, B, Y) and mask (T, B)."""
    targets = torch.tensor(targets)
    return Batch(targets, targets, torch.tensor(mask, dtype=torch.bool), torch.tensor([]))


def test_bits_are_scored_as_by_hand():
    task = CopyTask(num_bits=2)
    batch = batch_of(
        [[[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]],
        [[1, 1], [1, 0], [0, 1]],
    )
    odds = math.log(3.0)  # says 3/4
    outputs = torch.tensor(
        [
            [[odds, -odds], [odds, -odds]],
            [[odds, -odds], [odds, odds]],
            [[-9.0, 9.0], [-odds, odds]],
        ]
    )
    # Sequence 0: right, right; wrong, right. Sequence 1: right, wrong; (not counted); right, wrong.
    score = task.score(outputs, batch)
    assert score.wrong.tolist() == [1, 2] and score.counted.tolist() == [4, 4]
    right, wrong = -math.log(3 / 4), -math.log(1 / 4)
    expected = [(3 * right + wrong) / 4, (2 * right + 2 * wrong) / 4]
    assert score.loss.tolist() == pytest.approx(expected)
    assert task.loss(outputs, batch).item() == pytest.approx(sum(expected) / 2)
    assert task.probabilities(outputs)[0, 0].tolist() == pytest.approx([0.75, 0.25])


def test_classes_are_scored_as_by_hand():
    task = TemporalOrderTask()
    targets = torch.eye(4)[[0, 3, 2]].unsqueeze(0)  # one step of three sequences
    batch = batch_of(targets.tolist(), [[1, 1, 0]])
    weights = torch.tensor([[[2.0, 1, 1, 1], [4.0, 1, 1, 2], [9.0, 1, 1, 1]]])
    score = task.score(weights.log(), batch)
    assert score.wrong.tolist() == [0, 1, 0] and score.counted.tolist() == [1, 1, 0]
    expected = [-math.log(2 / 5), -math.log(2 / 8), 0.0]
    assert score.loss.tolist() == pytest.approx(expected)
    assert task.loss(weights.log(), batch).item() == pytest.approx(sum(expected) / 2)
    assert task.probabilities(weights.log())[0, 1].tolist() == pytest.approx(
        [0.5, 1 / 8, 1 / 8, 0.25]
    )


@pytest.mark.parametrize("task", [CopyTask(), TemporalOrderTask()], ids=str)
def test_outputs_that_are_not_numbers_are_wrong_and_no_answer_costs_nothing(task):
    batch = task.batch(3, generator())
    broken = torch.full_like(batch.targets, math.nan)
    score = task.score(broken, batch)
    assert torch.equal(score.wrong, score.counted) and (score.counted > 0).all()
    unasked = batch._replace(mask=torch.zeros_like(batch.mask))
    assert task.loss(torch.zeros_like(batch.targets), unasked) == 0


def test_splitting_a_batch_loses_nothing():
    task = EchoTask(3, 4, 5)
    batch = task.batch(2, generator())
    chunks = batch.split(5)
    for field in ("inputs", "targets", "mask"):
        joined = torch.cat([getattr(chunk, field) for chunk in chunks])
        assert torch.equal(joined, getattr(batch, field))
    assert [chunk.lengths.tolist() for chunk in chunks] == [[4, 4]] * 5
    with pytest.raises(ValueError, match="parts must divide the 20 steps, got 3"):
        batch.split(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CopyTask(min_length=0), "min_length must be at least 1, got 0"),
        (lambda: CopyTask(5, 4), "max_length must be at least 5, got 4"),
        (lambda: CopyTask(num_bits=2.0), "num_bits must be an integer, got 2.0"),
        (lambda: MappingTask(num_symbols=-1), "num_symbols must be at least 1, got -1"),
        (lambda: CopyTask().batch(0, generator()), "batch_size must be at least 1, got 0"),
        (lambda: RepeatCopyTask(min_repeats=3), "max_repeats must be at least 3, got 2"),
        (lambda: AssociativeRecallTask(min_items=1), "min_items must be at least 2, got 1"),
        (lambda: KeyValueTask(9, 8), "max_items must be at least 9, got 8"),
        (lambda: KeyValueTask(2, 17, key_bits=5), "key_bits must be .* at least 6 and .* got 5"),
        (lambda: KeyValueTask(key_bits=63), "key_bits must be .* at most 62, got 63"),
        (lambda: KeyValueTask(key_bits=8.0), "key_bits must be an integer, got 8.0"),
        (lambda: PrioritySortTask(num_items=5), "num_items must be at least 16, got 5"),
        (lambda: TemporalOrderTask("nightmare"), "difficulty must be one of .*got 'nightmare'"),
        (lambda: EchoTask(delay=200), "delay must be less than the 200 steps .* got 200"),
        (lambda: AutoencodingTask(4, 3), "max_length must be at least 4, got 3"),
        (lambda: CharactersTask("nowhere.txt"), "file must name a text file, got 'nowhere.txt'"),
        (lambda: CharactersTask(__file__, 10**6), "must have more than 10000000 characters"),
        (lambda: CharactersTask(torch._C.__file__), "file must be UTF-8 text"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        make()
