"""Any other model of transformers that takes images and texts (LLaVA, PaliGemma, SmolVLM, Qwen-VL, ...), as it is.

Its own processor makes the inputs and its own `generate` the texts. An image is encoded once however many questions it
has where the model takes what its image encoder gave (`mm_encoder_outputs`); else once for each question.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import GenerationConfig

from git_caption.captioner.captioner import Captioner, Features, Generated, Identity, Pixels
from git_caption.captioner.groups import in_groups
from git_caption.decoding.whole import generate_whole, token_settings
from git_caption.errors import WeightsError, reason
from git_caption.images.processor import Preparation, Whole
from git_caption.model.pretrained_network import PretrainedNetwork
from git_caption.model.quantization import Quantization
from git_caption.params.decoding import Decoding
from git_caption.params.model import PromptConfig
from git_caption.params.pretrained import PretrainedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTPUTS = "mm_encoder_outputs"  # transformers' name for what an image encoder gave
# They read more of what their image encoder gives than `ENCODED`, or mix the question into it.
ENCODED_AGAIN = {"fuyu", "granite4_vision", "instructblip", "instructblipvideo", "llama4", "ovis2"}
# Their processors put the tokens that stand for an image into the prompt.
MARKS_ITSELF = {"florence2", "instructblip", "instructblipvideo", "kosmos-2", "kosmos-2.5", "paligemma", "pix2struct"}
DESCRIBE = "Describe the image in one short sentence."
PROMPTS = {
    "florence2": PromptConfig(caption="<CAPTION>"),
    "paligemma": PromptConfig(caption="caption en", question="answer en {question}"),
}
ENCODED = ("pooler_output", "deepstack_features")


@dataclass(frozen=True, eq=False)
class Shown:
    """An image, or the frames of a video: uint8[F, 3, H, W], and what the image encoder gave for it, if it is kept."""

    frames: npt.NDArray[np.uint8]
    encoded: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class Pictures(Features):
    """Features that only their model can read: `values` float[B, 0, 0] has no rows, `shown` has B images."""

    shown: tuple[Shown, ...]

    def select(self, rows: Tensor) -> Pictures:
        """The given images (long[M]), for several prompts on one image."""
        return Pictures(self.values[rows], self.mask[rows], tuple(self.shown[row] for row in rows.tolist()))


class WholeCaptioner(Captioner):
    """A captioner that is a model of transformers with its processor."""

    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig, model: PreTrainedModel, processor: Any, fingerprint: str = "") -> None:
        """Join parts that are there already."""
        super().__init__(config, PretrainedNetwork(model), processor.tokenizer, fingerprint)
        self.model = model
        self.processor = processor
        self.tokens = token_settings(model, self.tokenizer)
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # how to decode is said at every call
        self.encoder: Any = _shared_encoder(model)

    @property
    def transform(self) -> Preparation:
        """A picture stays as it is, but for huge ones: the processor sees it together with the prompt."""
        return Whole()

    def encode(self, pixels: Pixels) -> Features:
        """The images of uint8[B, 3, H, W]."""
        return self._shown([frame[None] for frame in np.asarray(pixels)])

    def encode_many(self, pixels: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> Features:
        """The images uint8[3, H, W], of any sizes."""
        return self._shown([image[None] for image in pixels])

    def encode_frames(self, pixels: Pixels) -> Features:
        """One video of F frames uint8[F, 3, H, W]."""
        return self._shown([np.asarray(pixels)])

    def generate(
        self, features: Features, prompts: Sequence[str], decoding: Decoding, identities: Sequence[Identity]
    ) -> list[list[Generated]]:
        """Generate after each prompt; see `Captioner.generate`."""
        assert isinstance(features, Pictures), "what `encode` gave"
        rows = [self._inputs(shown, prompt) for shown, prompt in zip(features.shown, prompts, strict=True)]

        def of(numbers: list[int]) -> list[list[Generated]]:
            inputs = _joined([rows[number] for number in numbers])
            drawn = [identities[number] for number in numbers]
            return generate_whole(self.model, inputs, decoding, self.tokens, self.tokenizer, drawn)

        return in_groups(range(len(rows)) if decoding.do_sample else [_shapes(row) for row in rows], of)

    def _features(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> Features:
        return self._shown(pixels)

    def _shown(self, images: Sequence[npt.NDArray[np.uint8]]) -> Pictures:
        nothing = torch.empty(len(images), 0, 0, device=self.device)
        shown = tuple(Shown(frames, self._encoded(frames)) for frames in images)
        return Pictures(nothing, torch.empty(len(images), 0, dtype=torch.bool, device=self.device), shown)

    @torch.inference_mode()
    def _encoded(self, frames: npt.NDArray[np.uint8]) -> dict[str, Any] | None:
        """What the image encoder gives, kept on the CPU: a chunk of images would not fit beside the model."""
        if self.encoder is None:
            return None
        found = self.encoder(**_encoder_inputs(self.encoder, self._processed(frames, "")), return_dict=True)
        return {name: _moved(value, "cpu") for name in ENCODED if (value := getattr(found, name, None)) is not None}

    def _inputs(self, shown: Shown, prompt: str) -> dict[str, Any]:
        """What `generate` takes for one row."""
        inputs = self._processed(shown.frames, prompt)
        if shown.encoded is None:
            return inputs
        # sizes and grids stay, for positions are made of them
        return {name: value for name, value in inputs.items() if not name.startswith("pixel_")} | {
            OUTPUTS: shown.encoded
        }

    def _processed(self, frames: npt.NDArray[np.uint8], prompt: str) -> dict[str, Any]:
        """The processor's tensors of pictures and prompt, on the model's device and in its precision."""
        images = list(frames.transpose(0, 2, 3, 1))
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": prompt}]
            found = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            found = self.processor(images=images, text=self._marked(prompt, len(images)), return_tensors="pt")
        tensors = {name: value.to(self.device) for name, value in found.items() if isinstance(value, Tensor)}
        dtype = self.model.dtype
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}

    def _marked(self, prompt: str, count: int) -> str:
        """The prompt after a token for each image, where the processor does not put these in by itself."""
        token = getattr(self.processor, "image_token", None)
        if token is None or self.config.model_type in MARKS_ITSELF:
            return prompt
        return str(token) * count + prompt


def load_whole(
    folder: Path, model: PreTrainedModel, quantization: Quantization, print_of: Callable[[PretrainedConfig], str]
) -> WholeCaptioner:
    """The captioner of a loaded model and the processor in its folder.

    Raises:
        WeightsError: the folder holds no processor of images and texts.
    """
    from transformers import AutoProcessor

    auto: Any = AutoProcessor
    try:
        processor = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged descriptions make transformers raise nearly any kind
        raise WeightsError(f"{folder}: no loadable processor (processor_config.json): {reason(error)}") from error
    if getattr(processor, "tokenizer", None) is None:
        raise WeightsError(f"{folder}: its processor is a {type(processor).__name__}, expected one of images and texts")
    model_type = model.config.model_type
    chats = PromptConfig(caption=DESCRIBE) if getattr(processor, "chat_template", None) else PromptConfig()
    config = PretrainedConfig(model_type, prompt=PROMPTS.get(model_type, chats), quantization=quantization)
    return WholeCaptioner(config, model, processor, print_of(config))


def _shared_encoder(model: PreTrainedModel) -> Any:
    """The model's image encoder, where what it gives can be handed to `generate`; else None."""
    takes = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
    if not takes or model.config.is_encoder_decoder or model.config.model_type in ENCODED_AGAIN:
        return None
    return getattr(model.base_model, "get_image_features", None)


def _encoder_inputs(encoder: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Those of the inputs that the image encoder takes."""
    return {name: inputs[name] for name in inspect.signature(encoder).parameters if name in inputs}


def _shapes(inputs: dict[str, Any]) -> tuple[Any, ...]:
    """Rows that are equal in this can share a batch without padding."""
    return tuple((name, tuple(value.shape)) for name, value in sorted(inputs.items()) if isinstance(value, Tensor))


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The inputs of one batch."""
    joined = {name: _concatenated([row[name] for row in rows]) for name in rows[0] if name != OUTPUTS}
    if OUTPUTS in rows[0]:
        device = joined["input_ids"].device
        encoded = [row[OUTPUTS] for row in rows]
        image = {"pooler_output": _concatenated([_moved(one["pooler_output"], device) for one in encoded])}
        if "deepstack_features" in encoded[0]:
            layers = zip(*(_moved(one["deepstack_features"], device) for one in encoded), strict=True)
            image["deepstack_features"] = [_concatenated(list(layer)) for layer in layers]
        joined[OUTPUTS] = {"image": SimpleNamespace(**image)}
    return joined


def _concatenated(values: list[Any]) -> Any:
    """Tensors along the batch; lists, of a tensor an image, one after another."""
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    return [item for value in values for item in value]


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [_moved(item, device) for item in value]
