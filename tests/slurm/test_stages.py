"""configs/cc3m: the files of a whole run, as its stages read them, on a list of a few images."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shlex
import threading
from pathlib import Path

import pytest

from git_caption.downloads.main import main as download
from git_caption.jobs.main import main as inference
from git_caption.jobs.main import plan
from git_caption.params.literal import parse_file
from git_caption.training.command import parse_command

ROOT = Path(__file__).resolve().parents[2]
STAGES = ROOT / "configs" / "cc3m"


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lists of CC3M in their place, with the addresses of eight images that a server here has."""
    site, data = tmp_path / "site", tmp_path / "data" / "conceptual"
    site.mkdir()
    data.mkdir(parents=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lines = []
    for number, row in enumerate((ROOT / "data/shapes/test.img.tsv").read_text().splitlines()[:8]):
        (site / f"{number}.jpg").write_bytes(base64.b64decode(row.split("\t")[1]))
        lines.append(f"caption {number}\thttp://127.0.0.1:{server.server_address[1]}/{number}.jpg\n")
    (data / "Train_GCC-training.tsv").write_text("".join(lines[:5]))
    (data / "Validation_GCC-1.1.0-Validation.tsv").write_text("".join(lines[5:]))
    monkeypatch.chdir(tmp_path)
    yield data
    server.shutdown()
    server.server_close()


def test_each_stage_finds_what_the_one_before_it_left(listed) -> None:
    lines = (STAGES / "download.args").read_text().splitlines()
    flags = shlex.split(" ".join(line for line in lines if not line.startswith("#")))
    assert download([*flags, "--shard", "0/1", "--allow_private"]) == 0
    assert inference(["-f", str(STAGES / "prepare.yaml")]) == 0
    run = parse_command(["--config", str(STAGES / "train.yaml")]).params  # all the files that it names are there
    Path(run.saving.output_dir).parent.mkdir()
    Path(run.saving.output_dir).symlink_to(ROOT / "data/shapes/model")  # in place of a training
    jobs = [job for name in ("infer", "evaluate") for job in parse_file(str(STAGES / f"{name}.yaml"))]
    infer, _ = (params for _, params in plan(jobs, "configs/cc3m"))  # what the first writes the second reads
    images, references = (
        Path(path).read_text().splitlines() for path in (infer.image_tsv, "data/cc3m/val.caption.tsv")
    )
    assert [line.split("\t")[0] for line in images] == [line.split("\t")[0] for line in references]
    assert [json.loads(line.split("\t")[1])[0]["caption"] for line in references] == [f"caption {n}" for n in (5, 6, 7)]
