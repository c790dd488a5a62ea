from __future__ import annotations

import json

import torch

from benchmarks import inference
from git_caption.captioner.captioner import Captioner
from git_caption.jobs.infer import load_captioner, single_tsv
from git_caption.tsv.file import TsvFile

SMALL = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 600,
    "bos_token_id": 599,
    "eos_token_id": 599,
}


def test_the_two_sides_caption_alike(tmp_path) -> None:
    inference.checkpoint(tmp_path, SMALL)
    inference.image_tsv(tmp_path / "images.tsv", 6)
    made = Captioner.load(tmp_path / "model", device="cpu")
    generator = torch.Generator().manual_seed(1)
    for parameter in made.network.mapper.parameters():  # as it is initialised images make hardly a difference
        parameter.data += torch.randn(parameter.shape, generator=generator) / 4
    made.save(tmp_path / "model")
    params = inference.parameters(tmp_path, 4, "float32")
    single_tsv(params)
    with TsvFile(params.out_tsv) as rows:
        captions = [json.loads(found)[0]["caption"] for _, found in rows]
    assert captions == inference.one_row_at_a_time(
        load_captioner(params.model, params.running), tmp_path / "images.tsv", 6
    )
    assert len(set(captions)) > 1
