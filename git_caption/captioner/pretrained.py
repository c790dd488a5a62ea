"""Pretrained captioners of transformers behind the captioner's own methods: BLIP, BLIP-2, GIT, VisionEncoderDecoder.

What is no such model and still takes images and texts goes the general way, in `whole.py`; what was trained further is
a checkpoint, in `tuned.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from git_caption.captioner import checkpoint, checkpoint_folder, stored_tensors, tuned, weight_sources
from git_caption.captioner.adapter_files import put_adapter
from git_caption.captioner.captioner import Captioner, Features, Generated, Identity, Pixels
from git_caption.captioner.fingerprint import fingerprint
from git_caption.captioner.groups import in_groups
from git_caption.captioner.loading import captioner_folder
from git_caption.captioner.whole import load_whole
from git_caption.errors import UsageError, WeightsError
from git_caption.images.processor import Preparation, load_processor, prepared
from git_caption.model.folder import load_folder
from git_caption.model.pretrained import in_full, loader, network_of
from git_caption.model.pretrained_network import PretrainedNetwork
from git_caption.model.quantization import Quantization, quantizing
from git_caption.params.decoding import Decoding
from git_caption.params.model import PromptConfig, TransformConfig
from git_caption.params.pretrained import DefaultsConfig, PretrainedConfig, TunedConfig
from git_caption.text.prompts import prompt_ids
from git_caption.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What asks a model in the words it was trained with; for the others the question is the prompt.
PROMPTS = {"blip-2": PromptConfig(question="Question: {question} Answer:")}
# A pooling layer that VisionEncoderDecoder's encoders have and captioning does not use; most checkpoints lack it.
UNUSED = (".pooler.",)


class PretrainedCaptioner(Captioner):
    """A pretrained captioner.

    Attributes:
        config: how it is used.
        network: the model, taken apart into features and continuation.
        prepare: from an RGB picture to pixels, as its image processor says.
        folder: the files of transformers that it is made of.
        tuned: what was trained since; None where nothing was.
    """

    config: PretrainedConfig
    network: PretrainedNetwork

    def __init__(
        self,
        config: PretrainedConfig,
        network: PretrainedNetwork,
        tokenizer: PreTrainedTokenizerBase,
        prepare: Preparation,
        fingerprint: str = "",
        exact_decode: bool = False,
        folder: Path | None = None,
        tuned: TunedConfig | None = None,
    ) -> None:
        """Join parts that are there already."""
        super().__init__(config, network, tokenizer, fingerprint, exact_decode)
        self.prepare = prepare
        self.folder = folder
        self.tuned = tuned

    def save(self, folder: str | Path) -> None:
        """Write a plain folder of transformers, which it and `load` read; LoRA is merged, here too.

        Raises:
            UsageError: it is one already, or its weights are in 8 or 4 bits.
        """
        if self.folder is None or self.tuned is None:
            raise UsageError(
                "a pretrained captioner is a folder that is whole as it is: copy that; expected a checkpoint that was "
                "trained from one, or one of image encoder, mapper and language model"
            )
        if self.config.quantization != "none":
            raise UsageError(f"'quantization': {self.config.quantization}: weights in 8 or 4 bits are not exported")
        defaults = DefaultsConfig(self.config.prompt, self.config.decoding)
        tuned.save_whole(self.network, self.folder, defaults, Path(folder))

    @property
    def transform(self) -> Preparation:
        """From an RGB picture to pixels, as its image processor says."""
        return self.prepare

    def encode_frames(self, pixels: Pixels) -> Features:
        """The features [1, F * N, D_v] of one video of F frames uint8[F, 3, H, W]."""
        with torch.inference_mode():
            return self.network.join_frames(self.encode(pixels))

    def prompt_ids(self, prompt: str) -> list[int]:
        """The token ids of a prompt; the network knows what goes around it."""
        return prompt_ids(self.tokenizer, self.config.prompt, prompt, self.network.special_tokens)

    def generate(
        self, features: Features, prompts: Sequence[str], decoding: Decoding, identities: Sequence[Identity]
    ) -> list[list[Generated]]:
        """Generate after each prompt; see `Captioner.generate`."""
        if self.network.mixes_lengths:
            return super().generate(features, prompts, decoding, identities)
        counts = features.mask.sum(dim=1).tolist()  # image tokens of each row; padding is on the right
        lengths = [len(self.prompt_ids(prompt)) for prompt in prompts]

        def of(rows: list[int]) -> list[list[Generated]]:
            count = counts[rows[0]]
            alike = Features(features.values[rows, :count], features.mask[rows, :count])
            chosen = [prompts[row] for row in rows], decoding, [identities[row] for row in rows]
            return super(PretrainedCaptioner, self).generate(alike, *chosen)

        return in_groups(list(zip(lengths, counts, strict=True)), of)


def load_pretrained(
    folder: Path, quantization: Quantization, device: torch.device, dtype: torch.dtype, exact_decode: bool
) -> Captioner:
    """The captioner in a folder of transformers that `loader` knows, or in a checkpoint that was trained from one.

    Raises:
        UsageError: a quantization that is not installed, that finds nothing to quantize, or of weights that a
            checkpoint stores.
        WeightsError: weights, tokenizer or image processor that are not there or do not fit, or that are others than
            those a checkpoint was trained from.
    """
    if checkpoint_folder.is_tuned(folder):
        return _load_tuned(folder, quantization, device, dtype, exact_decode)
    settings = checkpoint_folder.read_json(folder)
    model_type = settings["model_type"]
    options = quantizing(folder, quantization, dtype, device, str(folder), in_full(model_type))
    model = load_folder(
        loader(settings), folder, f"{model_type} captioner", unused=UNUSED, dtype=dtype, **options
    ).requires_grad_(False)
    if not options:  # else it went there as it was read
        model.to(device)  # type: ignore[arg-type]
    if quantization != "none" and not _quantized(model):
        raise UsageError(f"{folder}: quantization {quantization!r} finds no text part to quantize; leave it out")
    network = network_of(model)
    if network is None:
        return load_whole(folder, model, quantization, lambda config: fingerprint(config, [folder]))
    processor = load_processor(folder)
    prepare, mean, std = prepared(processor)
    defaults = tuned.load_defaults(folder) or DefaultsConfig(PROMPTS.get(model_type, PromptConfig()))
    config = PretrainedConfig(
        model_type=model_type,
        transform=TransformConfig(mean=mean, std=std),
        prompt=defaults.prompt,
        decoding=defaults.decoding,
        quantization=quantization,
    )
    tokenizer = load_tokenizer(folder, network.end_id)
    print_of = fingerprint(config, [folder])
    return PretrainedCaptioner(config, network.eval(), tokenizer, prepare, print_of, exact_decode, folder)


def _load_tuned(
    folder: Path, quantization: Quantization, device: torch.device, dtype: torch.dtype, exact_decode: bool
) -> PretrainedCaptioner:
    """The captioner that a checkpoint was trained from, with what was trained since in its place."""
    config = tuned.load_config(folder)
    if quantization != "none" and "decoder" in config.stored:
        raise UsageError(
            f"{folder}: quantization {quantization!r}: the checkpoint stores the decoder's own weights; export it, and "
            "quantize that"
        )
    base = captioner_folder(config.captioner.id, config.captioner.revision)
    weight_sources.check_source(config.captioner, base)
    captioner = load_pretrained(base, quantization, device, dtype, exact_decode)
    if not isinstance(captioner, PretrainedCaptioner) or captioner.tuned is not None:
        raise WeightsError(
            f"{folder / checkpoint_folder.CONFIG}: 'captioner': {base} is none that a checkpoint is trained from"
        )
    network = captioner.network
    stored_tensors.fill(tuned.tensors_of(config, network), checkpoint.read_weights(folder), str(folder))
    if config.adapter is not None:
        put_adapter(network.adapted, config.adapter, checkpoint_folder.adapter_folder(folder))
        network.requires_grad_(False)
    used = replace(captioner.config, prompt=config.prompt, decoding=config.decoding)
    tokenizer = load_tokenizer(checkpoint_folder.tokenizer_folder(folder), network.end_id)
    print_of = fingerprint(used, [base], weight_sources.weights_sha256(folder))
    return PretrainedCaptioner(
        used, network, tokenizer, captioner.prepare, print_of, exact_decode, captioner.folder, config
    )


def _quantized(model: PreTrainedModel) -> bool:
    """Whether any layer is bitsandbytes'."""
    return any(type(module).__module__.startswith("bitsandbytes") for module in model.modules())
