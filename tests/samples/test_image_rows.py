"""What stands for an image TSV: tars, Parquet and JSONL of paths, alone and beside questions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from git_caption.errors import DataError, MissingImage, UsageError
from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform
from git_caption.samples.image_rows import ImageRows, open_images
from git_caption.samples.image_tsv import ImageTsvSource
from git_caption.samples.sample import Failure, ImageSample
from git_caption.tsv.rows import ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter
from tests.pictures import jpeg, level
from tests.samples.test_webdataset import write_tar


def rows_of(images: ImageRows) -> list[tuple[str, int]]:
    copy = pickle.loads(pickle.dumps(images))
    return [(copy.key(row), level(copy.image(row))) for row in range(len(copy))]


def test_jsonl_names_images_by_path_and_key(tmp_path: Path) -> None:
    for name, grey in {"a.jpg": 10, "images/b.jpg": 20}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(grey))
    lines = [
        {"image": "a.jpg", "id": 7},
        {"image": str(tmp_path / "images/b.jpg"), "id": "é"},
        {"image": "b.jpg", "id": 7},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n" + "\n\n".join(map(json.dumps, lines)))
    assert rows_of(open_images(path)) == [("7", 10), ("é", 20), ("7", 20)]
    assert not list(tmp_path.glob("*.lineidx*"))  # they would be those of list.tsv
    path.write_text('{"file_name": "a.jpg"}\n{"file_name": "gone.jpg"}\n{broken\n{"file_name": 3}\n[]\n')
    images = open_images(path)
    assert (images.key(0), images.where(1)) == ("a.jpg", f"{path}:2")
    with pytest.raises(MissingImage, match=r"list\.jsonl:2: no image .*gone\.jpg"):
        images.image(1)
    for row, cause in {
        2: "not JSON",
        3: "'file_name' is 3, expected the path",
        4: "a JSON list, expected an object",
    }.items():
        with pytest.raises(DataError, match=cause):
            images.image(row)
    path.write_bytes(b'\xef\xbb\xbf{"image": "a.jpg"}\r\n\r\n{"image": "b.jpg"}\r\n\r\n')
    assert rows_of(open_images(path)) == [("a.jpg", 10), ("b.jpg", 20)]
    path.write_text('{"caption": "x"}\n')
    with pytest.raises(UsageError, match=r"none of 'caption' is image, image_path"):
        open_images(path)


def test_a_compressed_tar_is_no_tsv(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.tar\.gz: a compressed tar; .* unpack it to \.tar first"):
        open_images(tmp_path / "x.tar.gz")


def test_tars_give_images_without_any_text(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars/0.tar", [("a.jpg", jpeg(10)), ("b.jpg", jpeg(20)), ("b.json", b'{"key": "B"}')])
    write_tar(tmp_path / "tars/1.tar", [("c.jpg", jpeg(30)), ("c.json", b"{broken")])
    for path in ("tars", "tars/*.tar", "tars/{0..1}.tar"):
        assert rows_of(open_images(f"{tmp_path}/{path}")) == [("a", 10), ("B", 20), ("c", 30)]
    with pytest.raises(UsageError, match="neither tars nor Parquet files in it"):
        open_images(tmp_path)


def test_parquet_is_read_in_any_order_over_files_and_row_groups(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x.jpg").write_bytes(jpeg(90))
    records = [{"bytes": jpeg(10 * number), "path": None} for number in range(8)] + [{"bytes": None, "path": "x.jpg"}]
    table = arrow.Table.from_pylist([{"n": number, "image": record} for number, record in enumerate(records)])
    parquet.write_table(table[:5], tmp_path / "0.parquet", row_group_size=2)
    parquet.write_table(table[5:], tmp_path / "1.parquet", row_group_size=100)
    images = open_images(f"{tmp_path}/{{0..1}}.parquet")
    assert rows_of(images) == [(str(number), 10 * number) for number in range(8)] + [("8", 90)]
    for row in (7, 0, 4, 3, 6, 1):
        assert level(images.image(row)) == 10 * row
    assert images.where(6) == f"{tmp_path}/1.parquet, row 2"
    (tmp_path / "2.parquet").write_bytes(b"PAR1 none")
    with pytest.raises(DataError, match="not a complete Parquet file"):
        open_images(tmp_path / "2.parquet")
    parquet.write_table(arrow.table({"a": [1]}), tmp_path / "3.parquet")
    with pytest.raises(UsageError, match=r"no column of images; there are 'a', expected one called image"):
        open_images(tmp_path / "3.parquet")


def test_questions_go_with_rows_of_any_format(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(10)), ("b.jpg", b"broken")])
    with TsvWriter(tmp_path / "q.tsv") as out:
        for key in ("a", "b"):
            out.write(QuestionRow(key, (Question(1, "q?"),)).columns())
    source = ImageTsvSource(tmp_path / "0.tar", tmp_path / "q.tsv", ImageReader(Transform(4)))
    good, bad = source.read(0), source.read(1)
    assert isinstance(good, ImageSample) and good.questions == (Question(1, "q?"),)
    assert isinstance(bad, Failure) and (bad.key, bad.lines) == ("b", [['{"answer":"","question_id":1}']])
    assert source.inputs == (tmp_path / "0.tar", tmp_path / "q.tsv")
    with TsvWriter(tmp_path / "other.tsv") as out:
        out.write(ImageRow("a", b"").columns())
    with pytest.raises(DataError, match=r"0\.tar has 2 rows and .*other\.tsv has 1"):
        ImageTsvSource(tmp_path / "0.tar", tmp_path / "other.tsv", ImageReader(Transform(4)))
