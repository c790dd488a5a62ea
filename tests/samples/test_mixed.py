import random
from collections import Counter

import pytest

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.params.model import PromptConfig
from git_caption.samples.collate import Collate
from git_caption.samples.mixed import MixedSamples, quotas
from git_caption.samples.steps import Share, TrainingSteps
from git_caption.samples.training_data import TrainingSamples
from git_caption.samples.training_tsv import TrainingTsv
from git_caption.text.tokenizer import train_bpe
from git_caption.tsv.rows import CaptionRow, ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter
from tests.pictures import jpeg

ANSWERS = ("yes",) * 6 + ("no",) * 3 + ("maybe",)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(["a picture of yes no maybe which?"], 300, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def mixed(tmp_path):
    """12 captioned pictures, c0 and so on, and 4 pictures with a question, q0 and so on."""

    def samples(name, count):
        paths = [tmp_path / f"{name}.{kind}.tsv" for kind in ("img", "text")]
        with TsvWriter(paths[0]) as images, TsvWriter(paths[1]) as texts:
            for number in range(count):
                key = f"{name}{number}"
                images.write(ImageRow(key, jpeg(10 * number)).columns())
                question = QuestionRow(key, (Question(number, "which?", ANSWERS),))
                texts.write((CaptionRow(key, ("a", "b")) if name == "c" else question).columns())
        given = (paths[1], None) if name == "c" else (None, paths[1])
        return TrainingSamples(TrainingTsv(paths[0], *given), ImageReader(Transform(4)))

    return MixedSamples([samples("c", 12), samples("q", 4)])


def _steps(samples, tokenizer, weights, size=1, rank=0, seed=3):
    collate = Collate(tokenizer, PromptConfig(question="Q {question}"), 1, 1)
    return TrainingSteps(samples, collate, Share(4 // size, 1, rank, size), seed, weights)


def _keys(steps, numbers):
    return [key for number in numbers for batch in steps[number].batches for key in batch.keys]


def test_of_each_data_set_as_many_are_drawn_as_its_weight_says_and_it_begins_anew_where_it_ends(mixed, tokenizer):
    steps = _steps(mixed, tokenizer, (1, 3))
    assert steps.per_epoch == 4  # of 16 pictures: 4 of the one and 12 of the other
    epochs = [_keys(steps, range(4 * epoch, 4 * epoch + 4)) for epoch in range(3)]
    for keys in epochs:
        assert sum(key[0] == "q" for key in keys) == 12
        assert Counter(key for key in keys if key[0] == "q") == {f"q{number}": 3 for number in range(4)}
    assert Counter(key for keys in epochs for key in keys if key[0] == "c") == {f"c{number}": 1 for number in range(12)}
    firsts = [[key[0] for key in keys] for keys in epochs]
    assert firsts[0] != firsts[1]  # in an order of its own
    assert _keys(_steps(mixed, tokenizer, (1, 3)), [9]) == _keys(steps, [9])
    assert _keys(_steps(mixed, tokenizer, (1, 3), seed=4), range(4)) != epochs[0]


def test_processes_share_a_mixture_out_and_without_weights_each_picture_comes_once(mixed, tokenizer):
    whole = _steps(mixed, tokenizer, (0.5, 0.5))
    parts = [_steps(mixed, tokenizer, (0.5, 0.5), size=2, rank=rank) for rank in range(2)]
    for number in range(6):
        both = [key for part in parts for key in _keys(part, [number])]
        assert sorted(both) == sorted(_keys(whole, [number]))
    once = _keys(_steps(mixed, tokenizer, None), range(4))
    assert sorted(once) == sorted(f"{name}{number}" for name, count in (("c", 12), ("q", 4)) for number in range(count))


def test_answers_are_drawn_anew_each_time_as_often_as_people_gave_them(mixed, tokenizer):
    steps = _steps(mixed, tokenizer, (1, 3))
    drawn: dict[str, list[str]] = {}
    for number in range(160):
        for batch in steps[number].batches:
            for place, target in zip(batch.images.tolist(), batch.target_ids, strict=True):
                if (key := batch.keys[place])[0] == "q":
                    text = tokenizer.decode(target, skip_special_tokens=True).strip()
                    drawn.setdefault(key, []).append(text)
    assert {len(answers) for answers in drawn.values()} == {120}
    counts = Counter(answer for answers in drawn.values() for answer in answers)
    assert counts["yes"] / 480 == pytest.approx(0.6, abs=0.06) and counts["no"] / 480 == pytest.approx(0.3, abs=0.06)
    assert drawn["q0"] != drawn["q1"]


def test_a_weight_too_small_for_any_picture_is_refused(mixed, tokenizer):
    with pytest.raises(DataError, match=r"image TSV and question TSV in .*q\.img\.tsv: its weight is less than one of"):
        _steps(mixed, tokenizer, (1, 0.001))


def test_quotas_add_up():
    assert quotas((0.7, 0.3), 10) == [7, 3]
    assert quotas((1, 1, 1), 10) == [4, 3, 3]
    source = random.Random(0)
    for _ in range(50):
        weights = [source.random() + 0.01 for _ in range(4)]
        found = quotas(weights, 37)
        assert sum(found) == 37
        assert all(abs(part - weight / sum(weights) * 37) < 1 for part, weight in zip(found, weights, strict=True))


def test_rows_are_those_of_the_data_sets_one_after_another(mixed):
    data = mixed.data
    assert len(data) == 16 and data.kind == "image TSV and caption TSV with image TSV and question TSV"
    assert [data.texts(row).key for row in (0, 11, 12, 15)] == ["c0", "c11", "q0", "q3"]
    assert data.image(12) == data.parts[1].image(0) and data.where(13) == data.parts[1].where(1)
    assert len(data.inputs) == 4
