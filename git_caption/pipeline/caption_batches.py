"""A captioner that is called with batches of columns: what Ray Data's `map_batches` makes once and calls many times.

Needs no Ray: a batch is a dict of NumPy arrays of one length.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from git_caption.captioner.captioner import BATCH_SIZE, Captioner, Generated
from git_caption.errors import DataError, UsageError
from git_caption.params.decoding import DecodingParams, Task
from git_caption.params.schema import parse
from git_caption.pipeline.captioning import Captioning
from git_caption.samples.sample import ImageSample
from git_caption.tsv.rows import Question

if TYPE_CHECKING:
    from git_caption.images.reader import Picture

Columns = dict[str, npt.NDArray[Any]]
ERROR = "error"
SCORES = ("logprob", "mean_logprob")


class CaptionBatches:
    """Captions the images of each batch, or answers the questions about them.

    A row that cannot be processed is no crash: its text is empty, and the column `error` says why.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        image: str = "image",
        question: str | None = None,
        key: str | None = None,
        into: str | None = None,
        batch_size: int = BATCH_SIZE,
        load: Mapping[str, Any] | None = None,
        **decoding: Any,
    ) -> None:
        """Load the captioner, on the process that will call it.

        Args:
            model_path: as `Captioner.load` takes it.
            image: column of images: bytes of image files, their paths, arrays uint8[H, W, 3] or uint8[H, W], or dicts
                with `bytes` or `path`, as data sets of Hugging Face have them.
            question: column of questions, each about the image of its row; None: images are captioned.
            key: column that sampling is seeded by; None: by what the image shows.
            into: column to write; None: `caption`, or `answer` where there are questions.
            batch_size: texts computed at once, of those in a batch.
            load: further parameters of `Captioner.load`.
            **decoding: keys of `DecodingParams`; with `with_scores` there are columns `logprob` and `mean_logprob`.

        Raises:
            UsageError: parameters that are unknown or contradict each other, found before anything is loaded.
            WeightsError: weights that cannot be found or do not fit.
        """
        task: Task = "caption" if question is None else "answer"
        told = parse(DecodingParams, decoding, "CaptionBatches")
        if batch_size < 1:
            raise UsageError(f"CaptionBatches: batch_size {batch_size}: expected 1 or more")
        captioner = Captioner.load(model_path, **(load or {}))
        settled = captioner.decoding(told, task)
        if settled.num_captions != 1:
            raise UsageError(f"CaptionBatches: num_captions {settled.num_captions}: a row has one text; expected 1")
        self.image, self.question, self.key = image, question, key
        self.into = into or task
        self._captioning = Captioning(captioner, settled, batch_size, answers=question is not None)
        self._scores = SCORES if settled.with_scores else ()

    def __call__(self, batch: Columns) -> Columns:
        """The batch with columns more: the text of each row, and `error`, empty where there is none.

        Raises:
            UsageError: a column is not there, or would be written over.
            JobFailed: the device's memory is too small for a single row.
        """
        self._check(batch)
        read = [self._sample(batch, row) for row in range(len(batch[self.image]))]
        samples = [found for found in read if isinstance(found, ImageSample)]
        following = iter(self._captioning.texts_of(samples) if samples else [])
        found = [next(following) if isinstance(one, ImageSample) else one for one in read]
        texts = [None if isinstance(one, DataError) else one[0] for one in found]
        errors = [str(one) if isinstance(one, DataError) else "" for one in found]
        scores = {name: np.array([_score(text, name) for text in texts], dtype=np.float64) for name in self._scores}
        said = _column(["" if text is None else text.text for text in texts])
        return {**batch, self.into: said, **scores, ERROR: _column(errors)}

    def _check(self, batch: Columns) -> None:
        there = ", ".join(batch) or "none"
        for name in (self.image, self.question, self.key):
            if name is not None and name not in batch:
                raise UsageError(f"CaptionBatches: there is no column {name!r}; found {there}")
        for name in (self.into, *self._scores, ERROR):
            if name in batch:
                raise UsageError(
                    f"CaptionBatches: column {name!r} is there already and would be lost; drop or rename it, or write "
                    "texts 'into' another"
                )

    def _sample(self, batch: Columns, row: int) -> ImageSample | DataError:
        """An image as the captioner takes it, with its question; or why it cannot be read."""
        captioner = self._captioning.captioner
        base = captioner.base if self.question is None else None
        try:
            picture = _picture(batch[self.image][row])
            (pixels,) = captioner.pixels(picture)
            reader = None if base is None else base.reader
            base_pixels = None if reader is None else reader.frames(picture)[0]
        except UsageError as error:  # a path that leads nowhere is one row's fault, not the command's
            return DataError(str(error))
        except DataError as error:
            return error
        key = hashlib.sha256(pixels.tobytes()).hexdigest() if self.key is None else str(batch[self.key][row])
        if self.question is None:
            return ImageSample(key, pixels, (), base_pixels)
        question = str(batch[self.question][row])
        return ImageSample(key, pixels, (Question(question, question),))


def _picture(value: Any) -> Picture:
    """What a row's image is to a captioner. Raises DataError for what is none."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim not in (2, 3) or value.shape[2:] not in ((), (3,), (4,)):
            raise DataError(
                f"the image is an array {value.dtype}{list(value.shape)}; expected uint8[H, W, 3] or uint8[H, W]"
            )
        return Image.fromarray(value)
    if isinstance(value, (str, bytes, Path, Image.Image)):
        return value
    raise DataError(
        f"the image is {value!r:.40}; expected bytes of an image file, its path, or an array uint8[H, W, 3]"
    )


def _score(text: Generated | None, name: str) -> float:
    value = None if text is None else getattr(text, name)
    return math.nan if value is None else float(value)


def _column(texts: Sequence[str]) -> npt.NDArray[np.object_]:
    """As Ray Data has texts: an array of objects, which no text is cut in."""
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found
