"""Models in folders as transformers writes them: read exactly and without noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from git_caption.errors import WeightsError, reason
from git_caption.model.weights import described
from git_caption.params.json_file import read_object

# buffers that old versions of transformers and bitsandbytes stored beside the weights; the models compute them now
COMPUTED = (
    ".rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".crossattention.bias",
    ".crossattention.masked_bias",
    ".embeddings.position_ids",
    ".weight_format",
)


def load_folder(
    kind: Any,
    folder: Path,
    what: str,
    source: str | None = None,
    *,
    spare: tuple[str, ...] = (),
    unused: Sequence[str] = (),
    **options: Any,
) -> PreTrainedModel:
    """A model with the weights of a folder as `save_pretrained` writes it.

    Args:
        kind: a class of transformers, or one of its Auto classes.
        folder: config.json and weights.
        what: the model, as errors call it.
        source: where the weights are from, as errors call it; the folder if not given.
        spare: how names of tensors begin that the model has no place for and that may be there all the same.
        unused: parts of names of tensors that may be missing, for nothing is computed with them.
        **options: of `from_pretrained`.

    Raises:
        WeightsError: it cannot be read, or tensors are missing, unexpected or misshapen, all listed together.
    """
    source = source or str(folder)
    with _reading(source, what):
        model, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, with all else that does not fit
            **options,
        )
    misshapen = [
        f"{name} is {tuple(seen)}, expected {tuple(expected)}" for name, seen, expected in info["mismatched_keys"]
    ]
    unexpected = [
        name for name in info["unexpected_keys"] if not name.endswith(COMPUTED) and not name.startswith(spare)
    ]
    missing = [name for name in info["missing_keys"] if not any(part in name for part in unused)]
    found = described({"missing": sorted(missing), "unexpected": sorted(unexpected), "misshapen": misshapen})
    if found:
        raise WeightsError(f"{source} does not fit the {what}: {found}")
    assert isinstance(model, PreTrainedModel)
    return model


def architecture_of(folder: Path, what: str) -> dict[str, Any]:
    """What a folder's config.json says of its model, as transformers reads it.

    Raises:
        WeightsError: it is no JSON object, or nothing that transformers knows.
    """
    read_object(folder / "config.json")  # which says more of what is no JSON object
    with _reading(str(folder), what):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return config.to_diff_dict()


@contextmanager
def _reading(source: str, what: str) -> Iterator[None]:
    """Say of an error while a folder is read that it is the folder's, and which folder's."""
    try:
        with quiet():
            yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of wrong settings and damaged weights the libraries raise nearly anything
        raise WeightsError(f"{source}: not a loadable {what}: {reason(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and load report: what does not fit is raised, in one line."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity(ERROR)
    accelerate = getLogger("accelerate.big_modeling")  # says that weights are on the disk, as a device map asked
    level = accelerate.level
    accelerate.setLevel(ERROR)
    try:
        yield
    finally:
        accelerate.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
