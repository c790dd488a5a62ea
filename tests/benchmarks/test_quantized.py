from __future__ import annotations

import pytest

from benchmarks import quantized
from tests.benchmarks.test_training import ENCODER


@pytest.mark.slow
def test_each_kind_of_weights_is_trained_and_told(monkeypatch) -> None:
    pytest.importorskip("bitsandbytes")
    tiny = {**quantized.LLAMA, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    monkeypatch.setitem(quantized.SHAPES, "small", {**tiny, "num_attention_heads": 2, "vocab_size": 4096})
    monkeypatch.setattr(quantized, "ENCODER", ENCODER)
    said = list(quantized.report("small", ["4bit"], steps=2, batch_size=2))
    assert said[1].startswith("4bit  2 steps in ") and "peak memory" in said[1]
