"""How it is trained: steps, learning rate, and where they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.device_split import read_split
from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class OptimisationParams:
    """Steps and their learning rate."""

    epochs: float = key(1.0, above=0, help="passes over the pictures; may be a fraction")
    bs: int = key(32, minimum=1, help="pictures that a process computes at once", aliases=("batch_size",))
    accumulation: int = key(1, minimum=1, help="batches whose gradients make one step, for memory too small for bs")
    optimizer: Literal["adamw", "adamw_8bit"] = key(
        "adamw", help="adamw_8bit holds the state of large matrices in 8 bits, by bitsandbytes: a quarter of the memory"
    )
    lr: float = key(2e-5, above=0, help="highest learning rate of AdamW")
    image_encoder_lr: float | None = key(
        None, above=0, help="the image encoder's own, where it is trained; None: as lr"
    )
    warmup_steps: int = key(100, minimum=0, help="steps in which the learning rate rises from zero")
    schedule: Literal["linear", "cosine", "constant"] = key("linear", help="how the learning rate falls after that")
    betas: tuple[float, ...] = key((0.9, 0.98), help="AdamW's two: how long it remembers gradients and their squares")
    weight_decay: float = key(0.01, minimum=0, help="AdamW's, on matrices only")
    max_grad_norm: float = key(1.0, above=0, help="gradients are scaled down to this norm")
    seed: int = key(0, minimum=0, help="of the weights, the order and the captions drawn")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Betas that are not two, or not below 1, as (keys concerned, message)."""
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            yield ("betas",), f"'betas': expected two numbers from 0 to below 1, found {list(self.betas)}"


@dataclass(frozen=True, kw_only=True)
class ComputingParams:
    """Where and in which precision a run computes."""

    device: str = key("auto", help="auto (a GPU where there is one), cpu, cuda or cuda:1")
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str] | None = key(
        None,
        help="spreads the language model over devices: a way of accelerate's, or module: device; None: on `device`",
    )
    device_split: str | None = key(
        None,
        help="in place of device_map, where blocks are in order: '1:4,2:11,3' is 0 to 3 on GPU 1, 4 to 10 on GPU 2, "
        "the others on GPU 3; old spelling --device 123 --pn 411",
    )
    max_memory: dict[str, int | str] | None = key(
        None, help="what device_map may use of each device, as {'0': '20GiB', 'cpu': '60GiB'}; None: all there is"
    )
    fsdp: bool = key(
        False,
        help="shard the language model, its gradients and the optimiser's state over all processes (torch's FSDP), for "
        "one too large for a device; without it each process has all of them",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = key(
        "auto", help="of the computation, weights that are trained stay float32; auto: float32 on a CPU, else bfloat16"
    )
    gradient_checkpointing: bool = key(
        False, help="compute the language model's blocks again for their gradients: less memory, a third more time"
    )
    compile: bool = key(
        False, help="compile the network by torch.compile; texts are then padded, not packed: measure whether it pays"
    )
    num_workers: int = key(1, minimum=0, help="processes that read and decode")

    @property
    def spreads(self) -> str | None:
        """The key that spreads the language model over devices; None where it is on one."""
        return next((name for name in ("device_map", "device_split") if getattr(self, name) is not None), None)

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What does not go with a language model on several devices, as (keys concerned, message)."""
        if self.device_split is not None:
            try:
                read_split(self.device_split)
            except ValueError as error:
                yield ("device_split",), f"'device_split': {error}, found {self.device_split!r}"
            if self.device_map is not None:
                yield ("device_map", "device_split"), "'device_map' and 'device_split' exclude each other"
        if self.max_memory is not None and self.device_map is None:
            message = "'max_memory': bounds a 'device_map' and there is none: give one, as 'auto'"
            yield ("max_memory", "device_map"), message
        if self.fsdp:
            yield from self._check_fsdp()
        if self.spreads is not None and self.compile:
            yield ("compile", self.spreads), f"'compile': not of a language model on several devices ({self.spreads!r})"

    def _check_fsdp(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.spreads is not None:
            yield ("fsdp", self.spreads), f"'fsdp' and {self.spreads!r} exclude each other"
        if self.compile:
            yield ("compile", "fsdp"), "'compile': not of what is in shards ('fsdp'); leave one of the two out"
        if self.precision == "float16":
            yield ("precision", "fsdp"), "'precision': float16 does not go with 'fsdp'; use bfloat16 or float32"
