"""Samples of a chunk → their features, as a feature cache holds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from git_caption.params.features import StoredAs
from git_caption.pipeline.halving import Encoder, Halving
from git_caption.samples.features import FeatureRow
from git_caption.samples.sample import Failure, ImageSample
from git_caption.samples.training_data import TrainingSample


class Extraction:
    """Encodes the samples of a chunk, batched as captioning batches them."""

    def __init__(self, encoder: Encoder, batch_size: int, stored_as: StoredAs) -> None:
        self.encoder = encoder
        self.batch_size = batch_size
        self.stored_as = stored_as
        self.halving = Halving(encoder.device)

    def __call__(self, samples: Sequence[ImageSample | TrainingSample]) -> list[FeatureRow | Failure]:
        """The features of each sample, in order; a Failure where they are not finite numbers of that precision."""
        pixels = [sample.pixels for sample in samples]
        features = self.halving.encoded(self.encoder, pixels, min(self.batch_size, len(pixels)))
        counts = features.mask.sum(dim=1).tolist()  # padding is on the right
        values = features.values.float().cpu().numpy()
        return [self._row(sample.key, values[number, : counts[number]]) for number, sample in enumerate(samples)]

    def _row(self, key: str, values: np.ndarray) -> FeatureRow | Failure:
        with np.errstate(over="ignore"):
            stored = values.astype(self.stored_as)
        if np.isfinite(stored).all():
            return FeatureRow(key, stored)
        if not np.isfinite(values).all():
            return Failure(key, "the image encoder gives values that are no finite numbers", ())
        largest = float(np.abs(values).max())
        return Failure(key, f"a value of {largest:g} is too large for float16: give 'stored_as': 'float32'", ())
