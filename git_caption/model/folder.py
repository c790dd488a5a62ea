"""Loading a model from a folder as transformers writes it, exactly and without noise."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from git_caption.errors import WeightsError
from git_caption.model.weights import described


def load_folder(
    model_class: Any, folder: Path, what: str, is_expected: Callable[[str], bool], **options: Any
) -> PreTrainedModel:
    """A model of `model_class` with the weights of `folder`.

    Args:
        model_class: a class of transformers, or one of its Auto classes.
        folder: config.json and weights.
        what: the model, as errors call it.
        is_expected: whether a tensor that the model has no place for may be there all the same.
        **options: of `from_pretrained`.

    Raises:
        WeightsError: it cannot be read, or tensors are missing, unexpected or misshapen, all listed together.
    """
    try:
        with quiet():
            loaded: Any = model_class.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, with all else that does not fit
                **options,
            )
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, and not the folder's fault
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{folder}: not a loadable {what}: {str(error).splitlines()[0]}") from error
    model, info = loaded
    misshapen = [
        f"{name} is {tuple(seen)}, expected {tuple(expected)}" for name, seen, expected in info["mismatched_keys"]
    ]
    unexpected = sorted(name for name in info["unexpected_keys"] if not is_expected(name))
    found = described({"missing": sorted(info["missing_keys"]), "unexpected": unexpected, "misshapen": misshapen})
    if found:
        raise WeightsError(f"{folder} does not fit the {what}: {found}")
    assert isinstance(model, PreTrainedModel)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and load report: what does not fit is raised, in one line."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
