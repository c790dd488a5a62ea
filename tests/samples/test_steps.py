import io
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from git_caption.errors import DataError
from git_caption.images.augment import Augmentation
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.params.model import PromptConfig
from git_caption.samples.collate import Collate
from git_caption.samples.open_data import open_data
from git_caption.samples.steps import Share, TrainingSteps
from git_caption.samples.training_data import Texts, TrainingSample, TrainingSamples
from git_caption.samples.training_tsv import TrainingTsv
from git_caption.text.tokenizer import load_tokenizer, train_bpe
from git_caption.tsv.rows import CaptionRow, ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter


def _jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (level, level, level)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path):
    """Writes three TSVs of `count` rows whose picture's grey level is the row's number; those in `broken` are none."""

    def write(count=5, broken=()):
        paths = [tmp_path / f"{name}.tsv" for name in ("img", "caption", "question")]
        with TsvWriter(paths[0]) as images, TsvWriter(paths[1]) as captions, TsvWriter(paths[2]) as questions:
            for number in range(count):
                key = f"k{number}"
                images.write(ImageRow(key, b"no picture" if number in broken else _jpeg(number)).columns())
                captions.write(CaptionRow(key, (f"picture {key}", f"grey {key}")).columns())
                questions.write(QuestionRow(key, (Question(1, "which?", (key,)),)).columns())
        return TrainingSamples(TrainingTsv(*paths), ImageReader(Transform(4)))

    return write


@pytest.fixture
def tokenizer(tmp_path):
    return train_bpe(["picture grey which? answer k0 k1"], 300, tmp_path / "tokenizer")


def test_a_batch_holds_one_text_for_each_caption_and_question_drawn(files, tokenizer):
    samples = files()
    collate = Collate(tokenizer, PromptConfig(caption="", question="Q {question} A"), captions=2, questions=1)
    batch = collate([(samples.read(row), random.Random(row)) for row in (1, 4)])
    assert batch.seen.shape == (2, 3, 4, 4)
    assert batch.images.tolist() == [0, 0, 0, 1, 1, 1]
    prompts = [tokenizer.decode(ids) for ids in batch.prompt_ids]
    targets = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch.target_ids]
    assert prompts == ["", "", "Q which? A"] * 2
    assert sorted(targets[:2]) == ["grey k1", "picture k1"] and targets[2] == " k1" and targets[5] == " k4"
    assert all(ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1] for ids in batch.target_ids)


def test_an_answer_is_drawn_as_often_as_people_gave_it_and_a_blank_one_never(tokenizer):
    asked = Question(1, "which?", ("picture",) * 6 + ("grey",) * 3 + (" ",))
    sample = TrainingSample(np.zeros((3, 4, 4), np.uint8), Texts("k", (), (asked,)))
    batch = Collate(tokenizer, PromptConfig(), captions=0, questions=1)(
        [(sample, random.Random(n)) for n in range(600)]
    )
    drawn = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in batch.target_ids]
    assert set(drawn) == {"picture", "grey"} and 360 < drawn.count("picture") < 440


def test_texts_of_a_chat_begin_where_the_template_leaves_off(files, published):
    tokenizer = load_tokenizer(published("qwen2"))
    prompt = PromptConfig(caption="Describe it.", question="{question} One word.", chat=True, system="Look.")
    batch = Collate(tokenizer, prompt, captions=1, questions=1)([(files().read(1), random.Random(0))])
    before = "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n"
    after = "<|im_end|>\n<|im_start|>assistant\n"
    prompts = [tokenizer.decode(ids) for ids in batch.prompt_ids]
    assert prompts == [f"{before}Describe it.{after}", f"{before}which? One word.{after}"]
    targets = [tokenizer.decode(ids) for ids in batch.target_ids]
    assert targets[0] in ("picture k1<|im_end|>", "grey k1<|im_end|>") and targets[1] == "k1<|im_end|>"


@pytest.mark.parametrize(
    ("bounds", "lengths"),
    [
        ({}, (9, 7)),
        ({"longest": 8}, (9, 7)),
        ({"longest": 7}, (7, 7)),
        ({"longest": 4}, (4, 4)),
        ({"room": 9}, (9, 5)),
        ({"room": 6}, (6, 2)),
        ({"room": 3}, (3, 1)),
        ({"longest": 3, "room": 6}, (3, 2)),
    ],
)
def test_texts_that_are_too_long_are_cut_and_then_have_no_end(bounds, lengths, tokenizer):
    """A caption of 8 tokens after no prompt and an answer of 6 after one of 4, without their end tokens."""
    caption, question, answer = "abcdefgh", "wxyz", "mnopq"  # bytes, and a space before the answer
    texts = Texts("k", (caption,), (Question(1, question, (answer,)),))
    sample = TrainingSample(np.zeros((3, 4, 4), np.uint8), texts)
    batch = Collate(tokenizer, PromptConfig(), 1, 1, **bounds)([(sample, random.Random(0))])
    assert [len(ids) for ids in batch.prompt_ids] == [0, 4]
    assert tuple(len(ids) for ids in batch.target_ids) == lengths
    for ids, whole in zip(batch.target_ids, (caption, f" {answer}"), strict=True):
        complete = len(ids) > len(whole)
        assert tokenizer.decode(ids, skip_special_tokens=True) == whole[: len(ids)]
        assert (ids[-1] == tokenizer.eos_token_id) == complete
    assert batch.cut == sum(len(ids) <= size for ids, size in zip(batch.target_ids, (8, 6), strict=True))


@pytest.fixture
def steps_of(tokenizer):
    """The steps of a process; one caption of each picture."""

    def make(samples, batch_size, seed=1, **share):
        return TrainingSteps(samples, Collate(tokenizer, PromptConfig(), 1, 0), Share(batch_size, **share), seed)

    return make


def _levels(step):
    return [round(float(image.float().mean())) for batch in step.batches for image in batch.seen]


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own(files, steps_of):
    steps = steps_of(files(12), 4)
    levels = [_levels(steps[number]) for number in range(6)]
    epochs = [[level for step in part for level in step] for part in (levels[:3], levels[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_a_step_is_a_function_of_its_number_and_the_seed(files, steps_of):
    samples = files(8)
    first, again = (steps_of(samples, 4)[1].batches[0] for _ in range(2))
    other = steps_of(samples, 4, seed=2)[1].batches[0]
    assert np.array_equal(first.seen, again.seen) and first.target_ids == again.target_ids
    assert first.target_ids != other.target_ids


@pytest.mark.parametrize(("batch_size", "accumulation", "size"), [(2, 2, 2), (4, 2, 1), (2, 1, 4), (1, 8, 1)])
def test_the_rows_of_a_step_and_their_texts_do_not_depend_on_how_it_is_shared_out(
    batch_size, accumulation, size, files, steps_of
):
    samples = files(20)
    whole = steps_of(samples, 8)[3].batches[0]
    found = []
    for rank in range(size):
        batches = steps_of(samples, batch_size, accumulation=accumulation, rank=rank, size=size)[3].batches
        assert [len(batch.keys) for batch in batches] == [batch_size] * accumulation
        found += [pair for batch in batches for pair in zip(batch.keys, map(tuple, batch.target_ids), strict=True)]
    assert sorted(found) == sorted(zip(whole.keys, map(tuple, whole.target_ids), strict=True))


def test_rows_that_cannot_be_read_are_left_out_and_told(files, steps_of):
    steps = steps_of(files(8, broken={2, 5}), 4)
    shown, failed = [], {}
    for number in range(2):
        shown += steps[number].batches[0].keys
        failed |= steps[number].failed
    assert sorted(shown) == ["k0", "k1", "k3", "k4", "k6", "k7"]
    assert {row: failure.key for row, failure in failed.items()} == {2: "k2", 5: "k5"}
    assert "img.tsv:3: not an image" in failed[2].reason


def test_a_caption_that_cannot_be_used_is_told_and_its_picture_stays(tmp_path, steps_of):
    (tmp_path / "a.jpg").write_bytes(_jpeg(1))
    (tmp_path / "list.jsonl").write_text('{"image": "a.jpg", "captions": ["good", null]}\n')
    step = steps_of(TrainingSamples(open_data(tmp_path / "list.jsonl"), ImageReader(Transform(4))), 1)[0]
    assert step.batches[0].keys == ["a.jpg"]
    assert [(failure.key, "the caption is None" in failure.reason) for failure in step.failed.values()] == [
        ("a.jpg", True)
    ]


def test_a_batch_may_have_no_picture_left(files, steps_of):
    step = steps_of(files(2, broken={0, 1}), 1)[0]
    assert [batch.keys for batch in step.batches] == [[]] and len(step.failed) == 1


def test_fewer_pictures_than_a_step_are_refused(files, steps_of):
    wanted = r"5 pictures do not fill one step of 8 \(batches of 2 x accumulation 4 x processes 1\): lower --bs"
    with pytest.raises(DataError, match=wanted):
        steps_of(files(5), 2, accumulation=4)


def test_pictures_are_changed_by_row_and_epoch_alone_however_a_step_is_shared_out(files, tokenizer):
    plain = files(8)
    reader = replace(plain.pixels, transform=Transform(4), augmentation=Augmentation())
    gradient = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    buffer = io.BytesIO()
    Image.fromarray(gradient).save(buffer, "PNG")
    plain.data.image = lambda row: buffer.getvalue()  # of which each part looks otherwise
    samples = TrainingSamples(plain.data, reader)

    def pixels(step: int, **share):
        collate = Collate(tokenizer, PromptConfig(), 1, 0)
        batches = TrainingSteps(samples, collate, Share(**share), seed=1)[step].batches
        return {
            key: seen.tobytes() for batch in batches for key, seen in zip(batch.keys, batch.seen.numpy(), strict=True)
        }

    first = pixels(0, batch_size=8)
    shared = [pixels(0, batch_size=2, accumulation=2, rank=rank, size=2) for rank in range(2)]
    assert len(set(first.values())) > 4  # rows differ
    assert shared[0] | shared[1] == first
    later = pixels(1, batch_size=8)
    assert sum(later[key] != first[key] for key in first) > 4  # epochs differ
