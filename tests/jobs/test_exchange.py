"""TSVs as tars and as Parquet, and back to the byte."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from git_caption.jobs.main import main
from git_caption.samples.open_data import open_data
from git_caption.tsv.rows import CaptionRow, ImageRow
from tests.jobs.test_tsv_tools import written
from tests.pictures import contents, jpeg, picture
from tests.pipeline.test_crash_points import ended_at

# As other tools spell them: spaces, other orders, real letters; keys that are no names of files.
KEYS = ["a.b/c d", "../x", "é", "a.b/c d", *(str(number) for number in range(146))]


def job(name: str, **keys: object) -> int:
    return main(["-p", json.dumps({"type": name, "num_workers": 0, **keys})])


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    images = [jpeg(10), picture(20, "PNG"), picture(30, "WEBP", lossless=True), b"broken"]
    rows = [ImageRow(key, images[number % 4]) for number, key in enumerate(KEYS)]
    written(
        tmp_path / "in.caption.tsv",
        [[key, f'[{{"caption": "é of {n}", "b": 1}}, {{"caption":"x"}}]'] for n, key in enumerate(KEYS)],
    )
    written(tmp_path / "in.question.tsv", [[key, '[ {"question": "ω?", "question_id": 1} ]'] for key in KEYS])
    return written(tmp_path / "in.img.tsv", rows)


def same(one: Path, other: Path, endings: tuple[str, ...] = (".img.tsv", ".caption.tsv", ".question.tsv")) -> None:
    for ending in endings:
        name, other_name = (str(path).removesuffix(".img.tsv") + ending for path in (one, other))
        for suffix in (".tsv", ".lineidx", ".lineidx.8b"):
            pair = [Path(path.removesuffix(".tsv") + suffix).read_bytes() for path in (name, other_name)]
            assert pair[0] == pair[1], (ending, suffix)


def test_tars_hold_what_came_in_and_give_it_back(tsv: Path, tmp_path: Path, capsys: Any) -> None:
    out, back = tmp_path / "tars" / "x.tar", tmp_path / "back.img.tsv"
    out.parent.mkdir()
    (out.parent / "x-00003.tar").write_bytes(b"of an earlier run")
    (out.parent / "x-y.tar").write_bytes(b"another's")
    assert job("tsv_to_webdataset", tsv=str(tsv), out_tar=str(out), rows_per_tar=70) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "x-00000.tar",
        "x-00001.tar",
        "x-00002.tar",
        "x-y.tar",
    ]
    with tarfile.open(out.parent / "x-00001.tar") as tar:
        names = tar.getnames()
        assert len(names) == 70 * 5 and names[0] == "000000070.webp"
        assert tar.extractfile("000000071.txt").read().decode() == "é of 71"  # type: ignore[union-attr]
    (out.parent / "x-y.tar").unlink()
    assert job("webdataset_to_tsv", tars=str(out.parent), out_tsv=str(back)) == 0
    same(tsv, back)
    assert job("webdataset_to_tsv", tars=str(out.parent / "x-{00000..00002}.tar"), out_tsv=str(back)) == 0
    same(tsv, back)


def test_what_training_reads_from_such_tars(tmp_path: Path) -> None:
    written(tmp_path / "in.caption.tsv", [CaptionRow("key.1", ("one", "two"))])
    tsv = written(tmp_path / "in.img.tsv", [ImageRow("key.1", jpeg(50))])
    assert job("tsv_to_webdataset", tsv=str(tsv), out_tar=str(tmp_path / "tars" / "x.tar")) == 0
    assert contents(open_data(tmp_path / "tars")) == [("key.1", ("one", "two"), 50)]


def test_a_parquet_file_gives_back_what_came_in(tsv: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out, back = tmp_path / "x.parquet", tmp_path / "back.img.tsv"
    assert job("tsv_to_parquet", tsv=str(tsv), out_parquet=str(out)) == 0
    table = parquet.read_table(out)
    assert table.column_names == ["key", "image", "captions", "captions_json", "questions_json"]
    assert table["image"][1].as_py() == {"bytes": picture(20, "PNG"), "path": "000000001.png"}
    assert table["captions"][2].as_py() == ["é of 2", "x"]
    assert job("parquet_to_tsv", parquet=str(out), out_tsv=str(back)) == 0
    same(tsv, back)


def test_images_alone_come_back_too(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    tsv = written(tmp_path / "in.img.tsv", [ImageRow(str(number), jpeg(number)) for number in range(3)])
    for there, back, keys in (
        ("tsv_to_webdataset", "webdataset_to_tsv", ("out_tar", "x.tar", "tars", "x-00000.tar")),
        ("tsv_to_parquet", "parquet_to_tsv", ("out_parquet", "x.parquet", "parquet", "x.parquet")),
    ):
        assert job(there, tsv=str(tsv), **{keys[0]: str(tmp_path / keys[1])}) == 0
        out = tmp_path / f"{keys[2]}.img.tsv"
        assert job(back, **{keys[2]: str(tmp_path / keys[3])}, out_tsv=str(out)) == 0
        same(tsv, out, (".img.tsv",))
        assert not (tmp_path / f"{keys[2]}.caption.tsv").exists()


def test_parquet_files_of_other_tools_are_read(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.jpg").write_bytes(jpeg(70))
    rows = [{"jpg": jpeg(60), "text": "one", "id": 7}, {"jpg": None, "text": "two", "id": 8}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "0.parquet", row_group_size=1)
    parquet.write_table(arrow.Table.from_pylist(rows[:1]), tmp_path / "1.parquet")
    out = tmp_path / "out.img.tsv"
    assert job("parquet_to_tsv", parquet=f"{tmp_path}/*.parquet", out_tsv=str(out)) == 0
    assert contents(open_data(out)) == [("7", ("one",), 60), ("7", ("one",), 60)]
    [line] = Path(f"{out}.errors.tsv").read_text().splitlines()
    assert line == f"2\t8\tno image: {tmp_path}/0.parquet, row 2: no image in column 'jpg'"


def test_rows_that_cannot_be_taken_apart_are_left_out_and_listed(tmp_path: Path, capsys: Any) -> None:
    tsv = tmp_path / "in.img.tsv"
    tsv.write_bytes(b"a\tYQ==\nb\n\xff\tYQ==\nc\t%\n")
    assert job("tsv_to_webdataset", tsv=str(tsv), out_tar=str(tmp_path / "x.tar")) == 0
    assert "1 of 4 rows" in (printed := capsys.readouterr().out) and "left out: 3 no usable row" in printed
    with tarfile.open(tmp_path / "x-00000.tar") as tar:
        assert tar.getnames() == ["000000000.jpg", "000000000.json"]


def test_without_pyarrow_the_cure_is_named(tsv: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("git_caption.params.packages.find_spec", lambda name: None)
    assert job("tsv_to_parquet", tsv=str(tsv), out_parquet=str(tmp_path / "x.parquet")) == 2
    assert "Parquet files need a package that is not installed: pip install pyarrow" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_tars_of_a_run_ended_anywhere_are_finished_by_the_next(tsv: Path, tmp_path: Path) -> None:
    def run(out: Path) -> None:
        assert job("tsv_to_webdataset", tsv=str(tsv), out_tar=str(out), rows_per_tar=60) == 0

    def files(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(out.parent.iterdir())}

    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole" / "x.tar")
    for touch in range(1, 200, 4):
        out = tmp_path / str(touch) / "x.tar"
        out.parent.mkdir()
        status = ended_at(touch, out, run)
        run(out)
        assert files(out) == files(tmp_path / "whole" / "x.tar"), touch
        if status == 0:
            break
    assert touch > 20


def test_a_later_job_may_read_the_tars_of_an_earlier_one(tsv: Path, tmp_path: Path, capsys: Any) -> None:
    tars = tmp_path / "tars"
    jobs: list[dict[str, Any]] = [
        {"type": "tsv_to_webdataset", "tsv": str(tsv), "out_tar": str(tars / "x.tar")},
        {"type": "webdataset_to_tsv", "tars": str(tars / "x-00000.tar"), "out_tsv": str(tmp_path / "one.img.tsv")},
        {"type": "webdataset_to_tsv", "tars": str(tars), "out_tsv": str(tmp_path / "all.img.tsv")},
    ]
    (tmp_path / "jobs.json").write_text(json.dumps([{**each, "num_workers": 0} for each in jobs]))
    assert main(["-f", str(tmp_path / "jobs.json")]) == 0
    same(tsv, tmp_path / "one.img.tsv")
    same(tsv, tmp_path / "all.img.tsv")
    (tmp_path / "jobs.json").write_text(json.dumps(jobs[1:] + jobs[:1] + [{**jobs[2], "tars": str(tars / "y.tar")}]))
    assert main(["-f", str(tmp_path / "jobs.json")]) == 2
    assert "'tars': no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "key", "file", "there"),
    [
        ("tsv_to_webdataset", "out_tar", "x.tar", "x-00000.tar"),
        ("tsv_to_parquet", "out_parquet", "x.parquet", "x.parquet"),
    ],
)
def test_a_file_without_one_usable_row_fails_and_leaves_what_was_there(
    tmp_path: Path, capsys: Any, name: str, key: str, file: str, there: str
) -> None:
    if file.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    tsv = written(tmp_path / "in.tsv", [["a", "no base64"]])
    (tmp_path / there).write_bytes(b"of an earlier run")
    assert job(name, tsv=str(tsv), **{key: str(tmp_path / file)}) == 1
    assert "none of the 1 rows could be used" in capsys.readouterr().err
    assert (tmp_path / there).read_bytes() == b"of an earlier run"


def test_a_column_of_bytes_goes_before_one_of_names(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"file_name": ["gone.jpg"], "img": arrow.array([jpeg(60)], arrow.binary()), "text": ["one"]})
    parquet.write_table(table, tmp_path / "x.parquet")
    out = tmp_path / "out.img.tsv"
    assert job("parquet_to_tsv", parquet=str(tmp_path / "x.parquet"), out_tsv=str(out)) == 0
    assert contents(open_data(out)) == [("0", ("one",), 60)]
