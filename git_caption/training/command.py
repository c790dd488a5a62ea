"""The flags of `train.py`: one for each key, in the groups of the keys, with the old spellings beside them."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from git_caption import command_line
from git_caption.errors import UsageError
from git_caption.params.literal import parse_file
from git_caption.params.schema import KeyRow, describe
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.settings import MODELS, Settings, parts_of, settle
from git_caption.params.training.spellings import FILE_PREFIX, SPELLINGS, SPLIT

USAGE = "train.py [--preset NAME] [--config FILE] [--KEY VALUE ...]"

DESCRIPTION = """\
Train a captioner: an image encoder, a mapper and a language model, each new or pretrained, frozen or trained.

Which data: --data takes any data set that the job validate_data knows (a CSV, a folder, COCO, CC3M, tars, a Hugging
Face data set) and a pickle of ClipCap's parse_coco.py; --image_tsv and --caption_tsv take TSVs.

Which preset: a preset sets the defaults of a tool that came before this one. --config FILE goes before it, flags go
before both. It is implied, and printed first:
  git          pretrained parts, of which the mapper is trained; LLaMA in 8 bits. Where nothing says otherwise
  clipcap      mlp and GPT-2 are trained on CLIP's pooled features. By --data FILE.pkl
  clipcap_opt  a transformer mapper and OPT; by its name only
  nice         stored prefixes of other captioners are mixed before a frozen OPT. By --model_key, or --mixing alone
  instagram    a captioner is trained on. By --init_from with --data_dir
  blip         LoRA on the decoder of a pretrained captioner. By --captioner
  vit_gpt2     the same for a VisionEncoderDecoder. By --captioner that is one
  llama_ca     layers of cross-attention are trained in LLaMA. By --nb_ca or --fusion cross_attention
  none         a captioner is trained on (--init_from), or an image encoder or a language model begins from nothing
"""

EPILOG = """\
Examples:
  # your own pictures: the columns image and caption of a CSV; the embedded captioner is trained on
  python3 train.py --data photos.csv --init_from data/shapes/model --tune full --bs 8 \\
      --epochs 250 --lr 2e-3 --output_dir checkpoints/photos
  # a mapper between a frozen CLIP and a frozen GPT-2, from the CC3M folder ../data/conceptual
  torchrun --nproc_per_node=1 train.py -iet ViT-B/32 -lm gpt2-large -mpt mlp --bs 32 --epochs 5 \\
      --output_dir checkpoints/vitb32_gpt2l
  # ClipCap's mapper alone, from the features of parse_coco.py
  python3 train.py --data oscar_split_ViT-B_32_train.pkl --out_dir coco_train --only_prefix --num_layers 8 \\
      --mapping_type transformer --prefix_length 40 --prefix_length_clip 40
  # LoRA on BLIP, from a JSON list of {"text", "image"}
  python3 train.py --captioner Salesforce/blip-image-captioning-base --data train.json --val_data val.json \\
      --epochs 5 --output_dir checkpoints/blip
  # a whole run from a file; a run again, with another learning rate
  python3 train.py --config configs/shapes.yaml
  python3 train.py --config checkpoints/photos/training.json --lr 1e-3 --output_dir checkpoints/again

A stopped run goes on from its last save: give the same command again. docs/training.md tells more, docs/migration.md
what the lines of older tools are here.

Exit codes: 0 done; 1 the run failed; 2 the command or its parameters are wrong; 75 stopped by a signal with the state
saved, the same command goes on.
"""


def parse_command(arguments: Sequence[str]) -> Settings:
    """The parameters of a command line; flags win over the config file, which wins over the preset.

    Raises:
        UsageError: unknown flags or keys, wrong types, absent files; all listed.
    """
    given = vars(_parser().parse_args(arguments))
    config, _ = given.pop("config"), given.pop("debug")
    flags = {name: value for name, value in given.items() if value is not None}
    return settle(_read(config) if config is not None else {}, flags, config or "train.py")


def _parser() -> command_line.Parser:
    parser = command_line.Parser("train.py", DESCRIPTION, EPILOG)
    parser.usage = USAGE
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with these keys; flags win over it")
    groups: dict[str, Any] = {"": parser}
    for row in describe(TrainingParams):
        if row.group not in groups:
            groups[row.group] = parser.add_argument_group(row.group)
        _add(groups[row.group], row, row.name)
    for spelling in SPELLINGS:
        flags = [flag for flag in spelling.flags if flag != "--language_model"]  # which is a key of its own
        _add_old(parser, flags, spelling.names[0], spelling.switch)
    for name in (FILE_PREFIX, SPLIT):
        _add_old(parser, [f"--{name}"], name)
    return parser


def _add(group: Any, row: KeyRow, path: str) -> None:
    """The flag of a key, and those of the keys in it."""
    default = "required" if row.required and path == row.name else f"default {row.default or 'none but a preset has'}"
    switch: dict[str, Any] = {"nargs": "?", "const": "True"} if row.type == "True or False" else {}
    flags = [f"--{path}", *(f"--{alias}" for alias in row.aliases)]
    text = f"{row.help}{_old(path)} [{row.type}; {default}]".replace("%", "%%")
    group.add_argument(*flags, dest=path, metavar="VALUE", help=text, **switch)
    cls = parts_of(path)
    for inner in describe(cls) if cls is not None else ():
        if path in MODELS:
            _add(group, inner, f"{path}.{inner.name}")
        else:
            group.add_argument(f"--{path}.{inner.name}", help=argparse.SUPPRESS)


def _add_old(parser: argparse.ArgumentParser, flags: Sequence[str], name: str, switch: bool = False) -> None:
    options: dict[str, Any] = {"nargs": "?", "const": "True"} if switch else {}
    parser.add_argument(*flags, dest=name, help=argparse.SUPPRESS, **options)


def _old(key: str) -> str:
    """The old spellings of a key, as its help shows them."""
    shown: defaultdict[str, list[str]] = defaultdict(list)
    for spelling in SPELLINGS:
        if spelling.key == key:
            meant = ", ".join(f"{old}: {own}" for old, own in spelling.words.items() if own is not None)
            shown[f" ({meant})" if meant else ""] += spelling.flags
    text = "".join(f"; old spelling {', '.join(flags)}{meant}" for meant, flags in shown.items())
    return text + (f"; --{FILE_PREFIX} NAME: the folder NAME in it" if key == "output_dir" else "")


def _read(config: str) -> dict[str, Any]:
    found = parse_file(config)
    if len(found) != 1:
        raise UsageError(f"{config}: expected the keys of one run, found a list of {len(found)}")
    return found[0]
