"""One run: data opened, parts built, the loop, and what it leaves; on every process of a launcher."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_caption import processes
from git_caption.errors import UsageError
from git_caption.params.schema import to_dict
from git_caption.params.training.run import TrainingParams

if TYPE_CHECKING:
    from accelerate import Accelerator

    from git_caption.params.model import BaseCaptionerConfig
    from git_caption.samples.training_data import TrainingData
    from git_caption.training.goals import Goal
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
    "base_captions",
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
    _require_cider(params)
    if (name := params.computing.spreads) is not None and processes.world_size() > 1:
        raise UsageError(
            f"{name!r}: the language model is spread over the devices of one process, and a launcher started "
            f"{processes.world_size()}: start one, or leave it out"
        )
    if params.computing.fsdp and processes.world_size() == 1:
        raise UsageError(
            "'fsdp': shards are shared out to several processes, and this is the only one: start it with torchrun "
            "--nproc_per_node=N, or leave it out"
        )
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
    from git_caption.training.opened import open_all
    from git_caption.training.state import Saves

    say = _say if processes.rank() == 0 else _say_nothing
    opened = open_all(params.dataset, say)
    files, validated = opened.files, None
    if (validated_on := params.validation.dataset(params.dataset)) is not None:
        validated = open_all(validated_on, say)
        files += validated.files
        if validated.is_of(opened):
            say("warning: the validation set is what is trained on; 'val_split' and 'val_data' name another")
        if params.best_by == "accuracy" and not validated.asks():
            raise UsageError("'best_by': accuracy is that of answers, and the validation set has no question")
    saves = Saves(out, _settings(params, files), params.saving.keep, mapped=params.computing.fsdp)
    if params.saving.resume == "none" and processes.rank() == 0:
        saves.remove()
    if not saves.steps():
        _require_no_model(out)
    import torch

    from git_caption.images.augment import Augmentation
    from git_caption.params.model import TransformConfig
    from git_caption.samples.steps import Share, TrainingSteps
    from git_caption.samples.validation_batches import ValidationBatches
    from git_caption.training import base_captions, loop, pretrained, sharding
    from git_caption.training.device import accelerator_of
    from git_caption.training.validation import Validation

    dataset, optimisation = params.dataset, params.optimisation
    accelerator = accelerator_of(params.computing.device, params.computing.precision)
    base = None
    pretrained.check_alone(params)
    if params.parts.objective == "scst":
        base_captions.require_none(params)
    if params.prompting.prompted:
        base = base_captions.base_of(params)
        opened, validated = base_captions.prompted(opened, validated, base, params, accelerator, say)
    torch.manual_seed(optimisation.seed)
    goal = _goal(params, opened.data, accelerator, base)
    for one in (*opened.sets, *(validated.sets if validated is not None else ())):
        if one.features is not None:
            assert goal.built is not None, "checked with the parameters"
            goal.built.check_features(one.features, params, one.data)
    reader = augmented = goal.reader
    if dataset.augment != "none" and reader is not None:
        augmented = replace(reader, augmentation=Augmentation(flip=dataset.augment == "crop_and_flip"))
    share = Share(optimisation.bs, optimisation.accumulation, accelerator.process_index, accelerator.num_processes)
    pixels = goal.pixels or TransformConfig()
    validation: Validation | None = None
    if validated is not None:
        most = params.validation.val_images
        batches = ValidationBatches(validated.samples(reader), goal.collate, share, optimisation.seed, most)
        validation = Validation(goal.validated or goal.objective, batches, goal.captioner, params, pixels, accelerator)
    steps = TrainingSteps(opened.samples(augmented), goal.collate, share, optimisation.seed, dataset.data_weights)
    run = loop.TrainingRun(goal.objective, steps, params, pixels, accelerator, saves, say, validation)
    if optimisation.warmup_steps >= run.steps:
        say(
            f"the learning rate rises for {optimisation.warmup_steps} steps and the run has {run.steps}: it does "
            "not reach lr; lower --warmup_steps"
        )
    if accelerator.is_main_process and not saves.steps():
        _note(params, out)
    summary = run.go()
    if params.computing.fsdp:
        sharding.make_whole(goal.objective, left=goal.referred)
    if accelerator.is_main_process:
        goal.save(out)
        saves.remove()
        print(f"{summary}\nwrote {out}")
    return summary


def _goal(
    params: TrainingParams, data: TrainingData, accelerator: Accelerator, base: BaseCaptionerConfig | None
) -> Goal:
    """What the run trains for, its parts on the device; of what is in shards only these."""
    import torch

    from git_caption.training import goals, sharding

    if not params.computing.fsdp:
        return goals.goal_of(params, data, accelerator.device, base)
    if accelerator.scaler is not None:
        raise UsageError("'precision': auto is float16 on this GPU, which 'fsdp' does not take; set it to float32")
    sharding.require_shardable(params)
    mesh = sharding.mesh_of(accelerator)
    with sharding.in_turn(accelerator):
        goal = goals.goal_of(params, data, torch.device("cpu"), base)
        assert isinstance(goal.objective, sharding.OfLanguage), "checked with the parameters"
        sharding.shard(goal.objective, mesh)
    return goal


def _settings(params: TrainingParams, inputs: Sequence[Path]) -> dict[str, Any]:
    """All that decides what a run computes, as JSON can hold it."""
    from git_caption.samples.inputs import identity

    settings = {name: value for name, value in to_dict(params).items() if name not in INDIFFERENT}
    if not params.computing.fsdp:
        del settings["fsdp"]  # which runs begun by earlier versions do not have
    settings["inputs"] = [identity(path) for path in inputs]
    settings["processes"] = processes.world_size()
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _note(params: TrainingParams, out: Path) -> None:
    """Write what the run is told, whoever told it, as a config that repeats it."""
    from git_caption.tsv.writer import write_atomically

    write_atomically(out / NOTED, json.dumps(to_dict(params), indent=2).encode() + b"\n")


def _require_cider(params: TrainingParams) -> None:
    if params.validation.asked and params.best_by == "cider" and find_spec("pycocoevalcap") is None:
        raise UsageError("'best_by': cider needs pycocoevalcap: pip install 'git-caption[metrics]'")


def _require_no_model(folder: Path) -> None:
    """Refuse to replace a model; what a run that did not end has left, its journal, is no model."""
    from git_caption.captioner.checkpoint_folder import CONFIG, TOKENIZER, WEIGHTS, WRITTEN

    for name in (CONFIG, WEIGHTS, TOKENIZER, WRITTEN):
        if (folder / name).exists():
            raise UsageError(
                f"'output_dir': {folder} holds {name!r} of an earlier model, which is not overwritten: name another "
                "folder, or delete this one"
            )


def _say(line: str) -> None:
    """A line of progress, above the progress bar, at once also where output goes to a file."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def _say_nothing(_: str) -> None:
    """On all processes but the first."""
