from __future__ import annotations

import pytest

from benchmarks import training
from git_caption.params.model import ImageEncoderConfig

SMALL = {
    **training.GPT2,
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 2,
    "vocab_size": 4096,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ENCODER = ImageEncoderConfig(
    name="custom",
    architecture={
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32},
    },
    output="pooled",
)


@pytest.mark.parametrize("task", [training.FEATURES, training.IMAGES], ids=["features", "images"])
def test_the_two_sides_lose_alike(tmp_path, task) -> None:
    training.prepare(tmp_path, 80, SMALL, ENCODER)
    steps = 80 // task.batch_size
    (tmp_path / "batches.json").write_text(training.json.dumps(training.batches(tmp_path, task, steps)))
    before = training.plain_loop(tmp_path, task)
    here = training.ours(tmp_path, task, steps, "float32", cached=not task.from_images)
    assert len(before.losses) == steps and training.difference(before, here) < 2e-5  # the journal has five places
    assert before.losses[-1] < before.losses[0]
