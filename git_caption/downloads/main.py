"""The command line behind `download.py`: a flag for each key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from git_caption import command_line
from git_caption.params.download import DownloadParams
from git_caption.params.schema import KeyRow, describe, parse

DESCRIPTION = """\
Download the images of a list of addresses: CC3M, or any other.

What is written, for CC3M in DIR (of another list NAME.csv, NAME/ and NAME.status.jsonl in the folder NAME):
  DIR/train/00000000.jpg ...   the image of the first line of Train_GCC-training.tsv, and so on; DIR/val/ likewise
  DIR/train.status.jsonl       a row for every address: done, or why not
  with --format tsv            DIR/tsv/train.img.tsv and DIR/tsv/train.caption.tsv, in the order of the list
  with --format webdataset     DIR/webdataset/train/00000.tar ..., images and captions
"""

EPILOG = """\
Examples:
  # CC3M, from the two TSVs that its page gives
  python3 download.py --data_root data/conceptual
  # what failed, again; only what took too long, with more patience
  python3 download.py --data_root data/conceptual --retry failed
  python3 download.py --data_root data/conceptual --retry timeout --total_timeout 120
  # any list, ready for training, images of 384 pixels
  python3 download.py --list photos.csv --url_col link --caption_col text --format tsv --resize 384
  # four machines: a Slurm array takes its task's part by itself
  python3 download.py --data_root data/conceptual --shard 0/4
  sbatch --array=0-3 --wrap 'python3 download.py --data_root data/conceptual'

Stop it at any time, by a kill too, and give the same command again: what has a status row is not fetched again.
docs/download.md tells more: the causes in status rows, what is refused, proxies and certificates.

Exit codes: 0 every address has a status row, failed ones too; 1 the run failed; 2 the command or its parameters are
wrong; 75 stopped by a signal, the same command goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Download as the command line says.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 wrong command or parameters, 75 stopped by a signal.
    """
    return command_line.run(_download, argv, stopped="stopped before the end: the same command goes on")


def parse_command(arguments: Sequence[str]) -> DownloadParams:
    """The parameters of a command line.

    Raises:
        UsageError: unknown flags, wrong types, absent files; all listed.
    """
    given = vars(_parser().parse_args(arguments))
    given.pop("debug")
    return parse(DownloadParams, {name: value for name, value in given.items() if value is not None}, "download.py")


def _download(arguments: Sequence[str]) -> None:
    params = parse_command(arguments)
    from git_caption.downloads.run import download

    download(params)


def _parser() -> command_line.Parser:
    parser = command_line.Parser("download.py", DESCRIPTION, EPILOG)
    parser.usage = "download.py --data_root DIR | --list FILE [--KEY VALUE ...]"
    groups: dict[str, Any] = {}
    for row in describe(DownloadParams):
        if row.group not in groups:
            groups[row.group] = parser.add_argument_group(row.group)
        _add(groups[row.group], row)
    return parser


def _add(group: Any, row: KeyRow) -> None:
    switch: dict[str, Any] = {"nargs": "?", "const": "True"} if row.type.startswith("True or False") else {}
    text = f"{row.help} [{row.type}; default {row.default}]".replace("%", "%%")
    flags = [f"--{name}" for name in (row.name, *row.aliases)]
    group.add_argument(*flags, dest=row.name, metavar="VALUE", help=text, **switch)
