"""Samples of a chunk → their output lines: features once per image, prompts of like length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from git_caption.captioner.captioner import Captioner, Features, Generated, Identity, Prefix
from git_caption.errors import DataError
from git_caption.params.decoding import Decoding
from git_caption.pipeline.batches import plan
from git_caption.pipeline.halving import Halving
from git_caption.samples.features import padded
from git_caption.samples.sample import Failure, FeatureSample, ImageSample
from git_caption.tsv.rows import Answer, CaptionRow, dumps

Lines = list[list[str]]
Sample = ImageSample | FeatureSample
Row = tuple[int, str, Identity]  # number of the image, prompt, what sampling is seeded by


class Captioning:
    """Captions the samples of a chunk, or answers their questions.

    What a row gets depends on the chunk and the batch size alone, unless the device's memory is too small for a batch:
    then its halves are computed one after the other.
    """

    def __init__(self, captioner: Captioner, decoding: Decoding, batch_size: int, *, answers: bool) -> None:
        self.captioner = captioner
        self.decoding = decoding
        self.batch_size = batch_size
        self.answers = answers
        self.halving = Halving(captioner.device)
        self.base: Captioning | None = None
        if captioner.base is not None and not answers:
            self.base = Captioning(captioner.base.captioner, captioner.base.decoding, batch_size, answers=False)

    @property
    def halved(self) -> int:
        """How often a batch was halved."""
        return self.halving.count + (0 if self.base is None else self.base.halved)

    def __call__(self, samples: Sequence[Sample]) -> list[Lines | Failure]:
        """The lines of each sample, in order; a Failure where a prompt does not fit the language model.

        Raises JobFailed as `texts`, and DataError where the base captioner can caption nothing.
        """
        following = iter(self.texts_of(samples))
        return [self._lines(sample, following) for sample in samples]

    def texts_of(self, samples: Sequence[Sample]) -> list[list[Generated] | DataError]:
        """The texts of each sample, or of each of its questions, in order; or why they cannot be computed.

        Raises as `__call__`.
        """
        features = self._features(samples)
        rows = [
            (image, *asked) for image, all_asked in enumerate(self._asked(samples, features)) for asked in all_asked
        ]
        return self._texts(features, rows)

    def texts(self, pixels: Sequence[npt.NDArray[np.uint8]], rows: Sequence[Row]) -> list[list[Generated] | DataError]:
        """The texts of each row, which names one of the images uint8[3, H, W]; or why they cannot be computed.

        Raises JobFailed where the device's memory is too small for a single row.
        """
        if not pixels:
            return []
        return self._texts(self._encoded(pixels), rows)

    def _texts(self, features: Features, rows: Sequence[Row]) -> list[list[Generated] | DataError]:
        lengths = [len(self.captioner.prompt_ids(prompt)) for _, prompt, _ in rows]
        texts: list[list[Generated] | DataError] = [[]] * len(rows)
        for batch in plan(lengths, self.batch_size):
            for index, found in zip(batch, self._generated(features, [rows[index] for index in batch]), strict=True):
                texts[index] = found
        return texts

    def _features(self, samples: Sequence[Sample]) -> Features:
        """The features of samples: those they bring, else those of their images."""
        given = [sample for sample in samples if isinstance(sample, FeatureSample)]
        if not given:
            return self._encoded([sample.pixels for sample in samples if isinstance(sample, ImageSample)])
        values, mask = (torch.from_numpy(part).to(self.captioner.device) for part in padded([s.values for s in given]))
        return Prefix(values, mask) if given[0].what == "prefix" else Features(values, mask)

    def _encoded(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> Features:
        return self.halving.encoded(self.captioner, pixels, min(self.batch_size, len(pixels)))

    def _generated(self, features: Features, rows: Sequence[Row]) -> list[list[Generated] | DataError]:
        """The texts of some rows; where one of them cannot be computed the rest is, one by one."""
        images, prompts, identities = zip(*rows, strict=True)
        chosen = features.select(torch.tensor(images, device=features.values.device))
        try:
            return list(self.captioner.generate(chosen, prompts, self.decoding, identities))
        except DataError as error:
            if len(rows) == 1:
                return [error]
            parts = [[row] for row in rows]
        except torch.OutOfMemoryError as error:
            self.halving.note(len(rows), error)
            parts = [list(rows[: len(rows) // 2]), list(rows[len(rows) // 2 :])]
        del chosen
        return [found for part in parts for found in self._generated(features, part)]

    def _lines(self, sample: Sample, texts: Iterator[list[Generated] | DataError]) -> Lines | Failure:
        """The output lines of a sample, from the next of `texts`; what failed is left empty."""
        if not self.answers:
            found = next(texts)
            if isinstance(found, DataError):
                return Failure(sample.key, str(found), [CaptionRow(sample.key, ("",)).columns()])
            return [[sample.key, dumps(caption_entries(found))]]
        lines, errors = [], []
        for asked, found in zip(sample.questions, texts, strict=False):
            if isinstance(found, DataError):
                errors.append(str(found))
                lines.append(Answer(asked.question_id, "").columns())
            else:
                lines.append([dumps({"question_id": asked.question_id, "answer": found[0].text, **_scores(found[0])})])
        return Failure(sample.key, "; ".join(errors), lines) if errors else lines

    def _asked(self, samples: Sequence[Sample], features: Features) -> list[list[tuple[str, Identity]]]:
        """The prompts about each sample, each with what its sampling is seeded by."""
        if self.answers:
            return [
                [
                    (self.captioner.question_prompt(asked.question), Identity(sample.key, asked.question_id))
                    for asked in sample.questions
                ]
                for sample in samples
            ]
        prompts = [self.captioner.caption_prompt()] * len(samples)
        if self.base is not None:
            prompts = self._after_base(self.base, samples, features)
        return [[(prompt, Identity(sample.key))] for prompt, sample in zip(prompts, samples, strict=True)]

    def _after_base(self, base: Captioning, samples: Sequence[Sample], features: Features) -> list[str]:
        """The prompts that hold the base captioner's captions. Raises DataError if its own prompt does not fit it."""
        assert self.captioner.base is not None, "it gives the captions"
        own = [s.base_pixels for s in samples if isinstance(s, ImageSample) and s.base_pixels is not None]
        prompt = base.captioner.caption_prompt()
        rows = [(image, prompt, Identity(sample.key)) for image, sample in enumerate(samples)]
        prompts = []
        for found in base.texts(own, rows) if own else base._texts(features, rows):
            if isinstance(found, DataError):
                raise found
            prompts.append(self.captioner.base.prompt(found[0].text))
        return prompts


def caption_entries(texts: Sequence[Generated]) -> list[dict[str, Any]]:
    """Captions as the output TSV holds them, the best first, with their scores where they have any."""
    return [{"caption": text.text, **_scores(text)} for text in texts]


def _scores(text: Generated) -> dict[str, float]:
    if text.logprob is None or text.mean_logprob is None:
        return {}
    # the sum turns -0.0 into 0.0
    return {"logprob": round(text.logprob, 4) + 0.0, "mean_logprob": round(text.mean_logprob, 4) + 0.0}
