"""Batches of columns are captioned row by row, also by a real Ray."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from git_caption import CaptionBatches
from git_caption.captioner.captioner import Captioner
from git_caption.errors import UsageError
from tests.small_captioner import small_captioner

ROOT = Path(__file__).resolve().parents[2]
COLOURS = ["red", "green", "blue", "white", "black"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small_captioner(folder / "lm").save(folder / "model")
    return folder / "model"


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (40 + number, 40), colour) for number, colour in enumerate(COLOURS)]


def file(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def column(values: list[Any]) -> np.ndarray:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def test_rows_get_the_texts_that_the_captioner_gives_whatever_they_hold(model, tmp_path):
    whole = Captioner.load(model, device="cpu")
    captions = CaptionBatches(model, batch_size=2, load={"device": "cpu"})
    (tmp_path / "a.png").write_bytes(file(pictures()[3]))
    red, green, blue, _, black = pictures()
    held = [file(red), np.asarray(green), {"bytes": file(blue), "path": None}, str(tmp_path / "a.png"), black]
    found = captions({"image": column(held), "number": np.arange(5)})
    assert list(found) == ["image", "number", "caption", "error"]
    assert found["caption"].tolist() == whole.caption(pictures())
    assert len(set(found["caption"])) > 1 and set(found["error"]) == {""}
    assert found["number"].tolist() == list(range(5))

    # images of one shape make one array
    alike = [Image.new("RGB", (40, 40), colour) for colour in COLOURS]
    assert captions({"image": np.stack([*map(np.asarray, alike)])})["caption"].tolist() == whole.caption(alike)
    assert captions({"image": np.empty(0, dtype=object)})["caption"].tolist() == []


def test_questions_are_answered_and_sampling_follows_the_key(model):
    whole = Captioner.load(model, device="cpu")
    questions = ["what is left of the star?", "yes or no?"] * 2
    batch = {"image": column(pictures()[:4]), "question": column(questions), "id": np.array([7, 7, 8, 8])}
    found = CaptionBatches(model, question="question", into="said", load={"device": "cpu"})(batch)
    assert found["said"].tolist() == whole.answer(pictures()[:4], questions)
    one = {"image": column(pictures()[:1] * 4), "id": np.array([7, 7, 8, 9])}
    drawn = CaptionBatches(model, key="id", temperature=1.5, with_scores=True, load={"device": "cpu"})(one)
    assert drawn["caption"][0] == drawn["caption"][1] and len(set(drawn["caption"])) > 1
    assert drawn["logprob"].dtype == np.float64 and (drawn["logprob"] < drawn["mean_logprob"]).all()


def test_a_row_that_cannot_be_processed_has_its_cause(model):
    held = [file(pictures()[0]), b"broken", None, np.zeros((4, 4), dtype=np.float32), "nowhere.png", b""]
    held, asked = [*held, file(pictures()[1])], [*["yes?"] * len(held), "what is left? " * 200]
    batch = {"image": column(held), "question": column(asked)}
    found = CaptionBatches(model, question="question", with_scores=True, load={"device": "cpu"})(batch)
    assert found["answer"].tolist()[1:] == [""] * 6 and found["error"][0] == ""
    for error, cause in zip(
        found["error"][1:],
        [
            "not an image",
            "the image is None; expected bytes of an image file",
            r"the image is an array float32\[4, 4\]; expected uint8",
            "'nowhere.png': the image cannot be read: No such file",
            "the image has zero bytes",
            "shorten the prompt",
        ],
        strict=True,
    ):
        assert re.search(cause, error), error
    assert np.isnan(found["logprob"]).tolist() == [False] + [True] * 6


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"num_captions": 2, "num_beams": 2}, "num_captions 2: a row has one text"),
        ({"num_beam": 2}, "num_beam"),
        ({"batch_size": 0}, "batch_size 0: expected 1 or more"),
    ],
)
def test_wrong_parameters_are_told(told, fault, model):
    with pytest.raises(UsageError, match=fault):
        CaptionBatches(model, load={"device": "cpu"}, **told)


def test_columns_that_are_absent_or_would_be_lost_are_told(model):
    captions = CaptionBatches(model, load={"device": "cpu"})
    with pytest.raises(UsageError, match="there is no column 'image'; found picture"):
        captions({"picture": column([])})
    with pytest.raises(UsageError, match="column 'caption' is there already and would be lost"):
        captions({"image": column([]), "caption": column([])})


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_the_example_runs_on_a_local_ray(tmp_path):
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").split("## In Ray Data")[1]
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "data").symlink_to(ROOT / "data")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(pictures()):
        picture.save(photos / f"{number}.png")
    (photos / "9.png").write_bytes(b"broken")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": ""}
    told = "import json, pathlib\nrows = ray.data.read_parquet('captions').sort('path').take_all()\n"
    told += "kept = [{k: row[k] for k in ('path', 'caption', 'error')} for row in rows]\n"
    told += "pathlib.Path('found.json').write_text(json.dumps(kept))\n"
    command = [sys.executable, "-c", example[1] + told]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    *good, bad = json.loads((tmp_path / "found.json").read_text())
    whole = Captioner.load(ROOT / "data" / "shapes" / "model", device="cpu")
    assert [row["caption"] for row in good] == whole.caption(pictures())
    assert not any(row["error"] for row in good)
    assert bad["caption"] == "" and "not an image" in bad["error"]
