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
