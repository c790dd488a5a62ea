"""Steps of `train.py` against plain loops over the same batches: how long they take, what they hold, what they lose.

    python3 -m benchmarks.training                    both comparisons
    python3 -m benchmarks.training --only features    a fine-tuned GPT-2 124M from stored features
    python3 -m benchmarks.training --only images      ViT-B/32, mlp, frozen GPT-2 124M from JPEGs, and from their cache

A plain loop is that of ClipCap and generative-image-to-text: captions padded to the longest of the data set, logits of
every position, pictures encoded again in each step; with labels that end at the end token and AdamW, clipping and
learning rate as ours has them, so that both sides must lose the same. Captions have the lengths of Flickr8k's.
Random weights, dropout 0, the same first weights and the same batches in the same order. Each side is a process of its
own, in turns; prints medians of several rounds, the ratio, the greatest difference of a step's loss, and peak memory.
"""

from __future__ import annotations

import argparse
import base64
import csv
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms as transforms
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.inference import image_tsv
from git_caption.captioner.captioner import Captioner
from git_caption.jobs.features import extract
from git_caption.model.git import GitNetwork
from git_caption.model.language import build_language_model, width
from git_caption.model.mapping import build_mapper
from git_caption.model.vision import build_image_encoder
from git_caption.params.features import ExtractParams
from git_caption.params.model import (
    CLIP_MEAN,
    CLIP_STD,
    CaptionerConfig,
    ImageEncoderConfig,
    LanguageModelConfig,
    MapperConfig,
    PromptConfig,
)
from git_caption.params.schema import parse
from git_caption.params.training.steps import OptimisationParams
from git_caption.samples.collate import Collate
from git_caption.samples.feature_rows import EncodedSamples
from git_caption.samples.features import FeatureCache
from git_caption.samples.steps import Share, TrainingSteps
from git_caption.samples.training_tsv import TrainingTsv
from git_caption.text.tokenizer import load_tokenizer, train_bpe
from git_caption.training.optimizer import build_optimizer
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import CaptionRow
from git_caption.tsv.writer import TsvWriter

ROOT = Path(__file__).parents[1]
WARM_UP = 3  # steps before the clock starts
PREFIX = 10
GPT2 = {"model_type": "gpt2", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
# Captions of Flickr8k by their number of words, full stops among them (M. Hodosh, P. Young and J. Hockenmaier, Framing
# Image Description as a Ranking Task, 2013): the number from 1 on, a place each.
FLICKR8K = [1, 15, 47, 238, 557, 1316, 2712, 3445, 3864, 4309, 4363, 4079, 3649, 3049, 2459, 1791, 1352, 956, 728, 496]
FLICKR8K += [329, 189, 178, 112, 66, 60, 30, 23, 11, 11, 9, 6, 3, 4, 1, 0, 0, 1]
LONGEST = len(FLICKR8K) + 1  # tokens, the end token among them


@dataclass(frozen=True)
class Side:
    """What one process measured: seconds of a step, the loss of each, peak memory in bytes."""

    seconds: float
    losses: list[float]
    peak: int


@dataclass(frozen=True)
class Task:
    """A comparison: what is trained, from what, and how many pictures a step takes."""

    name: str
    batch_size: int
    tunes_language_model: bool
    from_images: bool


FEATURES = Task("fine-tuned GPT-2 from features", 16, tunes_language_model=True, from_images=False)
IMAGES = Task("ViT-B/32, mlp, frozen GPT-2 from images", 8, tunes_language_model=False, from_images=True)


def prepare(folder: Path, images: int, language_model: dict[str, Any], image_encoder: ImageEncoderConfig) -> None:
    """Data, a captioner of random weights whose frozen parts are files of their own, and the features of the data."""
    words = captioned_images(folder, images)
    torch.manual_seed(0)
    model = build_language_model(LanguageModelConfig(name="gpt2", architecture=language_model))
    model.save_pretrained(folder / "gpt2")
    tokenizer_of(words, folder / "gpt2")
    encoder = build_image_encoder(image_encoder)
    source = {"id": str(written(encoder, folder))}
    config = parse(
        CaptionerConfig,
        {
            "image_encoder": {
                "name": image_encoder.name,
                "architecture": image_encoder.architecture,
                "output": "pooled",
                "weights": source,
            },
            "mapper": {"type": "mlp", "prefix_length": PREFIX},
            "language_model": {"name": "gpt2", "weights": {"id": str(folder / "gpt2")}},
        },
        "training benchmark",
    )
    mapper = build_mapper(MapperConfig("mlp", prefix_length=PREFIX), encoder.width, width(model), pooled=True)
    Captioner(config, GitNetwork(encoder, mapper, model), load_tokenizer(folder / "gpt2")).save(folder / "model")
    keys = {"model_path": str(folder / "model"), "image_tsv": str(folder / "images.tsv"), "out": str(folder / "cache")}
    extract(parse(ExtractParams, {**keys, "stored_as": "float32"}, "training benchmark"))


def captioned_images(folder: Path, images: int) -> list[str]:
    """`images.tsv` and `captions.tsv`, whose captions have the lengths of Flickr8k's; gives the words of these."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=4)) for _ in range(500)]
    image_tsv(folder / "images.tsv", images)
    lengths = rng.choices(range(1, len(FLICKR8K) + 1), FLICKR8K, k=images)
    with TsvWriter(folder / "captions.tsv") as out:
        for number, length in enumerate(lengths):
            out.write(CaptionRow(f"image{number}", (" ".join(rng.choices(words, k=length)),)).columns())
    return words


def tokenizer_of(words: Sequence[str], folder: Path) -> None:
    """Write a tokenizer to which each word is one token."""
    train_bpe((f"{word} {word}" for word in words), 4096, folder)


def written(encoder: nn.Module, folder: Path) -> Path:
    """The weights of an image encoder as a file."""
    path = folder / "encoder.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, path)
    return path


def batches(folder: Path, task: Task, steps: int) -> list[tuple[int, list[int]]]:
    """The row and the token ids of each text in the order in which our loop takes them."""
    data = TrainingTsv(folder / "images.tsv", folder / "captions.tsv", None)
    samples = EncodedSamples(data, FeatureCache(folder / "cache"))
    collate = Collate(load_tokenizer(folder / "gpt2"), PromptConfig(), captions=1, questions=0)
    ordered = TrainingSteps(samples, collate, Share(task.batch_size), seed=0)
    found = []
    for number in range(steps):
        step = ordered[number]
        if isinstance(step, Exception):
            raise step
        for batch in step.batches:
            found += [
                (int(key.removeprefix("image")), ids) for key, ids in zip(batch.keys, batch.target_ids, strict=True)
            ]
    return found


def ours(folder: Path, task: Task, steps: int, precision: str, *, cached: bool) -> Side:
    """`train.py` as a user runs it; what it took is in its journal and its closing line."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        keys = {
            "output_dir": f"{out}/run",
            "init_from": str(folder / "model"),
            "image_tsv": str(folder / "images.tsv"),
            "caption_tsv": str(folder / "captions.tsv"),
            "tune": "full" if task.tunes_language_model else "mapper",
            "epochs": steps * task.batch_size / _rows(folder),
            "bs": task.batch_size,
            "precision": precision,
            "log_every": 1,
            "device": "cpu",
            **_optimisation(),
            **({"features": str(folder / "cache")} if cached else {}),
        }
        Path(out, "config.json").write_text(json.dumps(keys))
        said = _run(["train.py", "--config", f"{out}/config.json"])
        with open(Path(out, "run", "journal.csv"), newline="") as file:
            lines = list(csv.DictReader(file))
    times = [float(line["seconds"]) for line in lines]
    peak = re.search(r"peak memory ([0-9.]+) GiB", said)
    assert len(lines) == steps and peak is not None, said
    losses = [float(line["loss"]) for line in lines]
    return Side((times[-1] - times[WARM_UP - 1]) / (steps - WARM_UP), losses, int(float(peak[1]) * 2**30))


def plain(folder: Path, task: Task, steps: int) -> Side:
    """The plain loop, in a process of its own."""
    (folder / "batches.json").write_text(json.dumps(batches(folder, task, steps)))
    kind = "images" if task.from_images else "features"
    said = _run(["-m", "benchmarks.training", "--plain", str(folder), "--only", kind])
    return Side(**json.loads(said.splitlines()[-1]))


class PlainRows(Dataset[tuple[Tensor, Tensor]]):
    """What the older tools read for a step: a picture as the encoder takes it, or its features; and padded ids."""

    def __init__(self, folder: Path, from_images: bool, resolution: int) -> None:
        self.rows: list[tuple[int, list[int]]] = json.loads((folder / "batches.json").read_text())
        self.images = folder / "images.tsv"
        cache = FeatureCache(folder / "cache")
        self.features = None if from_images else torch.stack([torch.tensor(cache[r].values[0]) for r, _ in self.rows])
        self.preprocess = transforms.Compose(
            [
                transforms.Resize(resolution, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(resolution),
                transforms.ToTensor(),
                transforms.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        row, ids = self.rows[place]
        padded = torch.tensor(ids + [-1] * (LONGEST - len(ids)))
        if self.features is not None:
            return self.features[place], padded
        with TsvFile(self.images) as file:
            image = Image.open(BytesIO(base64.b64decode(file.columns(row)[1]))).convert("RGB")
        return self.preprocess(image), padded


def plain_loop(folder: Path, task: Task) -> Side:
    """Train as the older tools do, and measure."""
    captioner = Captioner.load(folder / "model", device="cpu", dtype="float32")
    network = captioner.network
    assert isinstance(network, GitNetwork)
    mapper, model = network.mapper.requires_grad_(True), network.language_model
    model.requires_grad_(task.tunes_language_model)
    both = nn.ModuleDict({"mapper": mapper, "language_model": model})
    keys = parse(OptimisationParams, _optimisation(), "training benchmark")
    groups = [
        {"params": group["params"], "lr": group["lr"], "weight_decay": group["weight_decay"]}
        for group in build_optimizer(both, keys, 1)[0].param_groups
    ]
    optimizer = torch.optim.AdamW(groups, lr=keys.lr, betas=(0.9, 0.98))
    for group in groups:
        group["lr"] = keys.lr
    rows = PlainRows(folder, task.from_images, captioner.config.transform.resolution)
    loader = DataLoader(rows, task.batch_size, num_workers=1)
    embed = model.get_input_embeddings()
    losses, began = [], 0.0
    for number, (seen, ids) in enumerate(loader, 1):
        if task.from_images:
            with torch.no_grad():
                seen = network.image_encoder(seen).values[:, 0]
        prefix = mapper(seen[:, None].float(), torch.ones(len(seen), 1, dtype=torch.bool))
        mask = ids >= 0
        embedded = torch.cat([prefix, embed(ids.clamp(min=0))], dim=1)
        seen_by = torch.cat([mask.new_ones(len(ids), PREFIX), mask], dim=1)
        logits = model(inputs_embeds=embedded, attention_mask=seen_by.long()).logits[:, PREFIX - 1 : -1]
        labels = ids.masked_fill(~mask, -100)
        loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.flatten(), ignore_index=-100)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], keys.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if number == WARM_UP:
            began = time.perf_counter()
    seconds = (time.perf_counter() - began) / (len(losses) - WARM_UP)
    torch.save(both.state_dict(), folder / "plain.pt")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Side(seconds, losses, peak)


def difference(first: Side, second: Side) -> float:
    """The greatest difference of a step's loss."""
    return max(abs(a - b) for a, b in zip(first.losses, second.losses, strict=True))


def compare(folder: Path, task: Task, steps: int, rounds: int) -> None:
    """Measure in turns and print."""
    kinds = {"float32": ("float32", not task.from_images)}
    kinds |= {"float32, cached": ("float32", True)} if task.from_images else {"bfloat16": ("bfloat16", True)}
    before: list[Side] = []
    here: dict[str, list[Side]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        before.append(plain(folder, task, steps))
        for kind, (precision, cached) in kinds.items():
            here[kind].append(ours(folder, task, steps, precision, cached=cached))
    print(f"\n{task.name}, bs {task.batch_size}, {steps} steps, {torch.get_num_threads()} threads, median of {rounds}")
    print(f"{'':28}{'s a step':>10}{'ratio':>8}{'loss differs by':>18}{'peak memory':>14}")
    _line("plain loop, float32", before, before)
    for kind, sides in here.items():
        _line(f"train.py, {kind}", sides, before)


def _line(name: str, sides: Sequence[Side], before: Sequence[Side]) -> None:
    seconds, base = (statistics.median(side.seconds for side in some) for some in (sides, before))
    peak = statistics.median(side.peak for side in sides) / 2**30
    differs = "" if sides is before else f"{difference(sides[0], before[0]):.1e}"
    print(f"{name:28}{seconds:10.3f}{base / seconds:8.2f}{differs:>18}{peak:10.2f} GiB")


def _optimisation() -> dict[str, Any]:
    return {"lr": 1e-4, "warmup_steps": 0, "schedule": "constant", "seed": 0}


def _rows(folder: Path) -> int:
    with TsvFile(folder / "images.tsv") as file:
        return len(file)


def _run(arguments: list[str]) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


def main() -> None:
    """Prepare, measure in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["features", "images"], help="one of the two comparisons")
    parser.add_argument("--steps", type=int, default=24, help="of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--plain", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    tasks = {"features": FEATURES, "images": IMAGES}
    if given.plain is not None:
        side = plain_loop(given.plain, tasks[given.only])
        print(json.dumps(vars(side)))
        return
    with tempfile.TemporaryDirectory() as name:
        images = given.steps * max(task.batch_size for task in tasks.values())
        prepare(Path(name), images, GPT2, ImageEncoderConfig(name="ViT-B/32", output="pooled"))
        for task in [tasks[given.only]] if given.only else tasks.values():
            compare(Path(name), task, given.steps, given.rounds)


if __name__ == "__main__":
    main()
