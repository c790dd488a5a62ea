"""Names of CLIP image encoders and what open_clip's tables tell of their weights.

ViT-B/32                      OpenAI's model with OpenAI's weights
ViT-B-32:laion2b_s34b_b79k    open_clip's model and, after the colon, its name ("tag") for a set of weights
ViT-B-32                      open_clip's model, where the weights are named elsewhere
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from git_caption.errors import UsageError
from git_caption.params.json_file import read_object

# OpenAI trained with QuickGELU; open_clip's plain names would run these weights with another activation
OPENAI_NAMES = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "RN50x4": "RN50x4-quickgelu",
    "RN50x16": "RN50x16-quickgelu",
    "RN50x64": "RN50x64-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
    "ViT-L/14@336px": "ViT-L-14-336-quickgelu",
}
DESCRIPTION = "open_clip_config.json"  # beside the weights of open_clip's repositories


@dataclass(frozen=True)
class Pretrained:
    """A set of weights: where it is kept, and what its tensors do not tell."""

    quick_gelu: bool
    preprocessing: Mapping[str, Any]  # mean, std, interpolation, resize_mode, as open_clip calls them
    repository: str | None = None
    file: str | None = None  # None: under one of open_clip's usual names
    url: str = ""


def architecture_name(name: str) -> str | None:
    """open_clip's name of the architecture that `name` stands for, without a tag; None where it stands for none."""
    import open_clip

    model = OPENAI_NAMES.get(name, name.partition(":")[0])
    return model if model in open_clip.list_models() else None


def pretrained(name: str) -> Pretrained | None:
    """The weights that a name stands for; None for a name that is not CLIP's.

    Raises:
        UsageError: a model's name without a tag or with one that it has not.
    """
    import open_clip

    model, _, tag = (OPENAI_NAMES[name], ":", "openai") if name in OPENAI_NAMES else name.partition(":")
    if architecture_name(name) is None:
        if tag:
            raise unknown(name)
        return None
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag in tags:
        return _entry(model, tag)
    spelt = ", ".join(f"'{model}:{known}'" for known in _fitting_tags(model)) or "none known; name their file instead"
    if not tag:
        raise UsageError(f"image encoder {name!r} is an architecture and names no weights. Its weights: {spelt}")
    near = difflib.get_close_matches(tag, tags, n=1)
    hint = f" Did you mean '{model}:{near[0]}'?" if near else ""
    raise UsageError(f"image encoder {name!r}: {model} has no weights {tag!r}.{hint} Known: {spelt}")


def known_of(source: str | None, weights: Path | None) -> Pretrained | None:
    """What is known of weights, by what they were asked for as, else by their place or the description beside them.

    Args:
        source: a name, a repository or a path.
        weights: the file.
    """
    if source is not None and (found := _named(source)):
        return found
    if weights is None:
        return None
    cached = [part.removeprefix("models--") for part in weights.parts if part.startswith("models--")]
    if cached and (found := _named(cached[-1].replace("--", "/"))):
        return found
    description = description_beside(weights)
    if description is None:
        return None
    quick_gelu = bool(description.get("model_cfg", description).get("quick_gelu", False))
    return Pretrained(quick_gelu, description.get("preprocess_cfg", {}))


def description_beside(weights: Path) -> dict[str, Any] | None:
    """The open_clip_config.json in the folder of a weights file: `model_cfg` and `preprocess_cfg`.

    Raises:
        WeightsError: it is no JSON object.
    """
    path = weights.parent / DESCRIPTION
    return read_object(path) if path.is_file() else None


def nearest(name: str) -> str | None:
    """The known name most like one that is not known; of a hub id only if it is much like one of OpenAI's names."""
    import open_clip

    names = list(OPENAI_NAMES)
    if ":" in name:
        names += [f"{model}:{tag}" for model, tag in open_clip.list_pretrained()]
    elif "/" not in name:
        names += open_clip.list_models()
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return close[0] if close else None


def unknown(name: str) -> UsageError:
    """The error for a name that nobody knows."""
    hint = f" Did you mean {near!r}?" if (near := nearest(name)) else ""
    return UsageError(
        f"unknown image encoder {name!r}.{hint} Known: {', '.join(OPENAI_NAMES)}, open_clip's models as "
        "'ViT-B-32:laion2b_s34b_b79k', and hub ids or folders of SigLIP 2 and DINOv3"
    )


def _named(source: str) -> Pretrained | None:
    """Weights by name with a tag, or by the repository that holds them."""
    import open_clip

    if source in OPENAI_NAMES or (":" in source and architecture_name(source) is not None):
        return pretrained(source)
    entries = (_entry(model, tag) for model, tag in open_clip.list_pretrained())
    return next((entry for entry in entries if entry.repository == source), None)


def _entry(model: str, tag: str) -> Pretrained:
    import open_clip

    known = open_clip.get_pretrained_cfg(model, tag)
    owner, _, rest = str(known.get("hf_hub", "")).partition("/")
    repository, _, file = rest.partition("/")  # 'owner/name/' or 'owner/name/file'
    has_twin = f"{model.removesuffix('-quickgelu')}-quickgelu" in open_clip.list_models()
    return Pretrained(
        # a model there in one form only was trained in it, whatever the table leaves out
        quick_gelu=bool(known.get("quick_gelu", False)) if has_twin else _runs_quick_gelu(model),
        preprocessing=known,
        repository=f"{owner}/{repository}" if repository else None,
        file=file or None,
        url=str(known.get("url", "")),
    )


def _fitting_tags(model: str) -> list[str]:
    """The tags of weights that were trained with the model's activation."""
    import open_clip

    runs = _runs_quick_gelu(model)
    return [tag for tag in open_clip.list_pretrained_tags_by_model(model) if _entry(model, tag).quick_gelu == runs]


def _runs_quick_gelu(model: str) -> bool:
    import open_clip

    return bool(open_clip.get_model_config(model).get("quick_gelu", False))
