"""Batches too large for the device's memory, on a small random captioner whose memory ends early."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from git_caption.captioner.captioner import Captioner
from git_caption.errors import JobFailed
from git_caption.params.decoding import DecodingParams
from git_caption.pipeline.captioning import Captioning
from git_caption.pipeline.run import Summary
from git_caption.samples.sample import ImageSample
from git_caption.tsv.rows import Question
from tests.small_captioner import small_captioner


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    return small_captioner(tmp_path_factory.mktemp("lm"), mapper="linear", output="grid")


@pytest.fixture
def samples() -> list[ImageSample]:
    source = np.random.default_rng(0)
    pixels = [source.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(7)]
    asked = [(Question(number, "what? " * (1 + number % 3)), Question(-number, "no?")) for number in range(7)]
    return [ImageSample(str(number), image, asked[number]) for number, image in enumerate(pixels)]


def limited(monkeypatch: pytest.MonkeyPatch, captioner: Captioner, name: str, most: int) -> list[int]:
    """Let a method of the captioner take batches of `most` rows only; gives the sizes it was asked for."""
    sizes: list[int] = []
    real = getattr(captioner, name)

    def short(batch: object, *others: object) -> object:
        size = len(batch.values) if hasattr(batch, "values") else len(batch)  # type: ignore[arg-type]
        sizes.append(size)
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice")
        return real(batch, *others)

    monkeypatch.setattr(captioner, name, short)
    return sizes


@pytest.mark.parametrize("answers", [False, True])
def test_a_batch_too_large_is_halved_and_gives_the_same(
    captioner: Captioner, samples: list[ImageSample], answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = captioner.decoding(DecodingParams(), "answer" if answers else "caption")
    plain = Captioning(captioner, decoding, 8, answers=answers)
    expected = plain(samples)
    assert plain.halved == 0
    encoded = limited(monkeypatch, captioner, "encode", 3)
    generated = limited(monkeypatch, captioner, "generate", 3)
    short = Captioning(captioner, decoding, 8, answers=answers)
    assert short(samples) == expected
    assert encoded == [7, 3, 3, 1]
    assert max(generated) > 3 >= min(generated)
    assert short.halved == sum(size > 3 for size in encoded + generated)


@pytest.mark.parametrize("name", ["encode", "generate"])
def test_a_row_too_large_alone_ends_the_job(
    captioner: Captioner, samples: list[ImageSample], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, captioner, name, 0)
    compute = Captioning(captioner, captioner.decoding(DecodingParams(), "caption"), 4, answers=False)
    message = r"^the memory of cpu does not hold .* one row \(CUDA out of memory\. Tried to allocate 2\.00 GiB\.\); run"
    with pytest.raises(JobFailed, match=message):
        compute(samples)


def test_the_summary_names_halved_batches(tmp_path) -> None:
    told = {"out": tmp_path, "rows": 9, "lines": 9, "skipped": 0, "chunks": 1, "resumed_chunks": 0, "seconds": 1.0}
    assert str(Summary(**told, errors_path=None, halved=2)).endswith("; 2 batches halved for lack of memory")
    assert "lack of memory" not in str(Summary(**told, errors_path=None))
