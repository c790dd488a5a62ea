"""Pretrained captioners of transformers as networks: features once per image, then a language model that continues.

    BLIP                   vision model -> text decoder with cross-attention         https://arxiv.org/abs/2201.12086
    BLIP, answering        the same, with what a text encoder makes of image and question between the two
    BLIP-2                 vision model, Q-Former, projection -> prefix of OPT, or of T5's encoder
                                                                                     https://arxiv.org/abs/2301.12597
    GIT                    vision model -> projected prefix that is visible to itself   https://arxiv.org/abs/2205.14100
    VisionEncoderDecoder   encoder -> decoder with cross-attention                   https://arxiv.org/abs/2109.10282

Shape letters: B batch, N image tokens, D_v vision width, D_l language width, L context length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, BlipForQuestionAnswering, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from git_caption.errors import DataError, WeightsError
from git_caption.model.decoders import GitDecoder, Seq2SeqDecoder
from git_caption.model.git import left_packed, padded
from git_caption.model.pretrained_network import Modules, PretrainedNetwork
from git_caption.model.vision import Features


class Blip(PretrainedNetwork):
    """`BlipForConditionalGeneration`: captions, which may go on from a text."""

    mixes_lengths = False  # transformers 5.23 loses the mask of the cross-attention
    text_part = r"text_(encoder|decoder\.bert)\."
    modules_of: ClassVar[Modules] = {"image_encoder": ("vision_model",), "mapper": (), "decoder": ("text_decoder",)}

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        text = model.config.text_config
        self.language_model = self.adapted = model.text_decoder
        self.start_ids, self.end_id = (text.bos_token_id,), text.sep_token_id

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The vision model's rows: the class token and the patches."""
        model: Any = self.model
        rows: Tensor = model.vision_model(pixel_values=pixels).last_hidden_state
        return rows


class BlipAnswering(Blip):
    """`BlipForQuestionAnswering`: a text encoder reads the question beside the image, the decoder answers from that."""

    special_tokens = True
    modules_of: ClassVar[Modules] = {
        "image_encoder": ("vision_model",),
        "mapper": (),
        "decoder": ("text_encoder", "text_decoder"),
    }

    def attended(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> tuple[Features, list[list[int]]]:
        """The questions as the text encoder reads them beside the image; contexts are the start token alone."""
        ids, mask = padded(prompt_ids, features.values.device, padding=self.end_id)
        model: Any = self.model
        questions = model.text_encoder(
            input_ids=ids,
            attention_mask=mask.long(),
            encoder_hidden_states=features.values,
            encoder_attention_mask=features.mask.long(),
        ).last_hidden_state
        return super().attended(Features(questions, mask), [[] for _ in prompt_ids])


class Blip2(PretrainedNetwork):
    """`Blip2ForConditionalGeneration` on a causal language model; the features are the projected queries."""

    special_tokens = True
    modules_of: ClassVar[Modules] = {
        "image_encoder": ("vision_model",),
        "mapper": ("query_tokens", "qformer", "language_projection"),
        "decoder": ("language_model",),
    }
    encodes_with_mapper = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        text = model.config.text_config
        self.language_model = self.adapted = model.language_model
        self.end_id, self.prefix_length = text.eos_token_id, model.config.num_query_tokens
        self.without_prompt = [text.bos_token_id if text.bos_token_id is not None else text.eos_token_id]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the vision model; transformers keeps the Q-Former in float32 beside float16."""
        vision: Any = self.model.vision_model
        precision: torch.dtype = vision.dtype
        return precision

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The queries after vision model, Q-Former and projection."""
        model: Any = self.model
        queries: Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return queries

    def language_inputs(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The queries and the embedded prompt, left-padded."""
        values, mask = self._joined(features, prompt_ids)
        return {"inputs_embeds": values, "attention_mask": mask.long()}

    def attended(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> tuple[Features, list[list[int]]]:
        """The queries, and the prompts."""
        return features, [list(ids) or self.without_prompt for ids in prompt_ids]

    def logits(self, attended: Tensor, ids: Tensor) -> Tensor:
        """After each of the tokens, which follow the queries."""
        embedded = self.language_model.get_input_embeddings()(ids)
        values = torch.cat([attended.to(embedded.dtype), embedded], dim=1)
        found: Tensor = self.language_forward(inputs_embeds=values, logits_to_keep=ids.shape[1], use_cache=False).logits
        return found

    def _joined(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The queries before the embedded prompts: float[B, L, D_l] and bool[B, L]."""
        model: Any = self.model
        _, prompts = Blip2.attended(self, features, prompt_ids)
        ids, mask = padded(prompts, features.values.device, padding=self.end_id)
        embedded = model.language_model.get_input_embeddings()(ids)
        values = torch.cat([features.values.to(embedded.dtype), embedded], dim=1)
        return left_packed(values, torch.cat([features.mask, mask], dim=1))


class Blip2Seq2Seq(Blip2):
    """`Blip2ForConditionalGeneration` on an encoder-decoder (T5), whose encoder reads queries and prompt."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        text = model.config.text_config
        self.language_model, self.adapted = Seq2SeqDecoder(model.language_model, text), model.language_model
        self.start_ids, self.prefix_length = (text.decoder_start_token_id,), 0  # its encoder reads the queries

    language_inputs = PretrainedNetwork.language_inputs
    logits = PretrainedNetwork.logits

    def attended(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> tuple[Features, list[list[int]]]:
        """Queries and prompt as the encoder reads them; contexts are the start token alone."""
        values, read = self._joined(features, prompt_ids)
        encoder = self.language_model.model.get_encoder()
        states = encoder(inputs_embeds=values, attention_mask=read.long()).last_hidden_state
        return PretrainedNetwork.attended(self, Features(states, read), [[] for _ in prompt_ids])


class Git(PretrainedNetwork):
    """`GitForCausalLM`: captions, and answers that follow their question."""

    text_part = r"git\.encoder\."
    modules_of: ClassVar[Modules] = {
        "image_encoder": ("git.image_encoder",),
        "mapper": ("git.visual_projection",),
        "decoder": ("git.embeddings", "git.encoder", "output"),
    }

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.language_model, self.adapted = GitDecoder(model, model.config), model.git.encoder
        self.start_ids, self.end_id = (model.config.bos_token_id,), model.config.eos_token_id

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The vision model's rows: the class token and the patches."""
        git: Any = self.model.git
        rows: Tensor = git.image_encoder(pixels).last_hidden_state
        return rows

    def join_frames(self, frames: Features) -> Features:
        """Frames in order, each marked with its number where the model was trained on videos.

        Raises:
            DataError: more frames than the model was trained on.
        """
        git: Any = self.model.git
        marks = getattr(git, "img_temporal_embedding", None)
        if marks is None:
            return super().join_frames(frames)
        count = len(frames.values)
        if count > len(marks):
            raise DataError(f"a video of {count} frames: the model was trained on {len(marks)} frames at most")
        marked = frames.values + torch.cat(list(marks)[:count])
        return super().join_frames(Features(marked, frames.mask))

    def attended(self, features: Features, prompt_ids: Sequence[Sequence[int]]) -> tuple[Features, list[list[int]]]:
        """The projected features, which stand for the tokens before the prompts."""
        git: Any = self.model.git
        projected = git.visual_projection(features.values)  # [B, N, D_l]
        return super().attended(Features(projected, features.mask), prompt_ids)


class VisionEncoderDecoder(PretrainedNetwork):
    """`VisionEncoderDecoderModel`: any encoder of images before any decoder of texts (ViT and GPT-2, TrOCR, Donut)."""

    text_part = r"decoder\."
    mixes_lengths = False  # decoders count positions in ways of their own
    modules_of: ClassVar[Modules] = {
        "image_encoder": ("encoder",),
        "mapper": ("enc_to_dec_proj",),
        "decoder": ("decoder",),
    }
    encodes_with_mapper = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.language_model = self.adapted = model.decoder
        written = (model.generation_config, model.config, model.config.decoder)
        start = _first("decoder_start_token_id", written) or _first("bos_token_id", written)
        end = _first("eos_token_id", written)
        if start is None or end is None:
            raise WeightsError(
                f"the decoder has no {'start' if start is None else 'end'} token: expected decoder_start_token_id and "
                "eos_token_id in config.json or generation_config.json"
            )
        self.start_ids, self.end_id = start[:1], end[0]

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The encoder's rows, projected where the decoder is of another width."""
        model: Any = self.model
        rows: Tensor = model.encoder(pixel_values=pixels).last_hidden_state
        return model.enc_to_dec_proj(rows) if hasattr(model, "enc_to_dec_proj") else rows


def _first(name: str, written: Sequence[Any]) -> tuple[int, ...] | None:
    """The token ids that the first of some configs gives by this name."""
    for config in written:
        if (found := getattr(config, name, None)) is not None:
            return tuple(found) if isinstance(found, list) else (found,)
    return None


FAMILIES = {"blip": Blip, "blip-2": Blip2, "git": Git, "vision-encoder-decoder": VisionEncoderDecoder}
HEADS = r".*\b(lm_head|predictions|output_projection)"


def loader(settings: Mapping[str, Any]) -> Any:
    """The class of transformers that loads the captioner of a config.json; None for what captions no images."""
    if settings.get("architectures") == ["BlipForQuestionAnswering"]:
        return BlipForQuestionAnswering
    known = settings.get("model_type") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AutoModelForImageTextToText if known else None


def in_full(model_type: str) -> list[str]:
    """Patterns of the modules that stay as they are when a captioner is quantized: the vision part and the heads."""
    text_part = FAMILIES.get(model_type, PretrainedNetwork).text_part
    return [rf"(?!{text_part}).*", HEADS]


def network_of(model: PreTrainedModel) -> PretrainedNetwork | None:
    """The network of a loaded captioner; None for a model that is not taken apart."""
    family = FAMILIES.get(model.config.model_type)
    if isinstance(model, BlipForQuestionAnswering):
        family = BlipAnswering
    elif family is Blip2 and not model.config.use_decoder_only_language_model:
        family = Blip2Seq2Seq
    return None if family is None else family(model)
