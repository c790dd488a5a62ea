"""Jobs on several processes, started as a user starts them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from git_caption.jobs.main import main
from git_caption.processes import LAUNCHERS
from git_caption.tsv.rows import ImageRow
from git_caption.tsv.writer import TsvWriter
from tests.datasets_on_disk import coco, karpathy, vqav2, write
from tests.pictures import jpeg
from tests.pipeline.together import Jobs, together
from tests.small_captioner import small_captioner

ROOT = Path(__file__).resolve().parents[2]


def test_torchrun_writes_captions_and_features_as_one_process_does(tmp_path: Path) -> None:
    small_captioner(tmp_path / "lm").save(tmp_path / "model")
    with TsvWriter(tmp_path / "images.tsv") as writer:
        for number in range(600):
            file = io.BytesIO()
            Image.new("RGB", (16, 16), (number % 256, 7 * number % 256, number // 3)).save(file, "PNG")
            writer.write(ImageRow(str(number), file.getvalue() if number != 300 else b"broken").columns())

    def jobs(folder: Path) -> list[str]:
        folder.mkdir()
        common = {"model_path": f"{tmp_path}/model", "image_tsv": f"{tmp_path}/images.tsv", "num_workers": 0}
        captions = {"type": "test_git_inference_single_tsv", "out_tsv": f"{folder}/out.tsv", "num_beams": 1}
        features = {"type": "extract_features", "out": f"{folder}/features", "stored_as": "float32"}
        (folder / "jobs.json").write_text(json.dumps([common | captions, common | features]))
        return ["-f", str(folder / "jobs.json")]

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "inference.py"]
    found = subprocess.run([*command, *jobs(tmp_path / "two")], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 3 and "600 rows, 600 lines" in lines[0] and "rows/s (rank 0 " in lines[0]
    assert main(jobs(tmp_path / "one")) == 0
    for name in ("out.tsv", "out.lineidx", "out.tsv.errors.tsv", "features", "features.errors.tsv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


FEW = ("prepare_folder", "prepare_vqav2")
ALL = (
    *FEW,
    "prepare_json",
    "prepare_instagram",
    "prepare_nice",
    "prepare_cc3m",
    "prepare_coco",
    "prepare_coco_test",
    "prepare_flickr8k",
)


@pytest.mark.parametrize("chosen", [FEW, pytest.param(ALL, marks=pytest.mark.slow)], ids=["few", "all"])
def test_preparation_is_shared_out_and_gives_the_bytes_of_one_process(tmp_path: Path, chosen: tuple[str, ...]) -> None:
    rows, data = range(130), tmp_path / "data"  # three chunks
    captions = {number: [f"number {number}", f"{number} again"] for number in rows}
    for number in rows:
        image = jpeg(number) if number % 50 != 49 else b"broken"
        write(data / "folder" / f"{number:03}.jpg", image)
        write(data / "folder" / f"{number:03}.txt", captions[number][0])
        write(data / "cc3m" / "train" / f"{number:08}.jpg", image)
        write(data / "flickr" / "Images" / f"{number}.jpg", image)
    listed = [(data / "folder" / f"{number:03}.jpg", captions[number][0]) for number in rows]
    write(data / "list.json", [{"image": str(path), "text": text} for path, text in listed])
    write(data / "list.csv", "image,caption\n" + "".join(f"{path},{text}\n" for path, text in listed))
    write(data / "nice.csv", "public_id,caption_gt\n" + "".join(f"{n},{captions[n][0]}\n" for n in rows))
    write(data / "cc3m" / "Train_GCC-training.tsv", "".join(f"{text}\thttp://x\n" for _, text in listed))
    write(data / "flickr" / "captions.txt", "image,caption\n" + "".join(f"{n}.jpg,{captions[n][0]}\n" for n in rows))
    coco(data / "coco", "val2014", captions)
    karpathy(data / "coco", [("test", number, "val2014", captions[number]) for number in rows])
    questions = [(10 * number + k, number, f"what {k}?") for number in rows for k in range(2)]
    vqav2(data / "coco", "val2014", questions, answered=True)
    prepared = {
        "prepare_folder": {"data": "folder"},
        "prepare_json": {"data": "list.json"},
        "prepare_instagram": {"data": "list.csv"},
        "prepare_nice": {"data": "nice.csv", "image_dir": f"{data}/folder", "images": False},
        "prepare_cc3m": {"data": "cc3m"},
        "prepare_coco": {"data": "coco/annotations/captions_val2014.json"},
        "prepare_coco_test": {"data": "coco/dataset_coco.json"},
        "prepare_vqav2": {"data": "coco", "split": "val2014"},
        "prepare_flickr8k": {"data": "flickr"},
    }

    def work(folder: Path) -> Jobs:
        folder.mkdir()
        jobs = [
            {
                "type": job,
                **prepared[job],
                "data": f"{data}/{prepared[job]['data']}",
                "out_tsv": f"{folder}/{job}.img.tsv",
            }
            for job in chosen
        ]
        tsv, tars = f"{folder}/prepare_folder.img.tsv", f"{folder}/packed"
        jobs += [
            {"type": "tsv_to_webdataset", "tsv": tsv, "out_tar": f"{tars}.tar", "rows_per_tar": 70},
            {"type": "webdataset_to_tsv", "tars": f"{tars}-*.tar", "out_tsv": f"{folder}/unpacked.img.tsv"},
        ]
        return Jobs(folder / "out", [{**job, "num_workers": 0} for job in jobs])

    def written(folder: Path) -> dict[str, bytes]:
        """All but what holds the date of a tar."""
        return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.suffix != ".json"}

    together(work(tmp_path / "one"), 1)
    several = work(tmp_path / "several")
    found = together(several, 3)
    assert (found.codes, found.err) == ([0, 0, 0], "")
    assert set(several.log.read_text().split()) == {"0", "1", "2"}
    assert len(written(tmp_path / "one")) > 6 * len(chosen)
    assert written(tmp_path / "several") == written(tmp_path / "one")


@pytest.mark.parametrize(("rank", "told"), [("0", 1), ("1", 0)])
def test_what_every_process_finds_wrong_is_told_by_rank_0(monkeypatch, capsys, tmp_path, rank, told) -> None:
    launched = {name: value for name, value in os.environ.items() if not any(name in names for names in LAUNCHERS)}
    monkeypatch.setattr(os, "environ", {**launched, "RANK": rank, "WORLD_SIZE": "2"})
    images = tmp_path / "images.tsv"
    images.write_text("k\tiVBO\n")
    for job, message in (
        (
            {"type": "make_shapes", "out_dir": str(tmp_path)},
            "make_shapes runs as one process, and a launcher started 2",
        ),
        (
            {"type": "extract_features", "model_path": str(tmp_path), "image_tsv": str(images), "out": "f"},
            "2 processes were started without MASTER_ADDR and MASTER_PORT",
        ),
    ):
        assert main(["-p", json.dumps(job)]) == 2
        assert capsys.readouterr().err.count(f"error: {message}") == told
