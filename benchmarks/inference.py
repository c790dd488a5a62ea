"""Images of a TSV to captions: the TSV job against the same model driven one row at a time.

    python3 -m benchmarks.inference                   ViT-B/32 pooled, mlp, P = 5, GPT-2 124M, float32
    python3 -m benchmarks.inference --dtype bfloat16
    python3 -m benchmarks.inference --llama           a language model of LLaMA's shape in 8 bits

Both sides have the same random weights, dtype and threads, read the same TSV of base64 JPEGs, and generate exactly 20
tokens with 3 beams and a KV cache. One row at a time is how generative-image-to-text and ClipCap do it: decode,
transform, encode, map, and transformers' `generate` on the prefix. Prints images/s of each side and their ratio,
medians of several rounds in one process; the model is loaded before the clock starts.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import tokenizers
import torch
import torchvision.transforms as transforms
from PIL import Image
from transformers import GenerationConfig, PreTrainedTokenizerFast

from git_caption.captioner.captioner import Captioner
from git_caption.jobs.infer import load_captioner, single_tsv
from git_caption.model.git import GitNetwork
from git_caption.model.language import build_language_model, width
from git_caption.model.mapping import build_mapper
from git_caption.model.vision import build_image_encoder
from git_caption.params.infer import SingleTsvParams
from git_caption.params.model import (
    CLIP_MEAN,
    CLIP_STD,
    CaptionerConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
)
from git_caption.params.schema import parse
from git_caption.text.tokenizer import load_tokenizer
from git_caption.tsv.file import TsvFile
from git_caption.tsv.writer import TsvWriter

NEW_TOKENS, BEAMS = 20, 3
GPT2 = {"model_type": "gpt2", "bos_token_id": 50256, "eos_token_id": 50256}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2752,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "bos_token_id": 31999,
    "eos_token_id": 31999,
}


def byte_pairs(vocabulary: int, folder: Path) -> None:
    """A byte-level BPE tokenizer of the wanted size, whose tokens are pairs of bytes."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pairs = list(itertools.islice(itertools.product(letters, repeat=2), vocabulary - len(letters) - 1))
    names = [*letters, *(a + b for a, b in pairs), "<|endoftext|>"]
    model = tokenizers.Tokenizer(tokenizers.models.BPE({name: number for number, name in enumerate(names)}, pairs))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|endoftext|>").save_pretrained(folder)


def checkpoint(folder: Path, language_model: dict[str, object]) -> None:
    """A captioner of random weights."""
    torch.manual_seed(0)
    config = CaptionerConfig(
        image_encoder=ImageEncoderConfig(name="ViT-B/32", output="pooled"),
        mapper=MapperConfig(type="mlp", prefix_length=5),
        language_model=LanguageModelConfig(name="benchmark", architecture=language_model),
    )
    encoder = build_image_encoder(config.image_encoder)
    model = build_language_model(config.language_model)
    mapper = build_mapper(config.mapper, encoder.width, width(model), pooled=True)
    byte_pairs(model.config.vocab_size, folder / "words")
    tokenizer = load_tokenizer(folder / "words")
    Captioner(config, GitNetwork(encoder, mapper, model).eval(), tokenizer).save(folder / "model")


def image_tsv(path: Path, count: int) -> None:
    """JPEGs of 640 x 480 with the detail of a photograph."""
    rng = np.random.default_rng(0)
    with TsvWriter(path) as out:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
            grain = rng.normal(0, 8, (480, 640, 3))
            data = BytesIO()
            Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
            out.write([f"image{number}", base64.b64encode(data.getvalue()).decode()])


@torch.no_grad()
def one_row_at_a_time(captioner: Captioner, path: Path, rows: int) -> list[str]:
    """The captions of the first rows, each computed alone."""
    preprocess = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    network, tokenizer = captioner.network, captioner.tokenizer
    dtype = next(network.mapper.parameters()).dtype
    network.language_model.generation_config = GenerationConfig()
    config = GenerationConfig(
        num_beams=BEAMS,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        early_stopping=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = []
    with TsvFile(path) as file:
        for row in range(rows):
            image = Image.open(BytesIO(base64.b64decode(file.columns(row)[1]))).convert("RGB")
            features = network.image_encoder(preprocess(image)[None].to(dtype))
            prefix = network.mapper(features.values, features.mask)
            mask = torch.ones(prefix.shape[:2], dtype=torch.long)
            ids = network.language_model.generate(inputs_embeds=prefix, attention_mask=mask, generation_config=config)
            texts.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return texts


def parameters(folder: Path, batch_size: int, dtype: str, quantization: str | None = None) -> SingleTsvParams:
    """Of the TSV job over the captioner and the images in `folder`."""
    keys = {
        "image_tsv": str(folder / "images.tsv"),
        "out_tsv": str(folder / "captions.tsv"),
        "model_path": str(folder / "model"),
        "num_beams": BEAMS,
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "batch_size": batch_size,
        "dtype": dtype,
        "quantization": quantization,
    }
    return parse(SingleTsvParams, keys, "inference benchmark")


def rate(work: Callable[[], object], images: int) -> float:
    """Images a second."""
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


def main() -> None:
    """Build, warm up, measure in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of both sides")
    parser.add_argument("--llama", action="store_true", help="LLaMA's shape (0.3 billion weights) in 8 bits")
    parser.add_argument("--images", type=int, default=96, help="rows of the TSV job")
    parser.add_argument("--single", type=int, default=12, help="rows driven one at a time")
    parser.add_argument("--batch_size", type=int, default=32, help="of the TSV job")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint(folder, LLAMA if given.llama else GPT2)
        image_tsv(folder / "images.tsv", given.images)
        params = parameters(folder, given.batch_size, given.dtype, "8bit" if given.llama else None)
        captioner = load_captioner(params.model, params.running)
        one_row_at_a_time(captioner, folder / "images.tsv", 1)
        ours, singles = [], []
        for _ in range(given.rounds):
            singles.append(
                rate(lambda: one_row_at_a_time(captioner, folder / "images.tsv", given.single), given.single)
            )
            ours.append(rate(lambda: single_tsv(params), given.images))
        single, job = statistics.median(singles), statistics.median(ours)
    kind = "LLaMA shape, 8 bits" if given.llama else "GPT-2 124M"
    print(f"{kind}, {given.dtype}, {torch.get_num_threads()} threads, median of {given.rounds}")
    print(f"one row at a time   {single:7.2f} images/s   {[round(value, 2) for value in singles]}")
    print(f"TSV job             {job:7.2f} images/s   {[round(value, 2) for value in ours]}")
    print(f"ratio               {job / single:7.2f}")


if __name__ == "__main__":
    main()
