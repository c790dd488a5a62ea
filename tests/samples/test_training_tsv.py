import io
import random

import numpy as np
import pytest
from PIL import Image

from git_caption.errors import DataError
from git_caption.images.transform import Transform
from git_caption.params.model import PromptConfig
from git_caption.samples.collate import Collate
from git_caption.samples.steps import TrainingSteps
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
    """Writes three TSVs of `count` rows whose picture's grey level is the row's number."""

    def write(count=5, *, captions=None, questions=None):
        paths = [tmp_path / f"{name}.tsv" for name in ("img", "caption", "question")]
        keys = [f"k{number}" for number in range(count)]
        rows = [
            [ImageRow(key, _jpeg(number)).columns() for number, key in enumerate(keys)],
            captions or [CaptionRow(key, (f"picture {key}", f"grey {key}")).columns() for key in keys],
            questions or [QuestionRow(key, (Question(1, "which?", (key,)),)).columns() for key in keys],
        ]
        for path, content in zip(paths, rows, strict=True):
            with TsvWriter(path) as writer:
                for row in content:
                    writer.write(row)
        return TrainingTsv(*paths, Transform(4))

    return write


def test_a_sample_is_a_picture_with_its_captions_and_answered_questions(files):
    sample = files()[3]
    assert sample.pixels.shape == (3, 4, 4) and abs(int(sample.pixels[0, 0, 0]) - 3) <= 1
    assert sample.texts.captions == ("picture k3", "grey k3")
    assert [(q.question, q.answers) for q in sample.texts.questions] == [("which?", ("k3",))]


def test_files_of_different_lengths_are_refused_with_both_counts(files):
    with pytest.raises(DataError, match=r"img\.tsv has 5 rows and .*caption\.tsv has 1"):
        files(captions=[CaptionRow("k0", ("a",)).columns()])


def test_a_row_whose_keys_differ_is_refused_with_both_keys(files):
    samples = files(2, captions=[CaptionRow(key, ("a",)).columns() for key in ("k0", "other")])
    with pytest.raises(DataError, match=r"question\.tsv:2: the key is 'k1', and 'other'"):
        samples[1]


def test_a_question_without_an_answer_cannot_be_trained_on(files):
    samples = files(1, questions=[QuestionRow("k0", (Question(7, "which?"),)).columns()])
    with pytest.raises(DataError, match=r"question\.tsv:1 \(key 'k0'\): question 7 has no \"answers\""):
        samples[0]


def test_a_row_without_a_caption_cannot_be_trained_on(files):
    with pytest.raises(DataError, match=r"caption\.tsv:1 \(key 'k0'\): no caption"):
        files(1, captions=[["k0", "[]"]])[0]


@pytest.fixture
def tokenizer(tmp_path):
    return train_bpe(["picture grey which? answer k0 k1"], 300, tmp_path / "tokenizer")


def test_a_batch_holds_one_text_for_each_caption_and_question_drawn(files, tokenizer):
    samples = files()
    collate = Collate(tokenizer, PromptConfig(caption="", question="Q {question} A"), captions=2, questions=1)
    batch = collate([samples[1], samples[4]], random.Random(0))
    assert batch.pixels.shape == (2, 3, 4, 4)
    assert batch.images.tolist() == [0, 0, 0, 1, 1, 1]
    prompts = [tokenizer.decode(ids) for ids in batch.prompt_ids]
    targets = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch.target_ids]
    assert prompts == ["", "", "Q which? A"] * 2
    assert sorted(targets[:2]) == ["grey k1", "picture k1"] and targets[2] == " k1" and targets[5] == " k4"
    assert all(ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1] for ids in batch.target_ids)


def test_texts_of_a_chat_begin_where_the_template_leaves_off(files, published):
    tokenizer = load_tokenizer(published("qwen2"))
    prompt = PromptConfig(caption="Describe it.", question="{question} One word.", chat=True, system="Look.")
    batch = Collate(tokenizer, prompt, captions=1, questions=1)([files()[1]], random.Random(0))
    before = "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n"
    after = "<|im_end|>\n<|im_start|>assistant\n"
    prompts = [tokenizer.decode(ids) for ids in batch.prompt_ids]
    assert prompts == [f"{before}Describe it.{after}", f"{before}which? One word.{after}"]
    targets = [tokenizer.decode(ids) for ids in batch.target_ids]
    assert targets[0] in ("picture k1<|im_end|>", "grey k1<|im_end|>") and targets[1] == "k1<|im_end|>"


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own(files, tokenizer):
    samples = files(12)
    steps = TrainingSteps(samples, Collate(tokenizer, PromptConfig(), 1, 0), batch_size=4, seed=1)
    levels = [[round(float(image.float().mean())) for image in steps[step].pixels] for step in range(6)]
    epochs = [[level for step in part for level in step] for part in (levels[:3], levels[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_a_step_is_a_function_of_its_number_and_the_seed(files, tokenizer):
    samples = files(8)
    first, again = (TrainingSteps(samples, Collate(tokenizer, PromptConfig(), 1, 0), 4, seed=1)[1] for _ in range(2))
    other = TrainingSteps(samples, Collate(tokenizer, PromptConfig(), 1, 0), 4, seed=2)[1]
    assert np.array_equal(first.pixels, again.pixels) and first.target_ids == again.target_ids
    assert first.target_ids != other.target_ids


def test_fewer_pictures_than_a_batch_are_refused(files, tokenizer):
    with pytest.raises(DataError, match=r"img\.tsv: 5 pictures do not fill one batch of 8"):
        TrainingSteps(files(5), Collate(tokenizer, PromptConfig(), 1, 0), 8, seed=0)
