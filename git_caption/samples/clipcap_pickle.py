"""CLIP embeddings and captions as ClipCap's parse_coco.py pickles them (https://github.com/rmokady/CLIP_prefix_caption).

    {"clip_embedding": tensor[n, D_v], "captions": [{"image_id", "caption", "clip_embedding": row of the tensor, ...}]}

An image with several captions is stored as often; each caption is a row here, as it was a sample there.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from git_caption.errors import DataError, MissingImage, reason
from git_caption.samples.features import Values
from git_caption.samples.training_data import Texts, checked_texts


class ClipCapPickle:
    """Its rows by number, 0-based: features with their caption.

    Attributes:
        path: the file.
        width: D_v.
    """

    kind = "ClipCap's pickle"
    missing = 0
    tokens = 1

    def __init__(self, path: str | Path) -> None:
        """Read the file, all of it. Nothing in it is run.

        Raises DataError if it is no such pickle, or asks for anything but tensors and plain containers.
        """
        self.path = Path(path)
        content = _unpickled(self.path)
        self.embeddings = self._embeddings(content)
        self.captions = content["captions"]
        self.width = self.embeddings.shape[1]
        for row in range(len(self)):
            self._entry(row)

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def key(self, row: int) -> str:
        """The image's id."""
        return self._entry(row)[0]

    def texts(self, row: int) -> Texts:
        """The caption of a row; its key is the image's id. Raises DataError as `checked_texts` does."""
        key, caption, _ = self._entry(row)
        return checked_texts(key, (caption,), self.where(row))

    def image(self, row: int) -> bytes:
        """There is none. Raises MissingImage."""
        raise MissingImage(f"{self.where(row)}: the pickle holds features and no images")

    def values(self, row: int, key: str) -> Values:
        """The values float16 or float32[1, D_v] of a row. Raises DataError if it has another key."""
        own, _, index = self._entry(row)
        if own != key:
            raise DataError(f"{self.where(row)}: the image id is {own!r}, and {key!r} in the data")
        return self.embeddings[index : index + 1]

    def where(self, row: int) -> str:
        """File and number of the caption (1-based), as messages give them."""
        return f"{self.path}: caption {row + 1}"

    def _embeddings(self, content: Any) -> Values:
        found = content.get("clip_embedding") if isinstance(content, Mapping) else None
        captions = content.get("captions") if isinstance(content, Mapping) else None
        if not isinstance(found, Tensor) or found.dim() != 2 or not isinstance(captions, list):
            raise DataError(
                f"{self.path}: expected a dict with 'clip_embedding', a tensor [n, D_v], and 'captions', a list, as "
                "ClipCap's parse_coco.py writes it"
            )
        kept = found if found.dtype in (torch.float16, torch.float32) else found.float()
        if not bool(torch.isfinite(kept).all()):
            raise DataError(f"{self.path}: 'clip_embedding' holds values that are no finite numbers")
        values: Values = kept.contiguous().numpy()
        return values

    def _entry(self, row: int) -> tuple[str, str, int]:
        """Image id, caption and row of the embedding."""
        entry = self.captions[row]
        image_id, caption, index = (
            (entry.get("image_id"), entry.get("caption"), entry.get("clip_embedding"))
            if isinstance(entry, Mapping)
            else (None, None, None)
        )
        if type(image_id) not in (int, str) or not isinstance(caption, str) or type(index) is not int:
            raise DataError(f"{self.where(row)}: expected 'image_id', 'caption' and the number 'clip_embedding'")
        if not 0 <= index < len(self.embeddings):
            raise DataError(
                f"{self.where(row)}: 'clip_embedding' is {index}, and there are {len(self.embeddings)} rows"
            )
        return str(image_id), caption, index


def _unpickled(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return _Reader(file).load()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # on damaged bytes an unpickler raises nearly anything
        raise DataError(f"{path}: not a readable pickle of embeddings and captions: {reason(error)}") from error


class _Reader(pickle.Unpickler):
    """Unpickles tensors and plain containers; refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither a tensor nor a container")
        return allowed


def _storage(content: bytes) -> torch.TypedStorage:
    """A tensor's numbers, which torch pickles into a pickle of its own."""
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError(f"a {type(storage).__name__} stands where a tensor's numbers are expected")
    return storage


def _tensor(
    storage: torch.TypedStorage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    whole = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    return whole.as_strided(shape, stride, offset)  # which refuses to reach beyond the numbers that are there


ALLOWED = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
}
