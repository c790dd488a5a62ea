"""The command line behind `train.py`: a preset, a config file over it, flags over both; one run."""

from __future__ import annotations

from collections.abc import Sequence

from git_caption import command_line, processes
from git_caption.params.training.run import TrainingParams
from git_caption.training import command
from git_caption.training.run import train


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 wrong command or parameters, 75 stopped by a signal.
    """
    return command_line.run(
        _train, argv, stopped="stopped before the end: the same command goes on from the last save, if there is one"
    )


def parse_command(arguments: Sequence[str]) -> TrainingParams:
    """The parameters of a command line. Raises UsageError as `command.parse_command` does."""
    return command.parse_command(arguments).params


def _train(arguments: Sequence[str]) -> None:
    settings = command.parse_command(arguments)
    if processes.rank() == 0:
        print(settings, flush=True)
    train(settings.params)
