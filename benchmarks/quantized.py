"""A frozen LLaMA in 8 and in 4 bits under a mapper that learns: images a second and peak memory of `train.py`.

    python3 -m benchmarks.quantized               a hundred steps of LLaMA-7B's shape; without a GPU five of a small one
    python3 -m benchmarks.quantized --shape 7b    on a CPU too: 14 GB on the disk, and patience

Random weights; JPEGs through ViT-B/32, a prefix of ten rows by the mlp, captions with the lengths of Flickr8k's. Each
run is a process of its own, and the figures are those of its closing line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.inference import LLAMA
from benchmarks.training import PREFIX, ROOT, captioned_images, tokenizer_of, written
from git_caption.model.language import build_language_model
from git_caption.model.vision import build_image_encoder
from git_caption.params.model import ImageEncoderConfig, LanguageModelConfig

SHAPES = {
    "7b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "small": LLAMA,
}
ENCODER = ImageEncoderConfig(name="ViT-B/32", output="pooled")


def prepare(folder: Path, shape: str, images: int, device: str) -> None:
    """Data, an image encoder and a language model of random weights in bfloat16."""
    words = captioned_images(folder, images)
    torch.manual_seed(0)
    written(build_image_encoder(ENCODER), folder)
    config = LanguageModelConfig(name="llama", architecture=SHAPES[shape])
    build_language_model(config, None, torch.bfloat16, device).save_pretrained(folder / "llama")
    tokenizer_of(words, folder / "llama")


def train(folder: Path, quantization: str, steps: int, batch_size: int) -> str:
    """The closing line of a run."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        keys = {
            "output_dir": f"{out}/run",
            "image_tsv": str(folder / "images.tsv"),
            "caption_tsv": str(folder / "captions.tsv"),
            "image_encoder": {
                "name": ENCODER.name,
                "architecture": ENCODER.architecture,
                "output": ENCODER.output,
                "weights": {"id": str(folder / "encoder.safetensors")},
            },
            "mapper": {"type": "mlp", "prefix_length": PREFIX},
            "language_model": {"name": str(folder / "llama"), "quantization": quantization},
            "tune": "mapper",
            "epochs": 1,
            "bs": batch_size,
            "save_every": steps,
        }
        Path(out, "config.json").write_text(json.dumps(keys))
        run = subprocess.run(
            [sys.executable, "train.py", "--config", f"{out}/config.json"],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
    if run.returncode:
        raise RuntimeError(f"the run in {quantization} ended with {run.returncode}: {run.stderr[-2000:]}")
    return next(line for line in run.stdout.splitlines() if "peak memory" in line)


def report(shape: str, kinds: Sequence[str], steps: int, batch_size: int) -> Iterator[str]:
    """A line for each kind of weights."""
    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), shape, steps * batch_size, "cuda" if cuda else "cpu")
        on = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads of a CPU"
        yield f"LLaMA, shape {shape}, bs {batch_size}, on {on}"
        for kind in kinds:
            yield f"{kind:6}{train(Path(name), kind, steps, batch_size)}"


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--shape", choices=SHAPES, default="7b" if cuda else "small")
    parser.add_argument("--kinds", nargs="+", default=["8bit", "4bit"], help="of weights: 8bit, 4bit, none")
    parser.add_argument("--steps", type=int, default=100 if cuda else 5)
    parser.add_argument("--batch_size", type=int, default=8)
    given = parser.parse_args()
    for line in report(given.shape, given.kinds, given.steps, given.batch_size):
        print(line, flush=True)


if __name__ == "__main__":
    main()
