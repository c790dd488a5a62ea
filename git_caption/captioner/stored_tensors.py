"""The tensors that a checkpoint stores of a captioner: their names, and how they are put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from git_caption.errors import WeightsError
from git_caption.params.model import CaptionerConfig, ImageEncoderConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from git_caption.model.git import GitNetwork
    from git_caption.model.vision import ImageEncoder


def of(config: CaptionerConfig, network: GitNetwork) -> list[tuple[list[str], Tensor]]:
    """What model.safetensors holds: (names of tied tensors, sorted; the tensor), in order of the first names."""
    from git_caption.model.adapters import without_adapter

    modules: dict[str, nn.Module] = dict(network.between)
    if network.temporal is not None:
        modules["temporal"] = network.temporal
    modules |= {
        name: encoder
        for name, encoder, described in encoders(config, network)
        if described.weights is None and not config.mixes_stored
    }
    if config.language_model.weights is None:
        modules["language_model"] = network.language_model
    return tied(
        {
            f"{part}.{name}": tensor
            for part, module in modules.items()
            for name, tensor in without_adapter(module.state_dict()).items()
        }
    )


def tied(tensors: Mapping[str, Tensor]) -> list[tuple[list[str], Tensor]]:
    """Each tensor with all its names, sorted; in order of the first names."""
    groups: dict[Any, tuple[list[str], Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else name
        groups.setdefault(place, ([], tensor))[0].append(name)
    return sorted(groups.values(), key=lambda group: group[0])


def fill(stored: Iterable[tuple[list[str], Tensor]], tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into the `stored` ones of a network; any one of tied names will do, several must be equal.

    Raises:
        WeightsError: missing, unexpected or misshapen tensors, or tied ones that differ, listed together.
    """
    import torch

    from git_caption.model.weights import described

    kinds: dict[str, list[str]] = {"missing": [], "unexpected": [], "misshapen": [], "tied but different": []}
    known: set[str] = set()
    copies: list[tuple[Tensor, Tensor]] = []
    for names, own in stored:
        known.update(names)
        given = [name for name in names if name in tensors]
        if not given:
            kinds["missing"].append(names[0])
        for name in given:
            if tensors[name].shape != own.shape:
                kinds["misshapen"].append(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own.shape)}")
            elif name == given[0]:
                copies.append((own, tensors[name]))
            elif not torch.equal(tensors[name], tensors[given[0]]):
                kinds["tied but different"].append(f"{given[0]} and {name}")
    kinds["unexpected"] = sorted(set(tensors) - known)
    if found := described(kinds):
        raise WeightsError(f"{source} does not fit the captioner: {found}")
    with torch.no_grad():
        for own, given_tensor in copies:
            own.copy_(given_tensor)


def encoders(config: CaptionerConfig, network: GitNetwork) -> Iterator[tuple[str, ImageEncoder, ImageEncoderConfig]]:
    """The image encoders: name among the modules, the tower (of stored prefixes what stands for it), description."""
    towers = getattr(network.image_encoder, "encoders", None)
    for number, encoder in enumerate(config.encoders):
        if towers is None:
            yield "image_encoder", network.image_encoder, encoder.image_encoder
        else:
            yield f"image_encoder.encoders.{number}", towers[number], encoder.image_encoder
