"""The inference jobs: images in, captions or answers out."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from git_caption import processes
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.feature_origin import feature_origin, feature_origins, pretrained_origin
from git_caption.captioner.loading import dtype_of
from git_caption.decoding.generate import Generated, Identity
from git_caption.errors import DataError, JobFailed, UsageError
from git_caption.images.reader import ImageReader
from git_caption.params import paths
from git_caption.params.decoding import Decoding, Task
from git_caption.params.features import FeatureOrigin, What
from git_caption.params.infer import ChatParams, CocoParams, ModelParams, SingleImageParams, SingleTsvParams
from git_caption.params.model import CaptionerConfig
from git_caption.params.running import RunningParams
from git_caption.pipeline.captioning import Captioning, caption_entries
from git_caption.pipeline.run import Summary, run
from git_caption.pipeline.table_parts import Recorded, written_as
from git_caption.pipeline.workers import RowSource
from git_caption.samples.coco_images import CocoImages
from git_caption.samples.feature_rows import FeatureSource
from git_caption.samples.image_tsv import ImageTsvSource
from git_caption.samples.sample import FeatureSample, ImageSample
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import dumps, parse_caption_row
from git_caption.tsv.writer import write_atomically


def single_tsv(params: SingleTsvParams) -> None:
    """Caption every row of an image TSV, or answer its questions, into a TSV in the same order."""
    running = on_own_device(params.running)
    captioner = load_captioner(params.model, running, params.prompting)
    with processes.rank_0_first():  # it writes the index of the TSV
        source = _rows(params, captioner)
    task: Task = "caption" if params.question_tsv is None else "answer"
    decoding = captioner.decoding(params.decoding, task)
    if task == "answer" and decoding.num_captions > 1:
        raise UsageError(
            f"'num_captions': {decoding.num_captions} asked for, but a question has one answer: leave it out"
        )
    summary = _write(captioner, decoding, source, params.out_tsv, running, answers=task == "answer")
    if processes.rank() == 0:
        print(summary)


def on_own_device(running: RunningParams) -> RunningParams:
    """How a job runs in this one of several processes."""
    return replace(running, device=processes.own_device(running.device))


def _rows(params: SingleTsvParams, captioner: Captioner) -> ImageTsvSource | FeatureSource:
    """The images of the job, or features in their place. Raises UsageError if these are not the captioner's."""
    if params.features is None:
        assert params.image_tsv is not None, "checked with the parameters"
        base_reader = _base_reader(captioner) if params.question_tsv is None else None
        return ImageTsvSource(params.image_tsv, params.question_tsv, captioner.reader, base_reader)
    source = FeatureSource(params.features, params.question_tsv)
    source.cache.check_origins(_origins(params.model, captioner, source.what), params.model.path)
    base = captioner.base if params.question_tsv is None else None
    if base is not None and (source.what == "prefix" or not base.shares_features):
        raise UsageError(
            f"'features': the base captioner of {params.model.path} takes others; give 'image_tsv', or 'prompted': "
            "False for captions without it"
        )
    return source


def _base_reader(captioner: Captioner) -> ImageReader | None:
    return None if captioner.base is None else captioner.base.reader


def _origins(model: ModelParams, captioner: Captioner, what: What) -> tuple[FeatureOrigin, ...]:
    """What the files are told by that may stand for the captioner's images. Raises UsageError as `origin_of`."""
    if what == "features" and isinstance(captioner.config, CaptionerConfig):
        return feature_origins(captioner.config, model)
    return (origin_of(model, captioner, what),)


def single_image(params: SingleImageParams) -> None:
    """Print the caption of an image, or the answer to a question about it; a line for each of several images."""
    images = _several(params.image_path)
    captioner = load_captioner(params.model, params.running, params.prompting)
    task: Task = "answer" if params.prompt else "caption"
    decoding = captioner.decoding(params.decoding, task)
    prompt = captioner.question_prompt(params.prompt) if params.prompt else captioner.caption_prompt()
    if images is None:
        pixels = captioner.pixels(params.image_path)
        if captioner.base is not None and not params.prompt:
            (prompt,) = captioner.base.prompts([params.image_path], 1)
        name = params.image_path if isinstance(params.image_path, str) else params.image_path[0]
        found = captioner.describe([pixels], [prompt], decoding, [Identity(os.path.basename(name))])
        print(_printed(found[0], decoding))
        return
    captioning = Captioning(captioner, decoding, params.running.batch_size, answers=task == "answer")
    failures = Failures(params.running.on_error, params.running.max_errors)
    for path, texts in _described(captioning, images, prompt):
        if isinstance(texts, DataError):
            failures.note(path, texts)
        shown = "" if isinstance(texts, DataError) else _printed(texts, decoding)
        print(f"{path}\t{' '.join(shown.split())}", flush=True)  # whatever the text holds, one line
    if failures.count:
        print(f"{failures.count} of {len(images)} images could not be processed", file=sys.stderr)
    if captioning.halved:
        print(f"{captioning.halved} batches halved for lack of memory", file=sys.stderr)


def coco(params: CocoParams) -> None:
    """Caption a split of COCO into a result JSON; a TSV of the same captions stays beside it."""
    captioner = load_captioner(params.model, params.running, params.prompting)
    source = CocoImages(params.data_dir, params.data_type, params.p_test, captioner.reader, _base_reader(captioner))
    decoding = captioner.decoding(params.decoding, "caption")
    print(_write(captioner, decoding, source, params.captions_tsv, params.running, answers=False))
    with TsvFile(params.captions_tsv) as rows:
        captions = [parse_caption_row(columns, rows.where(row)) for row, columns in enumerate(rows)]
    results = [
        {"image_id": image_id, "caption": row.captions[0]}
        for image_id, row in zip(source.image_ids, captions, strict=True)
    ]
    write_atomically(params.out_file, json.dumps(results).encode())
    print(f"{params.out_file}: {len(results)} captions")


def load_captioner(model: ModelParams, running: RunningParams, prompting: ChatParams | None = None) -> Captioner:
    """The captioner of these parameters; the last one loaded is kept for the next job of the same command."""
    spread = json.dumps([running.device_map, running.max_memory])
    prompted = None if prompting is None else prompting.prompted
    on = (running.device, running.dtype, running.quantization, running.exact_decode, spread)
    captioner = _loaded(model, *on, prompted)
    return captioner if prompting is None else captioner.with_chat(prompting.chat, prompting.system)


@lru_cache(maxsize=1)
def _loaded(
    model: ModelParams,
    device: str,
    dtype: Any,
    quantization: Any,
    exact_decode: bool,
    spread: str,
    prompted: bool | None,
) -> Captioner:
    device_map, max_memory = json.loads(spread)
    return Captioner.load(
        model.path,
        **model.told,
        exact_decode=exact_decode,
        quantization=quantization,
        device=device,
        dtype=dtype,
        device_map=device_map,
        max_memory=max_memory,
        prompted=prompted,
    )


def origin_of(model: ModelParams, captioner: Captioner, what: What) -> FeatureOrigin:
    """What the captioner's features are told by, or its prefixes.

    Raises UsageError for a captioner of transformers: only the prefixes of BLIP-2 are stored, its projected queries.
    """
    if not isinstance(captioner.config, CaptionerConfig):
        from git_caption.model.pretrained import Blip2

        if what == "prefix" and isinstance(captioner.network, Blip2):
            return pretrained_origin(model.path, captioner.config.transform)
        raise UsageError(
            f"{model.path}: a pretrained captioner, whose {what} are not stored; expected one of image encoder, mapper "
            "and language model, or with 'what': 'prefix' BLIP-2"
        )
    return feature_origin(captioner.config, model, what)


def _write(
    captioner: Captioner,
    decoding: Decoding,
    source: RowSource[ImageSample | FeatureSample],
    out: str,
    running: RunningParams,
    *,
    answers: bool,
) -> Summary:
    """Run a source through the captioner into `out`."""
    settings = {
        "model": captioner.fingerprint,
        "prompt": asdict(captioner.config.prompt),
        "decoding": {**asdict(decoding), "allowed_texts": _digest(decoding.allowed_texts)},
        "answers": answers,
        "batch_size": running.batch_size,
        "dtype": str(dtype_of(running.dtype, captioner.device)).removeprefix("torch."),
        "quantization": running.quantization,
        "device": captioner.device.type,
        "exact_decode": running.exact_decode,
    }
    captioning = Captioning(captioner, decoding, running.batch_size, answers=answers)
    recorded = Recorded(answers, several=decoding.num_captions > 1, scores=decoding.with_scores)
    return run(
        source,
        captioning,
        out,
        settings,
        form=written_as(out, recorded),
        # features are there to be read: handing them from process to process would take longer
        num_workers=0 if isinstance(source, FeatureSource) else running.workers,
        on_error=running.on_error,
        max_errors=running.max_errors,
        resume=running.resume,
        halved=lambda: captioning.halved,
    )


def _digest(texts: Sequence[str]) -> str | None:
    """In place of texts that may be many."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest() if texts else None


def _several(path: str | tuple[str, ...]) -> list[str] | None:
    """The images of a folder or glob; None for one image or one video.

    Raises UsageError where there are none, which an earlier job of the command may have been expected to write.
    """
    if isinstance(path, tuple) or os.path.isfile(path):
        return None
    if message := paths.fault(path, "input_path"):
        raise UsageError(f"'image_path': {message}")
    return paths.images(path)


def _described(
    captioning: Captioning, files: Sequence[str], prompt: str
) -> Iterator[tuple[str, list[Generated] | DataError]]:
    """Each file with its texts, or why it has none; only those of one batch are read at a time."""
    for start in range(0, len(files), captioning.batch_size):
        read = {path: _read(captioning.captioner, path) for path in files[start : start + captioning.batch_size]}
        good = {path: image for path, image in read.items() if not isinstance(image, DataError)}
        prompts = [prompt] * len(good)
        if captioning.captioner.base is not None and not captioning.answers:
            prompts = captioning.captioner.base.prompts(list(good), captioning.batch_size)
        rows = [
            (number, own, Identity(os.path.basename(path)))
            for number, (path, own) in enumerate(zip(good, prompts, strict=True))
        ]
        texts = iter(captioning.texts(list(good.values()), rows))
        for path, image in read.items():
            yield path, image if isinstance(image, DataError) else next(texts)


def _read(captioner: Captioner, path: str) -> npt.NDArray[np.uint8] | DataError:
    try:
        return captioner.reader(Path(path).read_bytes())
    except OSError as error:
        return DataError(f"cannot be read: {error.strerror}")
    except DataError as error:
        return error


@dataclass
class Failures:
    """Images without a text so far, and what is to be done about them."""

    on_error: str
    max_errors: int | None
    count: int = 0

    def note(self, path: str, error: DataError) -> None:
        """Say which image is wrong and how, and go on unless it is one too many."""
        if self.on_error == "raise":
            raise DataError(f"{path}: {error}") from error
        print(f"skipped {path}: {error}", file=sys.stderr)
        self.count += 1
        if self.max_errors is not None and self.count > self.max_errors:
            raise JobFailed(
                f"{self.count} images could not be processed, 'max_errors' allows {self.max_errors}"
            ) from error


def _printed(texts: Sequence[Generated], decoding: Decoding) -> str:
    """The text alone; the JSON list that a TSV would hold where several texts or scores are asked for."""
    if decoding.num_captions == 1 and not decoding.with_scores:
        return texts[0].text
    return dumps(caption_entries(texts))
