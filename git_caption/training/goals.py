"""What a run trains for: the objective with its parts, how batches are made for it, and what is left at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from safetensors.torch import save
from transformers import PreTrainedModel

from git_caption.captioner.captioner import Captioner
from git_caption.errors import UsageError
from git_caption.images.reader import ImageReader
from git_caption.metrics.cider import CiderD
from git_caption.model.clip_table import DESCRIPTION
from git_caption.model.folder import quiet
from git_caption.model.vision import ImageEncoder
from git_caption.params.model import BaseCaptionerConfig, PromptConfig, TransformConfig
from git_caption.params.training.run import TrainingParams
from git_caption.samples.collate import Collate
from git_caption.samples.training_data import TrainingData
from git_caption.training import parts, pretrained, single_parts
from git_caption.training.objectives import CaptionObjective, ContrastiveObjective, LanguageObjective, Objective
from git_caption.training.scst import ScstObjective, frequencies_of
from git_caption.training.trainable import Trainable
from git_caption.tsv.writer import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Goal:
    """What a run trains for.

    Attributes:
        objective: the loss, with what is trained.
        collate: makes its batches.
        save: writes what was trained into a folder.
        pixels: from picture to pixels; None where no picture is looked at.
        built: the parts of a captioner; None where it is none.
        validated: the objective of validations, where it is another.
    """

    objective: Objective
    collate: Collate
    save: Callable[[Path], None]
    pixels: TransformConfig | None = None
    built: Trainable | None = None
    validated: Objective | None = None

    @property
    def reader(self) -> ImageReader | None:
        """From an image file to pixels."""
        if self.built is not None:
            return self.built.reader
        return None if self.pixels is None else parts.reader_of(self.pixels)

    @property
    def referred(self) -> PreTrainedModel | None:
        """The language model where what is left refers to it, and does not hold its weights."""
        if isinstance(self.built, parts.Parts) and self.built.config.language_model.weights is not None:
            return self.built.network.language_model
        return None

    @property
    def captioner(self) -> Captioner | None:
        """The captioner in its present state."""
        return None if self.built is None else self.built.captioner


def goal_of(
    params: TrainingParams, data: TrainingData, device: torch.device, base: BaseCaptionerConfig | None = None
) -> Goal:
    """The goal that `objective` names, its parts on `device`. Raises as `parts` does.

    base: whose captions stand before those that are trained.
    """
    match params.parts.objective:
        case "contrastive":
            return _contrastive(params, data, device)
        case "language":
            return _language(params, data, device)
        case "scst":
            return _scst(params, data, _caption(params, data, device, base))
        case _:
            return _caption(params, data, device, base)


def _caption(
    params: TrainingParams, data: TrainingData, device: torch.device, base: BaseCaptionerConfig | None
) -> Goal:
    name, dataset = pretrained.named(params.parts), params.dataset
    built: Trainable
    if name is not None:
        built = pretrained.build_pretrained(name, params, device)
    else:
        own = parts.build_parts(params, data, device)
        built = replace(own, config=replace(own.config, base=base))
    collate = Collate(
        built.tokenizer,
        built.prompt,
        dataset.captions_per_image,
        dataset.questions_per_image,
        dataset.max_caption_tokens,
        built.room,
        dataset.lower_case,
        built.special_tokens,
    )
    return Goal(CaptionObjective(built.network), collate, partial(built.save, params.tuning), built.pixels, built)


def _scst(params: TrainingParams, data: TrainingData, goal: Goal) -> Goal:
    """That of a captioner, but for the loss, which is still validated: a caption is drawn for it and nothing asked."""
    assert goal.captioner is not None and goal.built is not None, "of a captioner"
    if goal.built.prompt.end:
        source = params.parts.captioner or params.parts.init_from
        raise UsageError(
            f"'objective': scst scores whole captions, which end with the end token, and those of {source} end at the "
            f"text {goal.built.prompt.end!r} ('prompt.end'); train it on captions with 'prompt.end' left empty first"
        )
    with PartialState().main_process_first():  # the others read what it writes
        frequencies = frequencies_of(data, params.dataset, Path(params.saving.output_dir))
    objective = ScstObjective(goal.captioner, CiderD(frequencies), params.scst.samples, params.scst.baseline)
    collate = replace(goal.collate, captions=1, questions=0)
    return replace(goal, objective=objective, collate=collate, validated=goal.objective)


def _contrastive(params: TrainingParams, data: TrainingData, device: torch.device) -> Goal:
    assert params.parts.image_encoder is not None, "checked with the parameters"
    tokenizer = single_parts.build_tokenizer(params.parts, data)
    image_encoder, clip_text = single_parts.build_clip(params.parts, tokenizer, device)
    pixels = single_parts.transform_of(params.parts.image_encoder, params.parts)
    architecture = params.parts.image_encoder.architecture or image_encoder.architecture  # told, or beside its weights
    save_it = partial(_save_encoder, image_encoder, architecture, pixels.resolution)
    collate = Collate(tokenizer, PromptConfig(), captions=1, questions=0)
    return Goal(ContrastiveObjective(image_encoder, clip_text), collate, save_it, pixels)


def _language(params: TrainingParams, data: TrainingData, device: torch.device) -> Goal:
    model, tokenizer = single_parts.build_language(params.parts, data, device)
    dataset = params.dataset
    prompt = params.parts.prompt or PromptConfig()
    drawn = dataset.captions_per_image, dataset.questions_per_image
    collate = Collate(tokenizer, prompt, *drawn, lower_case=dataset.lower_case)
    return Goal(LanguageObjective(model), collate, partial(_save_language_model, model, tokenizer))


def _save_encoder(image_encoder: ImageEncoder, architecture: dict[str, Any] | None, resolution: int, out: Path) -> None:
    """Write `visual.*` tensors, as `image_encoder.weights` of another run takes them.

    An architecture of open_clip's kind is described beside them, so that the file's path alone names the encoder.
    """
    if architecture is not None and "vision_cfg" in architecture:
        vision = {**architecture["vision_cfg"], "image_size": resolution}
        text = json.dumps({"model_cfg": {**architecture, "vision_cfg": vision}}, indent=2)
        write_atomically(out / DESCRIPTION, f"{text}\n".encode())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in image_encoder.state_dict().items()}
    write_atomically(out / "model.safetensors", save(tensors, metadata={"format": "pt"}))


def _save_language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write a model folder, as `language_model.name` of another run takes it."""
    with quiet():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
