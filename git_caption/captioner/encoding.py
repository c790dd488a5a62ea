"""An image encoder by itself: what turns images into features without the rest of a captioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from git_caption.captioner import hub, weight_sources
from git_caption.captioner.groups import in_groups
from git_caption.errors import UsageError
from git_caption.images.processor import Preparation
from git_caption.images.reader import ImageReader
from git_caption.images.strip import Strip
from git_caption.images.transform import Transform, normalise
from git_caption.model.mixing import NO_IMAGES, JointEncoder
from git_caption.model.vision import Features, ImageEncoder, build_image_encoder, encoder_transform
from git_caption.params.features import FeatureOrigin
from git_caption.params.model import CaptionerConfig, ImageEncoderConfig, TransformConfig

Pixels = Sequence[npt.NDArray[np.uint8]]


class Encoding:
    """An image encoder with its transform.

    Attributes:
        encoder: the tower, in evaluation mode.
        transform: from picture to pixels.
        origin: what its features are told by.
        exact_decode: whether large JPEGs are decoded in full.
    """

    def __init__(
        self, encoder: ImageEncoder, transform: TransformConfig, origin: FeatureOrigin, exact_decode: bool = False
    ) -> None:
        """Join parts that are there already."""
        self.encoder = encoder
        self.transform = transform
        self.origin = origin
        self.exact_decode = exact_decode

    @classmethod
    def load(
        cls,
        name: str,
        output: Literal["grid", "pooled"],
        resolution: int | None,
        device: torch.device,
        dtype: torch.dtype,
        exact_decode: bool = False,
    ) -> Encoding:
        """An encoder by its name, as `hub.resolve_encoder` takes it; raises as that and `build_image_encoder` do."""
        config = ImageEncoderConfig(name=name, output=output)
        weights = hub.resolve_encoder(name)
        transform = encoder_transform(config, weights, resolution)
        encoder = build_image_encoder(config, weights, resolution).to(device, dtype).eval().requires_grad_(False)
        origin = FeatureOrigin(
            image_encoder=name, weights=weight_sources.weights_sha256(weights), output=output, transform=transform
        )
        return cls(encoder, transform, origin, exact_decode)

    def encode_many(self, pixels: Pixels, batch_size: int) -> Features:
        """As `Captioner.encode_many`."""
        return encoded_in_batches(self._encode, pixels, batch_size)

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> Features:
        with torch.inference_mode():
            given = torch.as_tensor(pixels).to(self.device)
            features: Features = self.encoder(normalise(given, self.transform.mean, self.transform.std))
            return features

    @property
    def reader(self) -> ImageReader:
        """From the bytes of an image file to pixels, in worker processes too."""
        return ImageReader(preparation(self.transform, self.encoder), self.transform.exif, self.exact_decode)

    @property
    def device(self) -> torch.device:
        """Where pixels and features go."""
        return next(self.encoder.parameters()).device


def preparation(transform: TransformConfig, encoder: ImageEncoder) -> Transform:
    """From an RGB picture to the pixels that the encoder takes."""
    cell = encoder.cell or 1
    return Transform(transform.resolution, transform.interpolation, transform.resize, transform.longest, cell)


def joint_preparation(config: CaptionerConfig, encoder: ImageEncoder) -> Preparation:
    """From an RGB picture to the pixels that the image encoder of a captioner takes, or all that it mixes.

    Raises UsageError where it mixes stored prefixes.
    """
    if config.mixing is None:
        return preparation(config.transform, encoder)
    if not isinstance(encoder, JointEncoder):
        raise UsageError(NO_IMAGES)
    towers = zip(config.encoders, encoder.towers, strict=True)
    return Strip(tuple(preparation(described.transform, tower) for described, tower in towers))


def encoded_in_batches(encode: Callable[[Any], Features], pixels: Pixels, batch_size: int) -> Features:
    """The features of one or more images uint8[3, H, W], `batch_size` of one shape at once, padded where needed.

    Raises UsageError where there is no image.
    """
    if len(pixels) == 0:  # an array of images, too
        raise UsageError("no images to encode: expected one or more")

    def of(batch: list[int]) -> list[Features]:
        found = encode(np.stack([pixels[index] for index in batch]))
        return [Features(values[None], mask[None]) for values, mask in zip(found.values, found.mask, strict=True)]

    return Features.joined(in_groups(_batches([image.shape for image in pixels], batch_size), of))


def _batches(shapes: Sequence[tuple[int, ...]], batch_size: int) -> list[tuple[Any, int]]:
    """For each image the batch it is in: of one shape, and of at most `batch_size`; a function of these alone."""
    seen: dict[tuple[int, ...], int] = {}
    batches = []
    for shape in shapes:
        batches.append((shape, seen.get(shape, 0) // batch_size))
        seen[shape] = seen.get(shape, 0) + 1
    return batches
