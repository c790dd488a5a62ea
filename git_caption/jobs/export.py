"""The job that makes a checkpoint self-contained: for a machine without a hub cache, or of an old tool's file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from git_caption.captioner import checkpoint
from git_caption.captioner.captioner import Captioner
from git_caption.captioner.pretrained import PretrainedCaptioner
from git_caption.captioner.repository_files import weight_files
from git_caption.params.export import ExportParams


def export(params: ExportParams) -> None:
    """Write a captioner with all its parts in model.safetensors, frozen ones too, and its base captioner beside it.

    One that was trained from a pretrained captioner becomes a plain folder of transformers, LoRA merged.

    Raises as `Captioner.load` does, and UsageError for a pretrained captioner, which is self-contained as it is.
    """
    model = params.model
    captioner = Captioner.load(
        model.path, **model.told, quantization=params.quantization, device="cpu", dtype=params.dtype
    )
    out = Path(params.out_dir)
    if isinstance(captioner, PretrainedCaptioner):
        captioner.save(out)
        print(f"wrote {out}, a folder that transformers reads too: {_megabytes(out)} of weights")
        return
    _write(captioner, out)
    print(f"wrote {out}: {_megabytes(out)} of weights")


def _write(captioner: Captioner, out: Path) -> None:
    config, network = captioner.own_parts()
    whole = replace(config.holding_encoders(), language_model=replace(config.language_model, weights=None))
    save_base = None
    if captioner.base is not None:
        stored = replace(captioner.base.config, source=None, image_encoder_type=None, language_model=None)
        whole, save_base = replace(whole, base=stored), partial(_write, captioner.base.captioner)
    checkpoint.save(whole, network, captioner.tokenizer, out, save_base)


def _megabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in weight_files(folder)) / 1e6:.1f} MB"
