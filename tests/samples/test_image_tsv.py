from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from git_caption.errors import DataError
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.pipeline.run import run
from git_caption.samples.image_tsv import ImageTsvSource
from git_caption.samples.sample import Failure, ImageSample
from git_caption.tsv.rows import ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter

READER = ImageReader(Transform(4))


def png(colour: tuple[int, int, int], orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    image = Image.new("RGB", (4, 4), colour)
    image.putpixel((0, 0), (255, 255, 255))
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def image_tsv(folder: Path, rows: list[ImageRow]) -> Path:
    with TsvWriter(folder / "images.tsv") as out:
        for row in rows:
            out.write(row.columns())
    return folder / "images.tsv"


def question_tsv(folder: Path, rows: list[QuestionRow]) -> Path:
    with TsvWriter(folder / "questions.tsv") as out:
        for row in rows:
            out.write(row.columns())
    return folder / "questions.tsv"


def asked(key: str, *ids: int) -> QuestionRow:
    return QuestionRow(key, tuple(Question(number, f"q{number}?") for number in ids))


def test_images_become_pixels(tmp_path: Path) -> None:
    path = image_tsv(tmp_path, [ImageRow("a", png((1, 2, 3))), ImageRow("b", png((4, 5, 6)))])
    source = pickle.loads(pickle.dumps(ImageTsvSource(path, None, READER)))
    sample = source.read(1)
    assert isinstance(sample, ImageSample)
    assert (sample.key, sample.questions) == ("b", ())
    assert sample.pixels.dtype == np.uint8
    assert sample.pixels[:, 2, 2].tolist() == [4, 5, 6]
    assert len(source) == 2
    assert source.inputs == (path,)


def test_questions_come_with_their_image(tmp_path: Path) -> None:
    images = image_tsv(tmp_path, [ImageRow("a", png((1, 2, 3)))])
    questions = question_tsv(tmp_path, [asked("a", 1, 2)])
    source = ImageTsvSource(images, questions, READER)
    sample = source.read(0)
    assert isinstance(sample, ImageSample)
    assert sample.questions == (Question(1, "q1?"), Question(2, "q2?"))
    assert source.inputs == (images, questions)


def test_exif_can_be_left_out(tmp_path: Path) -> None:
    path = image_tsv(tmp_path, [ImageRow("a", png((0, 0, 0), orientation=3))])
    corners = []
    for exif in (True, False):
        sample = ImageTsvSource(path, None, ImageReader(Transform(4), exif=exif)).read(0)
        assert isinstance(sample, ImageSample)
        corners.append((int(sample.pixels[0, 0, 0]), int(sample.pixels[0, 3, 3])))
    assert corners == [(0, 255), (255, 0)]


@pytest.mark.parametrize(
    ("line", "key", "cause"),
    [
        (b"b\tbm90IGFuIGltYWdl", "b", r"images\.tsv:2: not an image: 12 bytes beginning b'not an image'"),
        (b"b\t", "b", r"images\.tsv:2: the image has zero bytes"),
        (b"b\t%%%", "b", r"images\.tsv:2: column 2 is not base64"),
        (b"b", "b", r"images\.tsv:2: found 1 columns, expected 2"),
        (b"b\tx\ty", "b", r"images\.tsv:2: found 3 columns, expected 2"),
        (b"", "", r"images\.tsv:2: empty line"),
        (b"b\xff\tx", "b\ufffd", r"images\.tsv:2: byte 0xff at 1 is not UTF-8"),
    ],
)
def test_bad_rows_are_failures_with_an_empty_caption(tmp_path: Path, line: bytes, key: str, cause: str) -> None:
    good = "\t".join(ImageRow("a", png((1, 2, 3))).columns()).encode()
    path = tmp_path / "images.tsv"
    path.write_bytes(b"\n".join([good, line, good, b""]))
    source = ImageTsvSource(path, None, READER)
    failure = source.read(1)
    assert isinstance(failure, Failure)
    assert failure.key == key
    assert failure.lines == [[key, '[{"caption":""}]']]
    with pytest.raises(DataError, match=cause):
        raise DataError(failure.reason)
    assert isinstance(source.read(0), ImageSample)
    assert isinstance(source.read(2), ImageSample)


@pytest.mark.parametrize("line", [b"a\tbm90IGFuIGltYWdl", b"", b"\xff\t"])
def test_an_image_that_fails_has_an_empty_answer_to_each_question(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "images.tsv").write_bytes(line + b"\n")
    source = ImageTsvSource(tmp_path / "images.tsv", question_tsv(tmp_path, [asked("a", 7, 8)]), READER)
    failure = source.read(0)
    assert isinstance(failure, Failure)
    assert failure.key == "a"
    assert failure.lines == [['{"answer":"","question_id":7}'], ['{"answer":"","question_id":8}']]


def test_questions_that_cannot_be_read_have_no_lines(tmp_path: Path) -> None:
    images = image_tsv(tmp_path, [ImageRow("a", png((1, 2, 3)))])
    (tmp_path / "questions.tsv").write_text("a\t[{broken\n")
    failure = ImageTsvSource(images, tmp_path / "questions.tsv", READER).read(0)
    assert isinstance(failure, Failure)
    assert (failure.key, list(failure.lines)) == ("a", [])
    assert "questions.tsv:1: column 2 is not JSON" in failure.reason


def test_files_of_different_length_are_refused(tmp_path: Path) -> None:
    images = image_tsv(tmp_path, [ImageRow(key, b"") for key in "abc"])
    questions = question_tsv(tmp_path, [asked("a", 1)])
    with pytest.raises(DataError, match=r"images\.tsv has 3 rows and .*questions\.tsv has 1; expected one row"):
        ImageTsvSource(images, questions, READER)


def test_files_with_different_keys_are_refused(tmp_path: Path) -> None:
    images = image_tsv(tmp_path, [ImageRow(key, png((1, 2, 3))) for key in "ab"])
    questions = question_tsv(tmp_path, [asked("a", 1), asked("c", 2)])
    source = ImageTsvSource(images, questions, READER)
    assert isinstance(source.read(0), ImageSample)
    with pytest.raises(DataError, match=r"questions\.tsv:2: the key is 'c', and 'b' in .*images\.tsv:2; expected the"):
        source.read(1)


def test_real_photographs_go_through_the_pipeline(shared_data: Path, tmp_path: Path) -> None:
    source = ImageTsvSource(
        shared_data / "photos.img.tsv", shared_data / "photos.question.tsv", ImageReader(Transform(32))
    )

    def shapes(samples: list[ImageSample]) -> list[list[list[str]]]:
        return [[[s.key, str(s.pixels.shape), q.question] for q in s.questions] for s in samples]

    for workers in (0, 2):
        summary = run(source, shapes, tmp_path / f"{workers}.tsv", {}, num_workers=workers)
        assert (summary.rows, summary.lines, summary.skipped) == (18, 54, 0)
    assert (tmp_path / "0.tsv").read_bytes() == (tmp_path / "2.tsv").read_bytes()
    assert (tmp_path / "0.tsv").read_text().startswith("COCO_val2014_000000060623\t(3, 32, 32)\tWhat is in")
