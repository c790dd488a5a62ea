"""The command line behind `train.py`: a config file, flags over it, one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from git_caption import command_line
from git_caption.errors import UsageError
from git_caption.params.literal import parse_file
from git_caption.params.schema import describe, parse
from git_caption.params.training.run import TrainingParams
from git_caption.training.run import train

DESCRIPTION = """\
Train a captioner: an image encoder, a mapper and a language model, each new or pretrained, frozen or trained.

  python3 train.py --config configs/shapes.yaml
  python3 train.py --config configs/shapes.yaml --lr 1e-3 --output_dir checkpoints/again
"""

EPILOG = """\
A stopped run goes on from its last save: give the same command again. On several GPUs or machines: torchrun train.py.

Exit codes: 0 done; 1 the run failed; 2 the command or its parameters are wrong; 75 stopped by a signal with the state
saved, the same command goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 wrong command or parameters, 75 stopped by a signal.
    """
    return command_line.run(
        lambda arguments: train(parse_command(arguments)),
        argv,
        stopped="stopped before the end: the same command goes on from the last save, if there is one",
    )


def parse_command(arguments: Sequence[str]) -> TrainingParams:
    """The parameters of a command line; flags win over the config file.

    Raises:
        UsageError: unknown flags or keys, wrong types, absent files; all listed.
    """
    parser = command_line.Parser("train.py", DESCRIPTION, EPILOG)
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with these keys; flags win over it")
    for row in describe(TrainingParams):
        default = "required" if row.required else f"default {row.default}"
        parser.add_argument(
            f"--{row.name}", metavar="VALUE", help=f"{row.help} [{row.type}; {default}]".replace("%", "%%")
        )
    given = vars(parser.parse_args(arguments))
    config, _ = given.pop("config"), given.pop("debug")
    values = _read(config) if config is not None else {}
    values |= {name: value for name, value in given.items() if value is not None}
    return parse(TrainingParams, values, config or "train.py")


def _read(config: str) -> dict[str, Any]:
    found = parse_file(config)
    if len(found) != 1:
        raise UsageError(f"{config}: expected the keys of one run, found a list of {len(found)}")
    return found[0]
