"""One run: data opened, parts built, the loop, and what it leaves; on every process of a launcher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_caption import processes
from git_caption.errors import UsageError
from git_caption.params.schema import to_dict
from git_caption.params.training.dataset import DatasetParams
from git_caption.params.training.run import TrainingParams

if TYPE_CHECKING:
    from git_caption.samples.clipcap_pickle import ClipCapPickle
    from git_caption.samples.features import FeatureCache
    from git_caption.samples.training_data import TrainingData

# What of the parameters does not change a number that the run computes.
INDIFFERENT = (
    "preset",
    "output_dir",
    "num_workers",
    "log_every",
    "save_every",
    "keep",
    "resume",
    "on_error",
    "max_errors",
)
NOTED = "training.json"


def train(params: TrainingParams) -> None:
    """Run one training and write its output directory; on every process of a launcher.

    Raises:
        UsageError: the directory holds a model already, or the saves of a run with other settings.
        JobFailed: another run is writing it.
        Stopped: by a signal, with the state saved.
    """
    processes.as_torchrun()
    from git_caption.pipeline.lock import locked

    out = Path(params.saving.output_dir)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / "lock", out) if processes.rank() == 0 else nullcontext():
            _train(params, out)
    finally:
        if made and processes.rank() == 0:
            with suppress(OSError):  # not empty: then it holds something of the run
                out.rmdir()


def _train(params: TrainingParams, out: Path) -> None:
    from git_caption.training.state import Saves

    data, features = _opened(params.dataset)
    files = data.inputs if features is None else (*data.inputs, features.path)
    saves = Saves(out, _settings(params, files), params.saving.keep)
    if params.saving.resume == "none" and processes.rank() == 0:
        saves.remove()
    if not saves.steps():
        _require_no_model(out)
    import torch

    from git_caption.captioner import checkpoint
    from git_caption.images.augment import Augmentation
    from git_caption.images.reader import ImageReader
    from git_caption.images.transform import Transform
    from git_caption.params.model import PromptConfig
    from git_caption.samples.collate import Collate
    from git_caption.samples.feature_rows import EncodedSamples
    from git_caption.samples.steps import Share, TrainingSteps
    from git_caption.samples.training_data import TrainingSamples
    from git_caption.training import loop, parts, tuning
    from git_caption.training.device import accelerator_of
    from git_caption.training.objectives import CaptionObjective, ContrastiveObjective, Objective

    dataset, optimisation = params.dataset, params.optimisation
    accelerator = accelerator_of(params.computing.device, params.computing.precision)
    device = accelerator.device
    torch.manual_seed(optimisation.seed)
    built: parts.Parts | None = None
    objective: Objective
    if params.parts.objective == "contrastive":
        tokenizer = parts.build_tokenizer(params.parts, data)
        objective = ContrastiveObjective(*parts.build_clip(params.parts, tokenizer, device))
        collate = Collate(tokenizer, PromptConfig(), captions=1, questions=0)
        pixels = parts.transform_config(params.parts)
    else:
        built = parts.build_parts(params, data, device)
        objective = CaptionObjective(built.network)
        collate = Collate(
            built.tokenizer,
            built.config.prompt,
            dataset.captions_per_image,
            dataset.questions_per_image,
            dataset.max_caption_tokens,
            built.room,
        )
        pixels = built.config.transform
    reader = ImageReader(Transform(pixels.resolution, pixels.interpolation, pixels.resize), pixels.exif)
    if dataset.augment != "none":
        reader = replace(reader, augmentation=Augmentation(flip=dataset.augment == "crop_and_flip"))
    share = Share(optimisation.bs, optimisation.accumulation, accelerator.process_index, accelerator.num_processes)
    samples: TrainingSamples | EncodedSamples
    if features is None:
        samples = TrainingSamples(data, reader)
    else:
        assert built is not None, "checked with the parameters"
        parts.check_features(features, built, params, data)
        samples = EncodedSamples(data, features)
    steps = TrainingSteps(samples, collate, share, optimisation.seed)
    run = loop.TrainingRun(objective, steps, params, pixels, accelerator, saves, _say)
    if accelerator.is_main_process:
        if optimisation.warmup_steps >= run.steps:
            _say(
                f"the learning rate rises for {optimisation.warmup_steps} steps and the run has {run.steps}: it does "
                "not reach lr; lower --warmup_steps"
            )
        if not saves.steps():
            _note(params, out)
    summary = run.go()
    if accelerator.is_main_process:
        if built is None:
            _save_encoder(objective.get_submodule("image_encoder"), out)
        else:
            config = tuning.finish(built.network, built.config, params.tuning)
            checkpoint.save(config, built.network, built.tokenizer, out)
        saves.remove()
        print(f"{summary}\nwrote {out}")


def _opened(params: DatasetParams) -> tuple[TrainingData, FeatureCache | ClipCapPickle | None]:
    """The data, and the features that stand for its pictures; a pickle of ClipCap's is both."""
    from git_caption.samples.clipcap_pickle import ClipCapPickle
    from git_caption.samples.features import FeatureCache
    from git_caption.samples.open_data import open_data
    from git_caption.samples.training_tsv import TrainingTsv

    if params.pickled and params.data is not None:
        pickled = ClipCapPickle(params.data)
        return pickled, pickled
    features = FeatureCache(params.features) if params.stored and params.features else None
    if params.features and features is None and processes.rank() == 0:
        _say(f"'augment' is {params.augment!r}: the pictures are read, and the features in {params.features} not used")
    if params.image_tsv is not None and params.caption_tsv is not None:
        return TrainingTsv(params.image_tsv, params.caption_tsv, params.question_tsv), features
    assert params.data is not None, "checked with the parameters"
    columns = {"image_column": params.image_column, "caption_column": params.caption_column}
    return open_data(params.data, split=params.split, **columns), features


def _settings(params: TrainingParams, inputs: Sequence[Path]) -> dict[str, Any]:
    """All that decides what a run computes, as JSON can hold it."""
    from git_caption.samples.inputs import identity

    settings = {name: value for name, value in to_dict(params).items() if name not in INDIFFERENT}
    settings["inputs"] = [identity(path) for path in inputs]
    settings["processes"] = processes.world_size()
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _note(params: TrainingParams, out: Path) -> None:
    """Write what the run is told, whoever told it, as a config that repeats it."""
    from git_caption.tsv.writer import write_atomically

    write_atomically(out / NOTED, json.dumps(to_dict(params), indent=2).encode() + b"\n")


def _require_no_model(folder: Path) -> None:
    """Refuse to replace a model; what a run that did not end has left, its journal, is no model."""
    from git_caption.captioner import checkpoint

    for name in (checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.TOKENIZER, checkpoint.WRITTEN):
        if (folder / name).exists():
            raise UsageError(
                f"'output_dir': {folder} holds {name!r} of an earlier model, which is not overwritten: name another "
                "folder, or delete this one"
            )


def _save_encoder(image_encoder: Any, out: Path) -> None:
    """Write `visual.*` tensors, in the form that `image_encoder.weights` of another run takes."""
    from safetensors.torch import save

    from git_caption.tsv.writer import write_atomically

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in image_encoder.state_dict().items()}
    write_atomically(out / "model.safetensors", save(tensors, metadata={"format": "pt"}))


def _say(line: str) -> None:
    """A line of progress, at once also where output goes to a file."""
    print(line, flush=True)
