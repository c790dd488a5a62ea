"""The job that encodes images once, for runs that then need no image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import torch

from git_caption import processes
from git_caption.captioner.captioner import Captioner, Features
from git_caption.captioner.encoding import Encoding
from git_caption.captioner.loading import device_of, dtype_of
from git_caption.images.reader import ImageReader
from git_caption.jobs.infer import load_captioner, on_own_device, origin_of
from git_caption.model.git import GitNetwork
from git_caption.params.features import CacheDescription, EncoderParams, ExtractParams, FeatureOrigin
from git_caption.params.infer import ModelParams
from git_caption.params.schema import to_dict
from git_caption.pipeline.extraction import Extraction
from git_caption.pipeline.feature_parts import FeatureParts
from git_caption.pipeline.run import run
from git_caption.pipeline.workers import RowSource
from git_caption.samples.features import FeatureCache
from git_caption.samples.image_tsv import ImageTsvSource
from git_caption.samples.inputs import identity
from git_caption.samples.open_data import open_data
from git_caption.samples.sample import ImageSample
from git_caption.samples.training_data import TrainingSample, TrainingSamples
from git_caption.samples.training_tsv import TrainingTsv


def extract(params: ExtractParams) -> None:
    """Encode every row of an image TSV, or of data to train on, into a feature cache in the same order."""
    running = on_own_device(params.running)
    params = replace(params, running=running)
    encoder, origin = _encoder(params)
    with processes.rank_0_first():  # it writes the index of a TSV
        source = _images(params, encoder.reader)
    description = CacheDescription(
        origin=origin,
        inputs=tuple(identity(path) for path in source.inputs),
        computed_in=str(dtype_of(running.dtype, encoder.device)).removeprefix("torch."),
        exact_decode=running.exact_decode,
    )
    settings = {
        "features": to_dict(description),
        "stored_as": params.stored_as,
        "batch_size": running.batch_size,
        "device": encoder.device.type,
    }
    extraction = Extraction(encoder, running.batch_size, params.stored_as)
    summary = run(
        source,
        extraction,
        params.out,
        settings,
        form=FeatureParts(description, params.stored_as),
        num_workers=running.workers,
        on_error=running.on_error,
        max_errors=running.max_errors,
        resume=running.resume,
        some_good=True,
        halved=lambda: extraction.halving.count,
    )
    if processes.rank():
        return
    print(summary)
    cache = FeatureCache(params.out)
    shape = list(cache.block.values.shape)
    print(f"{params.out}: {origin.what} {params.stored_as}{shape}, {cache.path.stat().st_size / 1e6:.1f} MB")


class _Prefixes:
    """A captioner's mapper after its image encoder; of BLIP-2, its queries and their projection."""

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.reader = captioner.reader
        self.device = captioner.device

    def encode_many(self, pixels: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> Features:
        """The prefixes of images."""
        found = self.captioner.encode_many(pixels, batch_size)
        if not isinstance(self.captioner.network, GitNetwork):
            return found
        with torch.inference_mode():
            return Features(*self.captioner.network.prefix(found))


def _images(params: ExtractParams, reader: ImageReader) -> RowSource[ImageSample | TrainingSample]:
    """The images of the job. Of TSVs the images alone count: their captions may change."""
    if params.image_tsv is not None:
        return ImageTsvSource(params.image_tsv, None, reader)
    assert params.data is not None, "checked with the parameters"
    data = open_data(
        params.data, split=params.split, image_column=params.image_column, caption_column=params.caption_column
    )
    return (
        ImageTsvSource(data.images.path, None, reader)
        if isinstance(data, TrainingTsv)
        else TrainingSamples(data, reader)
    )


def _encoder(params: ExtractParams) -> tuple[Captioner | Encoding | _Prefixes, FeatureOrigin]:
    """What encodes, and what it is told by. Raises as `Captioner.load`, `Encoding.load` and `origin_of`."""
    running = params.running
    if params.model.model_path is None and params.model.model_name is None:
        encoding = _by_name(params)
        return encoding, encoding.origin
    model = _captioner_of(params.model)
    captioner = load_captioner(model, running)
    origin = origin_of(model, captioner, params.what)
    return (captioner if params.what == "features" else _Prefixes(captioner)), origin


def _by_name(params: ExtractParams) -> Encoding:
    model, device = params.model, device_of(params.running.device)
    assert model.image_encoder_type is not None, "checked with the parameters"
    return Encoding.load(
        model.image_encoder_type,
        "pooled" if model.output_grid is False else "grid",
        model.input_resolution,
        device,
        dtype_of(params.running.dtype, device),
        params.running.exact_decode,
    )


def _captioner_of(model: EncoderParams) -> ModelParams:
    """As the other jobs of a command name it, so that it is loaded once."""
    return ModelParams(**{field.name: getattr(model, field.name) for field in fields(ModelParams)})
