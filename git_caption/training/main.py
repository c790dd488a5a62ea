"""The command line behind `train.py`: a config file, flags over it, one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_caption import command_line, processes
from git_caption.errors import UsageError
from git_caption.params.literal import parse_file
from git_caption.params.schema import describe, parse
from git_caption.params.training import TrainingParams

if TYPE_CHECKING:
    from git_caption.samples.clipcap_pickle import ClipCapPickle
    from git_caption.samples.features import FeatureCache
    from git_caption.samples.training_data import TrainingData

# What of the parameters does not change a number that the run computes.
INDIFFERENT = ("output_dir", "num_workers", "log_every", "save_every", "keep", "resume", "on_error", "max_errors")

DESCRIPTION = """\
Train a captioner: an image encoder, a mapper and a language model, each new or pretrained, frozen or trained.

  python3 train.py --config configs/shapes.yaml
  python3 train.py --config configs/shapes.yaml --lr 1e-3 --output_dir checkpoints/again
"""

EPILOG = """\
A stopped run goes on from its last save: give the same command again. On several GPUs or machines: torchrun train.py.

Exit codes: 0 done; 1 the run failed; 2 the command or its parameters are wrong; 75 stopped by a signal with the state
saved, the same command goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 wrong command or parameters, 75 stopped by a signal.
    """
    return command_line.run(
        lambda arguments: train(parse_command(arguments)),
        argv,
        stopped="stopped before the end: the same command goes on from the last save, if there is one",
    )


def parse_command(arguments: Sequence[str]) -> TrainingParams:
    """The parameters of a command line; flags win over the config file.

    Raises:
        UsageError: unknown flags or keys, wrong types, absent files; all listed.
    """
    parser = command_line.Parser("train.py", DESCRIPTION, EPILOG)
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with these keys; flags win over it")
    for row in describe(TrainingParams):
        default = "required" if row.required else f"default {row.default}"
        parser.add_argument(
            f"--{row.name}", metavar="VALUE", help=f"{row.help} [{row.type}; {default}]".replace("%", "%%")
        )
    given = vars(parser.parse_args(arguments))
    config, _ = given.pop("config"), given.pop("debug")
    values = _read(config) if config is not None else {}
    values |= {name: value for name, value in given.items() if value is not None}
    return parse(TrainingParams, values, config or "train.py")


def train(params: TrainingParams) -> None:
    """Run one training and write its output directory; on every process of a launcher.

    Raises:
        UsageError: the directory holds a model already, or the saves of a run with other settings.
        JobFailed: another run is writing it.
        Stopped: by a signal, with the state saved.
    """
    processes.as_torchrun()
    from git_caption.pipeline.lock import locked

    out = Path(params.output_dir)
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

    data, features = _opened(params)
    files = data.inputs if features is None else (*data.inputs, features.path)
    saves = Saves(out, _settings(params, files), params.keep)
    if params.resume == "none" and processes.rank() == 0:
        saves.remove()
    if not saves.steps():
        _require_no_model(out)
    import torch

    from git_caption.captioner import checkpoint
    from git_caption.images.reader import ImageReader
    from git_caption.images.transform import Transform
    from git_caption.params.model import PromptConfig
    from git_caption.samples.collate import Collate
    from git_caption.samples.feature_rows import EncodedSamples
    from git_caption.samples.steps import Share, TrainingSteps
    from git_caption.samples.training_data import TrainingSamples
    from git_caption.training import loop, parts
    from git_caption.training.device import accelerator_of
    from git_caption.training.objectives import CaptionObjective, ContrastiveObjective, Objective

    accelerator = accelerator_of(params.device, params.precision)
    device = accelerator.device
    torch.manual_seed(params.seed)
    pixels = parts.transform_config(params)
    reader = ImageReader(Transform(pixels.resolution, pixels.interpolation, pixels.resize), pixels.exif)
    built: parts.Parts | None = None
    objective: Objective
    if params.objective == "contrastive":
        tokenizer = parts.build_tokenizer(params, data)
        objective = ContrastiveObjective(*parts.build_clip(params, tokenizer, device))
        collate = Collate(tokenizer, PromptConfig(), captions=1, questions=0)
    else:
        built = parts.build_parts(params, data, device)
        objective = CaptionObjective(built.network)
        collate = Collate(built.tokenizer, built.config.prompt, params.captions_per_image, params.questions_per_image)
    share = Share(params.bs, params.accumulation, accelerator.process_index, accelerator.num_processes)
    samples: TrainingSamples | EncodedSamples
    if features is None:
        samples = TrainingSamples(data, reader)
    else:
        assert built is not None, "checked with the parameters"
        parts.check_features(features, built, params, data)
        samples = EncodedSamples(data, features)
    steps = TrainingSteps(samples, collate, share, params.seed)
    summary = loop.TrainingRun(objective, steps, params, pixels, accelerator, saves, _say).go()
    if accelerator.is_main_process:
        if built is None:
            _save_encoder(objective.get_submodule("image_encoder"), out)
        else:
            checkpoint.save(built.config, built.network, built.tokenizer, out)
        saves.remove()
        print(f"{summary}\nwrote {out}")


def _opened(params: TrainingParams) -> tuple[TrainingData, FeatureCache | ClipCapPickle | None]:
    """The data, and the features that stand for its pictures; a pickle of ClipCap's is both."""
    from git_caption.samples.clipcap_pickle import ClipCapPickle
    from git_caption.samples.features import FeatureCache
    from git_caption.samples.open_data import open_data
    from git_caption.samples.training_tsv import TrainingTsv

    if params.data is not None and params.data.endswith(".pkl"):
        pickled = ClipCapPickle(params.data)
        return pickled, pickled
    features = None if params.features is None else FeatureCache(params.features)
    if params.image_tsv is not None and params.caption_tsv is not None:
        return TrainingTsv(params.image_tsv, params.caption_tsv, params.question_tsv), features
    assert params.data is not None, "checked with the parameters"
    columns = {"image_column": params.image_column, "caption_column": params.caption_column}
    return open_data(params.data, split=params.split, **columns), features


def _settings(params: TrainingParams, inputs: Sequence[Path]) -> dict[str, Any]:
    """All that decides what a run computes, as JSON can hold it."""
    from git_caption.samples.inputs import identity

    settings = {name: value for name, value in asdict(params).items() if name not in INDIFFERENT}
    settings["inputs"] = [identity(path) for path in inputs]
    settings["processes"] = processes.world_size()
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _read(config: str) -> dict[str, Any]:
    found = parse_file(config)
    if len(found) != 1:
        raise UsageError(f"{config}: expected the keys of one run, found a list of {len(found)}")
    return found[0]


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
