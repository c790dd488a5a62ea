"""Parameters of `train.py`: what is trained, from what, on which data, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.decoding import DecodingParams
from git_caption.params.model import (
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    PromptConfig,
)
from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """The text tower that an image encoder is trained against (objective `contrastive`); thrown away after that."""

    width: int = key(128, minimum=1, help="width of its layers")
    layers: int = key(2, minimum=1, help="number of layers")
    heads: int = key(4, minimum=1, help="attention heads")
    context: int = key(64, minimum=1, help="longest text, in tokens")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """A width that the heads cannot share, as (keys concerned, message)."""
        if self.width % self.heads:
            yield ("width", "heads"), f"'width': expected a multiple of 'heads', {self.heads}, found {self.width}"


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """One run of `train.py`."""

    output_dir: str = key(help="checkpoint directory to write; one that holds a model is refused", kind="output_dir")
    data: str | None = key(
        None,
        help="the data set: a folder, table, tars or hub id in any format that validate_data knows, or a pickle of "
        "ClipCap's parse_coco.py; in its place image_tsv",
        kind="data",
    )
    split: str | None = key(None, help="which part of `data`, where it has several; None: its train split")
    image_column: str | None = key(None, help="column of a table that holds the images; None: found by its name")
    caption_column: str | None = key(None, help="column of a table that holds the captions; None: found by its name")
    features: str | None = key(
        None,
        help="what extract_features stored of the data's pictures, in their place; for an image encoder that is frozen",
        kind="input_file",
    )
    image_tsv: str | None = key(None, help="pictures: key, base64 of an image file", kind="input_file")
    caption_tsv: str | None = key(None, help="captions: key, JSON list of {'caption': ...}", kind="input_file")
    question_tsv: str | None = key(
        None,
        help="questions: key, JSON list of {'question': ..., 'answers': [{'answer': ...}]}; trained with the captions",
        kind="input_file",
    )
    objective: Literal["caption", "contrastive"] = key(
        "caption",
        help="caption: captions and answers by the language model; contrastive: an image encoder from nothing, as CLIP",
    )
    init_from: str | None = key(
        None, help="checkpoint directory to go on from: it brings the parts and the vocabulary", kind="input_dir"
    )
    image_encoder: ImageEncoderConfig | None = key(None, help="the visual tower; weights: where it starts from")
    language_model: LanguageModelConfig | None = key(
        None, help="the language model; with an architecture it starts from nothing"
    )
    mapper: MapperConfig | None = key(None, help="the network between the two; linear where not given")
    input_resolution: int | None = key(
        None, minimum=1, help="side of the pictures that the image encoder sees, in pixels; None: the encoder's own"
    )
    prompt: PromptConfig | None = key(None, help="prompt templates, kept in the checkpoint")
    decoding: DecodingParams | None = key(None, help="decoding defaults, kept in the checkpoint")
    clip_text: ClipTextConfig = key(ClipTextConfig(), help="the text tower of the contrastive objective")
    vocab_size: int = key(512, minimum=257, help="of the BPE trained on the texts, where the language model is new")
    train_image_encoder: bool = key(False, help="train the image encoder too")
    train_language_model: bool = key(False, help="train the language model too")
    epochs: float = key(1.0, above=0, help="passes over the pictures; may be a fraction")
    bs: int = key(32, minimum=1, help="pictures that a process computes at once", aliases=("batch_size",))
    accumulation: int = key(1, minimum=1, help="batches whose gradients make one step, for memory too small for bs")
    lr: float = key(2e-5, above=0, help="highest learning rate of AdamW")
    image_encoder_lr: float | None = key(
        None, above=0, help="the image encoder's own, where it is trained; None: as lr"
    )
    warmup_steps: int = key(100, minimum=0, help="steps in which the learning rate rises from zero")
    schedule: Literal["linear", "cosine", "constant"] = key("linear", help="how the learning rate falls after that")
    weight_decay: float = key(0.01, minimum=0, help="AdamW's, on matrices only")
    max_grad_norm: float = key(1.0, above=0, help="gradients are scaled down to this norm")
    captions_per_image: int = key(1, minimum=1, help="captions drawn for a picture in a step")
    questions_per_image: int = key(1, minimum=0, help="questions drawn for a picture in a step")
    seed: int = key(0, minimum=0, help="of the weights, the order and the captions drawn")
    num_workers: int = key(1, minimum=0, help="processes that read and decode")
    device: str = key("auto", help="auto (a GPU where there is one), cpu, cuda or cuda:1")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto", help="of the computation, weights that are trained stay float32; auto: float32 on a CPU, else bfloat16"
    )
    on_error: Literal["skip", "raise"] = key(
        "skip", help="a picture that cannot be read: skip leaves it out and lists it in skipped.tsv, raise ends the run"
    )
    max_errors: int | None = key(None, minimum=0, help="the run fails past so many skipped pictures; None: no bound")
    save_every: int = key(500, minimum=1, help="steps between two saves that a stopped run can go on from")
    keep: int = key(2, minimum=1, help="saves that are kept")
    resume: Literal["auto", "none"] = key(
        "auto", help="auto goes on from the last save of a stopped run of the same command; none drops it"
    )
    log_every: int = key(50, minimum=1, help="steps between two lines of journal.csv")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Data or parts that are missing, given twice or cannot train together, as (keys concerned, message)."""
        yield from self._check_data()
        if self.init_from is not None:
            for name in ("image_encoder", "language_model", "mapper", "input_resolution"):
                if getattr(self, name) is not None:
                    yield ("init_from", name), f"{name!r}: 'init_from' brings it; leave one of them out"
            if self.objective == "contrastive":
                yield ("init_from", "objective"), "'init_from': a captioner's checkpoint holds no text tower"
        else:
            if self.image_encoder is None:
                yield ("image_encoder",), "missing key 'image_encoder', or 'init_from': the visual tower"
            if self.language_model is None and self.objective == "caption":
                yield ("language_model",), "missing key 'language_model', or 'init_from': the language model"
        if self.objective == "contrastive" and self.image_encoder and self.image_encoder.output != "pooled":
            message = "'objective': contrastive compares pooled features: set 'image_encoder.output' to pooled"
            yield ("objective", "image_encoder"), message
        if self.language_model and self.language_model.architecture is not None and self.language_model.weights:
            message = "'language_model': 'architecture' makes a new one and 'weights' names one: leave one of them out"
            yield ("language_model",), message
        if self.train_language_model and self.language_model and self.language_model.quantization != "none":
            message = "'train_language_model': a language model in 8 or 4 bits cannot be trained, only kept frozen"
            yield ("train_language_model", "language_model"), message

    def _check_data(self) -> Iterator[tuple[tuple[str, ...], str]]:
        for name in ("image_tsv", "caption_tsv", "question_tsv"):
            if self.data is not None and getattr(self, name) is not None:
                yield ("data", name), f"'data' and {name!r} exclude each other; give one of them"
        if self.data is None:
            for name in ("split", "image_column", "caption_column"):
                if getattr(self, name) is not None:
                    yield ("data", name), f"{name!r}: chooses from 'data', and there is none"
            if self.image_tsv is None:
                yield ("data", "image_tsv"), "missing key 'data', or 'image_tsv' and 'caption_tsv': what to train on"
            elif self.caption_tsv is None:
                yield ("image_tsv", "caption_tsv"), "missing key 'caption_tsv': the captions of 'image_tsv'"
        stored = self.features is not None or (self.data or "").endswith(".pkl")
        if stored and (self.train_image_encoder or self.objective == "contrastive"):
            yield (
                ("features", "train_image_encoder", "objective"),
                "'features': the image encoder is trained, so that its features change: leave one of the two out",
            )
