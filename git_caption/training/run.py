"""One run: data opened, parts built, the loop, and what it leaves; on every process of a launcher."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_caption import processes
from git_caption.errors import UsageError
from git_caption.params.schema import to_dict
from git_caption.params.training.dataset import DatasetParams
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.validation import ValidationParams

if TYPE_CHECKING:
    from git_caption.images.reader import ImageReader
    from git_caption.samples.clipcap_pickle import ClipCapPickle
    from git_caption.samples.feature_rows import EncodedSamples, TextSamples
    from git_caption.samples.features import FeatureCache
    from git_caption.samples.training_data import TrainingData, TrainingSamples
    from git_caption.training.summary import Summary

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
    "loss_save_path",
    "report_to",
)
NOTED = "training.json"


def train(params: TrainingParams) -> Summary:
    """Run one training and write its output directory; on every process of a launcher.

    Raises:
        UsageError: the directory holds a model already, or the saves of a run with other settings.
        JobFailed: another run is writing it.
        Stopped: by a signal, with the state saved.
    """
    from git_caption.training.trackers import require_installed

    require_installed(params.saving.trackers)
    _require_cider(params.validation)
    processes.as_torchrun()
    from git_caption.pipeline.lock import locked

    out = Path(params.saving.output_dir)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / "lock", out) if processes.rank() == 0 else nullcontext():
            return _train(params, out)
    finally:
        if made and processes.rank() == 0:
            with suppress(OSError):  # not empty: then it holds something of the run
                out.rmdir()


def _train(params: TrainingParams, out: Path) -> Summary:
    from git_caption.training.state import Saves

    opened = _opened(params.dataset)
    files = opened.files
    if (validated_on := params.validation.dataset(params.dataset)) is not None:
        validated = _opened(validated_on)
        files += validated.files
        if validated.is_of(opened) and processes.rank() == 0:
            _say("warning: the validation set is what is trained on; 'val_split' and 'val_data' name another")
    else:
        validated = None
    saves = Saves(out, _settings(params, files), params.saving.keep)
    if params.saving.resume == "none" and processes.rank() == 0:
        saves.remove()
    if not saves.steps():
        _require_no_model(out)
    import torch

    from git_caption.captioner import checkpoint
    from git_caption.captioner.captioner import Captioner
    from git_caption.images.augment import Augmentation
    from git_caption.images.reader import ImageReader
    from git_caption.images.transform import Transform
    from git_caption.params.model import PromptConfig, TransformConfig
    from git_caption.samples.collate import Collate
    from git_caption.samples.steps import Share, TrainingSteps
    from git_caption.samples.validation_batches import ValidationBatches
    from git_caption.training import loop, parts, tuning
    from git_caption.training.device import accelerator_of
    from git_caption.training.objectives import CaptionObjective, ContrastiveObjective, LanguageObjective, Objective
    from git_caption.training.validation import Validation

    dataset, optimisation = params.dataset, params.optimisation
    accelerator = accelerator_of(params.computing.device, params.computing.precision)
    device = accelerator.device
    torch.manual_seed(optimisation.seed)
    language = params.parts.objective == "language"
    built: parts.Parts | None = None
    objective: Objective
    if params.parts.objective == "contrastive":
        tokenizer = parts.build_tokenizer(params.parts, opened.data)
        objective = ContrastiveObjective(*parts.build_clip(params.parts, tokenizer, device))
        collate = Collate(tokenizer, PromptConfig(), captions=1, questions=0)
        pixels = parts.transform_config(params.parts)
    elif language:
        model, tokenizer = parts.build_language(params.parts, opened.data, device)
        objective = LanguageObjective(model)
        prompt = params.parts.prompt or PromptConfig()
        collate = Collate(tokenizer, prompt, dataset.captions_per_image, dataset.questions_per_image)
        pixels = TransformConfig()
    else:
        built = parts.build_parts(params, opened.data, device)
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
    for one in (opened, validated):
        if one is not None and one.features is not None:
            assert built is not None, "checked with the parameters"
            parts.check_features(one.features, built, params, one.data)
    seen = Transform(pixels.resolution, pixels.interpolation, pixels.resize)
    reader = None if language else ImageReader(seen, pixels.exif)
    augmented = reader
    if dataset.augment != "none" and reader is not None:
        augmented = replace(reader, augmentation=Augmentation(flip=dataset.augment == "crop_and_flip"))
    share = Share(optimisation.bs, optimisation.accumulation, accelerator.process_index, accelerator.num_processes)
    validation: Validation | None = None
    if validated is not None:
        most = params.validation.val_images
        batches = ValidationBatches(validated.samples(reader), collate, share, optimisation.seed, most)
        captioner = None if built is None else Captioner(built.config, built.network, built.tokenizer)
        validation = Validation(objective, batches, captioner, params, pixels, accelerator)
    steps = TrainingSteps(opened.samples(augmented), collate, share, optimisation.seed)
    run = loop.TrainingRun(objective, steps, params, pixels, accelerator, saves, _say, validation)
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
        if built is not None:
            config = tuning.finish(built.network, built.config, params.tuning)
            checkpoint.save(config, built.network, built.tokenizer, out)
        elif language:
            _save_language_model(objective.get_submodule("language_model"), tokenizer, out)
        else:
            assert params.parts.image_encoder is not None, "checked with the parameters"
            architecture = params.parts.image_encoder.architecture
            _save_encoder(objective.get_submodule("image_encoder"), architecture, pixels.resolution, out)
        saves.remove()
        print(f"{summary}\nwrote {out}")
    return summary


@dataclass(frozen=True, eq=False)
class _Opened:
    """A data set, and the features that stand for its pictures; a pickle of ClipCap's is both."""

    data: TrainingData
    features: FeatureCache | ClipCapPickle | None

    @property
    def files(self) -> list[Path]:
        """The files that rows come from."""
        return [*self.data.inputs, *([] if self.features is None else [self.features.path])]

    def samples(self, reader: ImageReader | None) -> TrainingSamples | EncodedSamples | TextSamples:
        """The rows as samples: pixels, or the features, or without a reader the texts alone."""
        from git_caption.samples.feature_rows import EncodedSamples, TextSamples
        from git_caption.samples.training_data import TrainingSamples

        if reader is None:
            return TextSamples(self.data)
        return TrainingSamples(self.data, reader) if self.features is None else EncodedSamples(self.data, self.features)

    def is_of(self, other: _Opened) -> bool:
        """Whether the rows are those of another data set."""
        own, others = self.data, other.data
        return (own.inputs, len(own), own.where(0)) == (others.inputs, len(others), others.where(0))


def _opened(params: DatasetParams) -> _Opened:
    from git_caption.samples.clipcap_pickle import ClipCapPickle
    from git_caption.samples.features import FeatureCache
    from git_caption.samples.open_data import open_data
    from git_caption.samples.training_tsv import TrainingTsv

    if params.pickled and params.data is not None:
        pickled = ClipCapPickle(params.data)
        return _Opened(pickled, pickled)
    features = FeatureCache(params.features) if params.stored and params.features else None
    if params.features and features is None and processes.rank() == 0:
        _say(f"'augment' is {params.augment!r}: the pictures are read, and the features in {params.features} not used")
    if params.image_tsv is not None and params.caption_tsv is not None:
        return _Opened(TrainingTsv(params.image_tsv, params.caption_tsv, params.question_tsv), features)
    assert params.data is not None, "checked with the parameters"
    columns = {"image_column": params.image_column, "caption_column": params.caption_column}
    return _Opened(open_data(params.data, split=params.split, **columns), features)


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


def _require_cider(params: ValidationParams) -> None:
    if params.best_by == "cider" and find_spec("pycocoevalcap") is None:
        raise UsageError("'best_by': cider needs pycocoevalcap: pip install 'git-caption[metrics]'")


def _require_no_model(folder: Path) -> None:
    """Refuse to replace a model; what a run that did not end has left, its journal, is no model."""
    from git_caption.captioner import checkpoint

    for name in (checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.TOKENIZER, checkpoint.WRITTEN):
        if (folder / name).exists():
            raise UsageError(
                f"'output_dir': {folder} holds {name!r} of an earlier model, which is not overwritten: name another "
                "folder, or delete this one"
            )


def _save_encoder(image_encoder: Any, architecture: dict[str, Any] | None, resolution: int, out: Path) -> None:
    """Write `visual.*` tensors, as `image_encoder.weights` of another run takes them.

    An architecture of open_clip's kind is described beside them, so that the file's path alone names the encoder.
    """
    from safetensors.torch import save

    from git_caption.model.clip_table import DESCRIPTION
    from git_caption.tsv.writer import write_atomically

    if architecture is not None and "vision_cfg" in architecture:
        vision = {**architecture["vision_cfg"], "image_size": resolution}
        text = json.dumps({"model_cfg": {**architecture, "vision_cfg": vision}}, indent=2)
        write_atomically(out / DESCRIPTION, f"{text}\n".encode())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in image_encoder.state_dict().items()}
    write_atomically(out / "model.safetensors", save(tensors, metadata={"format": "pt"}))


def _save_language_model(model: Any, tokenizer: Any, out: Path) -> None:
    """Write a model folder, as `language_model.name` of another run takes it."""
    from git_caption.model.folder import quiet

    with quiet():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _say(line: str) -> None:
    """A line of progress, above the progress bar, at once also where output goes to a file."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()
