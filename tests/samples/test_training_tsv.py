import io

import pytest
from PIL import Image

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.samples.training_data import TrainingSamples
from git_caption.samples.training_tsv import TrainingTsv
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
        return TrainingSamples(TrainingTsv(*paths), ImageReader(Transform(4)))

    return write


def test_a_sample_is_a_picture_with_its_captions_and_answered_questions(files):
    sample = files().read(3)
    assert sample.pixels.shape == (3, 4, 4) and abs(int(sample.pixels[0, 0, 0]) - 3) <= 1
    assert sample.texts.captions == ("picture k3", "grey k3")
    assert [(q.question, q.answers) for q in sample.texts.questions] == [("which?", ("k3",))]


def test_files_of_different_lengths_are_refused_with_both_counts(files):
    with pytest.raises(DataError, match=r"img\.tsv has 5 rows and .*caption\.tsv has 1"):
        files(captions=[CaptionRow("k0", ("a",)).columns()])


def test_a_row_whose_keys_differ_is_refused_with_both_keys(files):
    samples = files(2, captions=[CaptionRow(key, ("a",)).columns() for key in ("k0", "other")])
    with pytest.raises(DataError, match=r"question\.tsv:2: the key is 'k1', and 'other'"):
        samples.data.texts(1)


def test_a_question_without_an_answer_cannot_be_trained_on(files):
    samples = files(1, questions=[QuestionRow("k0", (Question(7, "which?"),)).columns()])
    with pytest.raises(DataError, match=r"question\.tsv:1 \(key 'k0'\): question 7 has no \"answers\""):
        samples.data.texts(0)


def test_blank_answers_are_none(files):
    samples = files(1, questions=[QuestionRow("k0", (Question(7, "which?", ("", " ")),)).columns()])
    with pytest.raises(DataError, match=r"question 7 has no \"answers\""):
        samples.data.texts(0)


@pytest.mark.parametrize(("captions", "fault"), [("[]", "no caption"), ('[{"caption":" "}]', "an empty caption")])
def test_a_row_without_a_caption_cannot_be_trained_on(captions, fault, files):
    with pytest.raises(DataError, match=rf"caption\.tsv:1 \(key 'k0'\): {fault}"):
        files(1, captions=[["k0", captions]]).data.texts(0)


def test_a_blank_caption_is_left_out_alone_and_told(files):
    texts = files(1, captions=[["k0", '[{"caption":"a"},{"caption":" "}]']]).data.texts(0)
    assert texts.captions == ("a",)
    assert len(texts.left_out) == 1 and texts.left_out[0].endswith("caption.tsv:1 (key 'k0'): an empty caption")
