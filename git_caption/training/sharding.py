"""FSDP: a network's weights, their gradients and the optimiser's state in shards, one on each process of a run.

A block of the language model is gathered for the time that it computes, what is around the blocks for that of a step.
ZeRO, https://arxiv.org/abs/1910.02054; PyTorch FSDP, https://arxiv.org/abs/2304.11277.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from git_caption.captioner import checkpoint, hub
from git_caption.captioner.loading import captioner_folder, pretrained_folder
from git_caption.errors import GitCaptionError, UsageError
from git_caption.model.folder import architecture_of
from git_caption.model.git import GitNetwork
from git_caption.model.language import blocks_of, input_device, width
from git_caption.model.quantization import quantization_of
from git_caption.params.model import WeightsSource
from git_caption.params.training.run import WHOLE_BITS, TrainingParams
from git_caption.training.objectives import CaptionObjective, LanguageObjective, Objective

OfLanguage = CaptionObjective | LanguageObjective
"""Objectives by a language model, which is what can be in shards."""


def mesh_of(accelerator: Accelerator) -> DeviceMesh:
    """All processes of the run, on their devices; made by all of them together."""
    return init_device_mesh(accelerator.device.type, (accelerator.num_processes,))


def require_shardable(params: TrainingParams) -> None:
    """Refuse what is not put in shards, as far as configs on disk tell, before weights are read.

    Raises:
        UsageError: layers of cross-attention, or a language model in 8 or 4 bits.
        WeightsError: what a config says cannot be read.
    """
    told = params.parts
    name, quantization = told.init_from, "none"
    if told.init_from is not None:
        if Path(told.init_from).expanduser().is_file() or pretrained_folder(told.init_from) is not None:
            return  # it has neither, or is refused where it is built
        config = checkpoint.load_config(captioner_folder(told.init_from))
        if config.cross_attention is not None:
            raise UsageError(f"'fsdp': {told.init_from} has layers of cross-attention, which are not put in shards")
        quantization = config.language_model.quantization
    elif told.language_model is not None and told.language_model.architecture is None:
        source = told.language_model.weights or WeightsSource(told.language_model.name)
        folder = hub.resolve_language_model(source.id, source.revision)
        name, quantization = source.id, quantization_of(architecture_of(folder, "causal language model"))
    if quantization != "none":
        raise UsageError(f"'fsdp': {name} is in {quantization}; {WHOLE_BITS}")


@contextmanager
def in_turn(accelerator: Accelerator) -> Iterator[None]:
    """Inside, this process is the only one of its machine: so a machine holds one whole model at a time."""
    own = accelerator.local_process_index
    last = max(gather_object([own]))
    for _ in range(own):
        accelerator.wait_for_everyone()
    fault = None
    try:
        yield
    except GitCaptionError as error:
        fault = error
    for _ in range(own, last + 1):
        accelerator.wait_for_everyone()
    if fault is not None:  # now that the others, who wait here, have found it too
        raise fault


def shard(objective: OfLanguage, mesh: DeviceMesh) -> None:
    """Leave of each weight, which is whole in CPU memory on all processes, the shard of this one on its device.

    Raises:
        UsageError: the blocks of the language model are not known.
    """
    model = objective.language_model
    blocks = blocks_of(model)
    if not blocks:
        raise UsageError(f"'fsdp': the blocks of {type(model).__name__} are not known; leave it out")
    if isinstance(objective, CaptionObjective) and isinstance(objective.network, GitNetwork):
        objective.network.way_of_packing()  # it may fail at the question, and in shards it could not go on then
    # that something might be written into what a block gives; blocks of transformers leave it as it is
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(module, FSDPModule)


@contextmanager
def in_step(objective: Objective) -> Iterator[None]:
    """Inside, without gradients, each process calls the language model as often as it has to, and with what it has.

    A call gathers blocks from all processes, so one that is through keeps calling until all are. What is around the
    blocks stays gathered. Nothing of this where the objective is not in shards.
    """
    if not isinstance(objective, FSDPModule):
        yield
        return
    assert isinstance(objective, OfLanguage), "what is in shards"
    objective.unshard()
    model = objective.language_model
    device = input_device(model)

    def calling(count: int) -> bool:
        callers = torch.tensor(count, device=device)
        distributed.all_reduce(callers)
        return bool(callers)

    def announce(*_: object) -> None:
        calling(1)

    announced = model.register_forward_pre_hook(announce)
    try:
        yield
    finally:
        announced.remove()
    while calling(0):
        model(inputs_embeds=torch.zeros(1, 1, width(model), device=device), use_cache=False)
    objective.reshard()


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor in shards, in CPU memory on the first process and empty on the others; any other as it is.

    All processes have to ask for it.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole.cpu() if distributed.get_rank() == 0 else torch.empty(0)


def scattered(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that each process has as a whole in shards, if `like` is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).clone()


def gathered_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of an optimiser with what is in shards `gathered`."""
    return {**state, "state": {number: _each(gathered, own) for number, own in state["state"].items()}}


def scattered_state(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """What `gathered_state` gave, for the optimiser of these parameters."""

    def of(number: int, own: Mapping[str, Any]) -> dict[str, Any]:
        like = parameters[number]
        return _each(lambda value: scattered(value, like) if value.shape == like.shape else value, own)

    return {**state, "state": {number: of(number, own) for number, own in state["state"].items()}}


def make_whole(objective: nn.Module, left: nn.Module | None) -> None:
    """Put whole weights in CPU memory in the place of the first process's shards: it can store, not train them.

    left: whose weights stay in shards where they are not trained; None: there is no such part.
    """
    kept = {id(parameter) for parameter in (left.parameters() if left else ()) if not parameter.requires_grad}
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in objective.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) not in kept:
                owners.setdefault(id(parameter), []).append((module, name))  # several where tensors are tied
    for places in owners.values():
        module, name = places[0]
        parameter = getattr(module, name)
        whole = gathered(parameter.detach())
        if distributed.get_rank() == 0:
            for module, name in places:
                setattr(module, name, nn.Parameter(whole, parameter.requires_grad))


def _each(function: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: function(value) if isinstance(value, Tensor) else value for name, value in values.items()}
