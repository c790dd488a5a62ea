"""The captioner: image encoder, mapper, language model, tokenizer and transform as one object."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from git_caption.captioner import checkpoint
from git_caption.captioner.encoding import encoded_in_batches, joint_preparation
from git_caption.captioner.groups import in_groups
from git_caption.captioner.loading import Dtype, device_of, dtype_of, load, pretrained_folder
from git_caption.decoding.generate import Generated, Identity, generate
from git_caption.errors import DataError, UsageError
from git_caption.images.processor import Preparation
from git_caption.images.reader import Frames, ImageReader, Picture
from git_caption.images.transform import normalise
from git_caption.model.device_map import DeviceMap
from git_caption.model.git import GitNetwork
from git_caption.model.quantization import Quantization
from git_caption.model.vision import Features, Prefix
from git_caption.params.decoding import Decoding, DecodingParams, Task, resolve
from git_caption.params.device_split import DeviceSplit
from git_caption.params.infer import MappingType, ModelParams
from git_caption.params.model import BaseCaptionerConfig, CaptionerConfig
from git_caption.params.schema import parse
from git_caption.text.prompts import begins_word, prompt_ids, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from git_caption.captioner.base import Base
    from git_caption.model.pretrained_network import PretrainedNetwork
    from git_caption.params.pretrained import PretrainedConfig

__all__ = ["Captioner", "Features", "Generated", "Identity", "Picture", "Prefix"]

Pixels = npt.NDArray[np.uint8] | Tensor
BATCH_SIZE = 32


class Captioner:
    """Captions images and answers questions about them.

    Attributes:
        config: what it is made of.
        network: the joined network, in evaluation mode.
        tokenizer: the language model's.
        fingerprint: a digest of the weights and of all in the config that can change a text.
        exact_decode: whether large JPEGs are decoded in full, rather than scaled down on the way.
        base: the base captioner, whose caption of a picture stands before the caption; None: there is none.
    """

    def __init__(
        self,
        config: CaptionerConfig | PretrainedConfig,
        network: GitNetwork | PretrainedNetwork,
        tokenizer: PreTrainedTokenizerBase,
        fingerprint: str = "",
        exact_decode: bool = False,
        base: Base | None = None,
    ) -> None:
        """Join parts that are there already; `load` reads them from a path.

        Raises:
            UsageError: prompts are a chat, and the tokenizer has no template for it.
        """
        if config.prompt.chat:
            prompt_ids(tokenizer, config.prompt, "")
        self.config = config
        self.network = network
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.exact_decode = exact_decode
        self.base = base

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        image_encoder_type: str | None = None,
        language_model: str | None = None,
        mapping_type: MappingType | None = None,
        output_grid: bool | None = None,
        input_resolution: int | None = None,
        test_crop_size: int | None = None,
        test_respect_ratio_max: int | None = None,
        exact_decode: bool = False,
        quantization: Quantization | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        device_map: str | Mapping[str, int | str] | DeviceSplit | None = None,
        max_memory: Mapping[str, int | str] | None = None,
        prompted: bool | None = None,
    ) -> Captioner:
        """Load a captioner.

        Args:
            path: a checkpoint directory, a pretrained captioner of transformers (a folder, as `save_pretrained` writes
                it), the hub id of one of these, or a `.pt` file of generative-image-to-text or ClipCap.
            image_encoder_type: of an old file: `ViT-B/32`, ..., or a local file of that form.
            language_model: of an old file: hub id or folder.
            mapping_type: of an old file; `"None"` is linear there.
            output_grid: of an old file.
            input_resolution: of an old file.
            test_crop_size: side that images are resized to, instead of the checkpoint's; positions are interpolated.
            test_respect_ratio_max: keep the shape of images, with a longer side of at most this.
            exact_decode: decode large JPEGs in full too.
            quantization: of the language model's weights; None is as the checkpoint says.
            device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
            dtype: of weights and activations; `auto` is float32 on a CPU, bfloat16 on a GPU.
            device_map: over which devices the language model is spread (`DeviceMap`); the others are on `device`.
            max_memory: what `device_map` may use of each.
            prompted: whether captions follow one of the checkpoint's base captioner; None: where it has one.

        Raises:
            UsageError: a path that is not there, or keys that contradict what the path says.
            WeightsError: weights that cannot be found or do not fit.
        """
        on = device_of(device)
        model = ModelParams(
            model_path=str(path),
            image_encoder_type=image_encoder_type,
            language_model=language_model,
            mapping_type=mapping_type,
            output_grid=output_grid,
            input_resolution=input_resolution,
            test_crop_size=test_crop_size,
            test_respect_ratio_max=test_respect_ratio_max,
        )
        spread = None if device_map is None else DeviceMap(device_map, max_memory)
        if (folder := pretrained_folder(path)) is not None:
            from git_caption.captioner.pretrained import load_pretrained  # here, for its captioners extend this class

            _runs_as_it_is(folder, model.told | ({} if device_map is None else {"device_map": device_map}))
            _require_base(None, prompted, path)
            return load_pretrained(folder, quantization or "none", on, dtype_of(dtype, on), exact_decode)
        config, network, tokenizer, fingerprint = load(model, quantization, on, dtype_of(dtype, on), spread)
        _require_base(config.base, prompted, path)
        if config.base is None or prompted is False:
            return cls(replace(config, base=None), network, tokenizer, fingerprint, exact_decode)
        from git_caption.captioner.base import load_base  # here, for it loads a captioner too

        base = load_base(config, model, on, dtype_of(dtype, on), exact_decode)
        both = hashlib.sha256(f"{fingerprint} {base.captioner.fingerprint}".encode()).hexdigest()
        return cls(config, network, tokenizer, both, exact_decode, base)

    def with_chat(self, chat: bool | None = None, system: str | None = None) -> Captioner:
        """The same captioner with prompts that are a chat, or are plain text; None is as they are.

        Raises:
            UsageError: the tokenizer has no chat template, or a system message without a chat.
        """
        if chat is None and system is None:
            return self
        if not isinstance(self.config, CaptionerConfig):
            raise UsageError("chat and system: a pretrained captioner has a template of its own; leave them out")
        own = self.config.prompt
        chat = own.chat if chat is None else chat
        prompt = replace(own, chat=chat, system=(own.system if chat else "") if system is None else system)
        for _, fault in prompt.check():
            raise UsageError(fault)
        config = replace(self.config, prompt=prompt)
        return Captioner(config, self.network, self.tokenizer, self.fingerprint, self.exact_decode, self.base)

    def save(self, folder: str | Path) -> None:
        """Write the captioner as a checkpoint directory. Raises as `checkpoint.save` and `own_parts`."""
        config, network = self.own_parts()
        save_base = None if self.base is None else self.base.captioner.save
        checkpoint.save(config, network, self.tokenizer, Path(folder), save_base)

    def own_parts(self) -> tuple[CaptionerConfig, GitNetwork]:
        """The config and the network of a captioner that is image encoder, mapper and language model.

        Raises:
            UsageError: it is a pretrained one of transformers, which is not taken apart.
        """
        if not isinstance(self.config, CaptionerConfig) or not isinstance(self.network, GitNetwork):
            raise UsageError(
                "a pretrained captioner is not taken apart nor saved; expected one of image encoder, mapper and "
                "language model"
            )
        return self.config, self.network

    def caption(
        self,
        images: Sequence[Frames],
        prompt: str = "",
        *,
        batch_size: int = BATCH_SIZE,
        **decoding: Any,
    ) -> list[str]:
        """Caption each image: bytes of an image file, a path, a PIL image, or a list of these, the frames of a video.

        Args:
            images: what to caption.
            prompt: text the captions go on from; if empty the checkpoint's own, or the base captioner's caption in
                its template.
            batch_size: images computed at once.
            **decoding: keys of `DecodingParams`.

        Raises:
            DataError: an image that cannot be read; names which.
            UsageError: decoding keys that are unknown or contradict each other, or what is no list of images.
        """
        prompts = [self.caption_prompt(prompt)] * _count(images)
        if self.base is not None and not prompt:
            prompts = self.base.prompts(images, batch_size)
        return self._texts(images, prompts, [None] * len(images), "caption", decoding, batch_size)

    def answer(
        self,
        images: Sequence[Frames],
        questions: Sequence[str],
        *,
        batch_size: int = BATCH_SIZE,
        **decoding: Any,
    ) -> list[str]:
        """Answer one question about each image. Parameters and errors as `caption`."""
        if isinstance(questions, str):
            raise UsageError("questions is one text; expected a list with a question for each image")
        if _count(images) != len(questions):
            raise UsageError(f"{len(images)} images and {len(questions)} questions; one question for each is expected")
        prompts = [self.question_prompt(question) for question in questions]
        return self._texts(images, prompts, questions, "answer", decoding, batch_size)

    def pixels(self, image: Frames) -> npt.NDArray[np.uint8]:
        """uint8[F, 3, R, R] of an image (F = 1) or of the frames of a video; [F, 3, H, W] where shapes are kept.

        Raises:
            DataError: it cannot be decoded; names the file, where it is one. Or frames differ in shape.
            UsageError: it is no picture, there is no such file, or no frame at all.
        """
        return self.reader.frames(image)

    def describe(
        self,
        pixels: Sequence[npt.NDArray[np.uint8]],
        prompts: Sequence[str],
        decoding: Decoding,
        identities: Sequence[Identity],
    ) -> list[list[Generated]]:
        """The texts of images or videos as `pixels` gives them, one prompt for each; see `generate`."""
        if not pixels:
            return []
        return self.generate(self._features(pixels), prompts, decoding, identities)

    def encode(self, pixels: Pixels) -> Features:
        """The features of uint8[B, 3, R, R] (or of B images of another shape), as `pixels` gives them."""
        with torch.inference_mode():
            given = torch.as_tensor(pixels).to(self.device)
            config = self.config
            transform = config.joint_transform if isinstance(config, CaptionerConfig) else config.transform
            return self.network.encode(normalise(given, transform.mean, transform.std))

    def encode_many(self, pixels: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> Features:
        """The features of one or more images uint8[3, H, W], `batch_size` of one shape at once, padded where needed."""
        return encoded_in_batches(self.encode, pixels, batch_size)

    def encode_frames(self, pixels: Pixels) -> Features:
        """The features of one video of F frames uint8[F, 3, R, R], as those of one image.

        Each frame is given its place in time where the captioner has a temporal embedding. Grids follow one another:
        [1, F * N, D_v]. Pooled rows are averaged, as the mappers of pooled features take one.

        Raises:
            DataError: more frames than the temporal embedding has positions, or several image encoders that give grids.
        """
        config, network = self.own_parts()
        if config.mixing is not None and config.image_encoder.output == "grid" and len(pixels) > 1:
            raise DataError(f"a video of {len(pixels)} frames: the grids of several image encoders are of one image")
        with torch.inference_mode():
            frames = network.placed_in_time(self.encode(pixels))
        if config.image_encoder.output == "pooled":
            return Features(frames.values.mean(dim=0, keepdim=True), frames.mask[:1])
        return Features(frames.values.flatten(0, 1)[None], frames.mask.flatten()[None])

    def generate(
        self, features: Features, prompts: Sequence[str], decoding: Decoding, identities: Sequence[Identity]
    ) -> list[list[Generated]]:
        """Generate after each prompt; `num_captions` texts for each, the best first.

        Args:
            features: of B images; `Features.select` repeats those of an image with several prompts.
            prompts: B texts, as `caption_prompt` and `question_prompt` give them.
            decoding: as `decoding` gives it.
            identities: of the B rows; sampling draws from them.

        Raises:
            DataError: a prompt too long for the language model.
        """
        prompt_ids = [self.prompt_ids(prompt) for prompt in prompts]
        after_prompt = [begins_word(self.config.prompt, prompt) for prompt in prompts]

        def of(rows: list[int]) -> list[list[Generated]]:
            return generate(
                self.network,
                features if len(rows) == len(prompts) else features.select(torch.tensor(rows)),
                [prompt_ids[row] for row in rows],
                decoding,
                self.tokenizer,
                [identities[row] for row in rows],
                after_prompt=after_prompt[rows[0]],
            )

        # allowed texts are spelled otherwise after a prompt, and one batch has one trie
        return in_groups(after_prompt if decoding.allowed_texts else [False] * len(prompts), of)

    def decoding(self, params: DecodingParams, task: Task) -> Decoding:
        """Settle how to decode: what was asked for over the checkpoint's values over the defaults."""
        decoding = resolve(params, self.config.decoding, task)
        end = self.config.prompt.end
        if not end or decoding.allowed_texts or end in decoding.stop:
            return decoding
        return replace(decoding, stop=(*decoding.stop, end))

    def caption_prompt(self, prompt: str = "") -> str:
        """The text captions go on from: the one given, else the checkpoint's."""
        return prompt or render(self.config.prompt.caption)

    def question_prompt(self, question: str) -> str:
        """The question in the checkpoint's template."""
        return render(self.config.prompt.question, question)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The token ids of a prompt, in the chat template where prompts are a chat."""
        return prompt_ids(self.tokenizer, self.config.prompt, prompt)

    @property
    def transform(self) -> Preparation:
        """From an RGB picture to pixels, uint8[3, R, R] or of the picture's own shape; needs no torch.

        Several image encoders see strips uint8[3, 1, S], their pixels one after the other's.

        Raises:
            UsageError: stored prefixes are mixed, so that no picture is looked at.
        """
        config, network = self.own_parts()
        return joint_preparation(config, network.image_encoder)

    @property
    def reader(self) -> ImageReader:
        """From the bytes of an image file to pixels; needs no torch, so that worker processes may run it."""
        return ImageReader(self.transform, self.config.transform.exif, self.exact_decode)

    @property
    def device(self) -> torch.device:
        """Where pixels and features go."""
        return next(self.network.parameters()).device

    def _texts(
        self,
        images: Sequence[Frames],
        prompts: Sequence[str],
        questions: Sequence[str | None],
        task: Task,
        decoding: dict[str, Any],
        batch_size: int,
    ) -> list[str]:
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size}: expected 1 or more")
        settled = self.decoding(parse(DecodingParams, decoding, task), task)
        if settled.num_captions != 1:
            raise UsageError(f"num_captions {settled.num_captions}: {task}() gives one text each; use generate()")
        texts: list[str] = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            pixels = [self._numbered(image, start + offset) for offset, image in enumerate(images[part])]
            # An image's identity is its content, so that its text does not depend on where in the list it is.
            keys = [hashlib.sha256(frames.tobytes()).hexdigest() for frames in pixels]
            identities = [
                Identity(key, question, f"image {start + offset}")
                for offset, (key, question) in enumerate(zip(keys, questions[part], strict=True))
            ]
            texts += [best[0].text for best in self.describe(pixels, prompts[part], settled, identities)]
        return texts

    def _numbered(self, image: Frames, number: int) -> npt.NDArray[np.uint8]:
        try:
            return self.pixels(image)
        except (DataError, UsageError) as error:
            raise type(error)(f"image {number}: {error}") from error

    def _features(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> Features:
        """One row for each image or video, padded and masked where they differ in shape or length."""
        if all(len(frames) == 1 for frames in pixels):
            return self.encode_many([frames[0] for frames in pixels], len(pixels))
        return Features.joined([self.encode_frames(frames) for frames in pixels])


def _require_base(base: BaseCaptionerConfig | None, prompted: bool | None, path: str | Path) -> None:
    if prompted and base is None:
        raise UsageError(f"{path}: 'prompted' is True, and it has no base captioner: leave 'prompted' out")


def _count(images: Sequence[Frames]) -> int:
    if isinstance(images, Picture):
        raise UsageError(f"images is one {type(images).__name__}; expected a list of images: [image]")
    return len(images)


def _runs_as_it_is(folder: Path, told: Mapping[str, Any]) -> None:
    """Refuse keys that are for an old tool's file, or for parts that a pretrained captioner does not have."""
    if told:
        named = ", ".join(f"{name} {value!r}" for name, value in told.items())
        raise UsageError(f"{folder}: {named} given, but a pretrained captioner runs as it is: leave out")
