"""Small captioners of transformers' own architectures, as folders to pretrain: BLIP, ViT and GPT-2, GIT, BLIP-2.

Their eyes are those of a small CLIP that is there already, by the names that each architecture gives them, for a ViT
that begins with nothing takes long to see from captions alone. ViT and BLIP have no LayerNorm before their first block,
where CLIP has one: it is put into the weights before it, with the mean spread of the values that pictures have there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor
from torch.nn import functional

from git_caption.images.reader import ImageReader
from git_caption.images.transform import Transform, normalise
from git_caption.model.folder import quiet
from git_caption.model.weights import read_tensors
from git_caption.params.model import CLIP_MEAN, CLIP_STD
from git_caption.text.tokenizer import load_tokenizer
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_image_row

SIDE, PATCH, WIDTH, LAYERS, POSITIONS = 96, 16, 128, 3, 256
SPREAD = 0.08  # of new weights; see `parts`
PICTURES = 64
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
BERT = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": SPREAD,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "sep_token_id": 0, "pad_token_id": 1}  # no caption holds token 1, a "!"
Tensors = dict[str, Tensor]


def write_captioner(kind: str, encoder: str, places: float, language_model: str, image_tsv: str, out: str) -> None:
    """Write the folder of a captioner to pretrain.

    Args:
        kind: a name in `KINDS`.
        encoder: model.safetensors of a CLIP ViT of the sizes here.
        places: what its position embeddings are multiplied by.
        language_model: folder whose tokenizer it has, and where the architecture has that decoder its weights.
        image_tsv: pictures to look at.
        out: where to.
    """
    torch.manual_seed(0)
    tokenizer = load_tokenizer(Path(language_model))
    clip = {name.removeprefix("visual."): tensor for name, tensor in read_tensors(Path(encoder)).items()}
    clip["positional_embedding"] *= places
    model = KINDS[kind](clip, image_tsv, Path(language_model), len(tokenizer))
    image_processor: Any = hf.CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
    )
    with quiet():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    image_processor.save_pretrained(out)


def blip(clip: Tensors, image_tsv: str, language_model: Path, vocabulary: int) -> Any:
    """BLIP with a new decoder."""
    text = {**BERT, **ENDS, "vocab_size": vocabulary, "encoder_hidden_size": WIDTH}
    model = hf.BlipForConditionalGeneration(hf.BlipConfig(text_config=text, vision_config=VISION))
    _see(model.vision_model, _without_first_norm(clip, image_tsv), BLIP_TOP, "encoder.layers", BLIP_BLOCK)
    return model


def blip2(clip: Tensors, image_tsv: str, language_model: Path, vocabulary: int) -> Any:
    """BLIP-2 with a new Q-Former between its eyes and a language model that has read the captions."""
    decoder = hf.AutoModelForCausalLM.from_pretrained(language_model)
    queries = {**BERT, "vocab_size": 1, "encoder_hidden_size": WIDTH, "cross_attention_frequency": 1}
    config = hf.Blip2Config(
        vision_config={**VISION, "initializer_range": SPREAD},
        qformer_config={**queries, "num_hidden_layers": 2},
        text_config=decoder.config.to_dict(),
        num_query_tokens=16,
        image_token_index=1,
        initializer_range=SPREAD,
    )
    model = hf.Blip2ForConditionalGeneration(config)
    model.language_model.load_state_dict(decoder.state_dict())
    torch.nn.init.normal_(model.query_tokens)
    _see(model.vision_model, _without_first_norm(clip, image_tsv), BLIP_TOP, "encoder.layers", BLIP_BLOCK)
    return model


def git(clip: Tensors, image_tsv: str, language_model: Path, vocabulary: int) -> Any:
    """GIT with a new decoder."""
    config = hf.GitConfig(vision_config=VISION, vocab_size=vocabulary, **BERT, **ENDS)
    model = hf.GitForCausalLM(config)
    _see(model.git.image_encoder.vision_model, clip, GIT_TOP, "encoder.layers", GIT_BLOCK)
    return model


def vit_gpt2(clip: Tensors, image_tsv: str, language_model: Path, vocabulary: int) -> Any:
    """ViT before a GPT-2 that has read the captions; the layers that look at the picture are new."""
    with quiet():
        decoder = hf.GPT2LMHeadModel.from_pretrained(language_model, add_cross_attention=True)
    encoder = hf.ViTModel(hf.ViTConfig(**VISION), add_pooling_layer=False)
    _see(encoder, _without_first_norm(clip, image_tsv), VIT_TOP, "layers", VIT_BLOCK)
    model = hf.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for settings in (model.config, model.generation_config):
        settings.decoder_start_token_id = settings.eos_token_id = settings.pad_token_id = 0
    return model


KINDS: Mapping[str, Callable[[Tensors, str, Path, int], Any]] = {
    "blip": blip,
    "blip2": blip2,
    "git": git,
    "vit_gpt2": vit_gpt2,
}


def _see(vision: Any, clip: Tensors, top: Mapping[str, str], blocks: str, block: Mapping[str, str]) -> None:
    """Give a vision model the weights of a CLIP ViT.

    Args:
        vision: the model; what has no weight in CLIP stays as it is new, and is zero where it is a bias.
        clip: the weights.
        top: CLIP's names outside of the blocks -> the model's.
        blocks: what the model calls its list of blocks.
        block: CLIP's names in a block -> the model's; several with commas where it has queries, keys and values apart.
    """
    named = {new: clip[old] for old, new in top.items()}
    for number in range(LAYERS):
        for old, new in block.items():
            pieces = [f"{blocks}.{number}.{name}" for name in new.split(",")]
            tensor = clip[f"transformer.resblocks.{number}.{old}"]
            named |= dict(zip(pieces, tensor.chunk(len(pieces)), strict=True))
    own = vision.state_dict()
    shaped = {name: tensor.reshape(own[name].shape) for name, tensor in named.items()}
    found = vision.load_state_dict(shaped, strict=False)
    for name in found.missing_keys:  # CLIP's first convolution has no bias
        assert name.endswith("bias"), name
        own[name].zero_()


def _block(heads: str, out: str, norms: tuple[str, str]) -> dict[str, str]:
    """The names in a block, of weights and biases."""
    parts = {"ln_1": norms[0], "ln_2": norms[1], "attn.out_proj": out, "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names = {f"{old}.{kind}": f"{new}.{kind}" for old, new in parts.items() for kind in ("weight", "bias")}
    of_heads = {kind: ",".join(f"{name}.{kind}" for name in heads.split(",")) for kind in ("weight", "bias")}
    return names | {"attn.in_proj_weight": of_heads["weight"], "attn.in_proj_bias": of_heads["bias"]}


SEPARATE = "self_attn.q_proj,self_attn.k_proj,self_attn.v_proj"
BLIP_TOP = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
BLIP_BLOCK = _block("self_attn.qkv", "self_attn.projection", ("layer_norm1", "layer_norm2"))
GIT_TOP = {
    **BLIP_TOP,
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
}
GIT_BLOCK = _block(SEPARATE, "self_attn.out_proj", ("layer_norm1", "layer_norm2"))
VIT_TOP = {
    "class_embedding": "embeddings.cls_token",
    "positional_embedding": "embeddings.position_embeddings",
    "conv1.weight": "embeddings.patch_embeddings.projection.weight",
    "ln_post.weight": "layernorm.weight",
    "ln_post.bias": "layernorm.bias",
}
VIT_BLOCK = _block(
    SEPARATE.replace("self_attn", "attention"), "attention.o_proj", ("layernorm_before", "layernorm_after")
)


def _without_first_norm(clip: Tensors, image_tsv: str) -> Tensors:
    """The weights without CLIP's LayerNorm before the first block, whose work those before it do then."""
    weight, bias, places = clip["ln_pre.weight"], clip["ln_pre.bias"], clip["positional_embedding"]
    patches = functional.conv2d(_pixels(image_tsv), clip["conv1.weight"], stride=PATCH).flatten(2).mT  # [B, 36, D]
    spread = (patches + places[1:]).std(dim=2, correction=0).mean()

    def normed(values: Tensor, dim: int) -> Tensor:
        shape = [-1 if axis == dim else 1 for axis in range(values.dim())]
        return (values - values.mean(dim, keepdim=True)) / spread * weight.view(shape)

    first = functional.layer_norm(clip["class_embedding"] + places[0], (WIDTH,), weight, bias)
    return {
        **{name: tensor for name, tensor in clip.items() if not name.startswith("ln_pre.")},
        "class_embedding": first,
        "positional_embedding": torch.cat([torch.zeros(1, WIDTH), normed(places[1:], 1) + bias]),
        "conv1.weight": normed(clip["conv1.weight"], 0),
    }


def _pixels(image_tsv: str) -> Tensor:
    """The first pictures: float[B, 3, R, R]."""
    read = ImageReader(Transform(SIDE))
    with TsvFile(image_tsv) as rows:
        pictures = [
            read(parse_image_row(columns, rows.where(row)).image) for row, columns in islice(enumerate(rows), PICTURES)
        ]
    return normalise(torch.from_numpy(np.stack(pictures)), CLIP_MEAN, CLIP_STD)
