"""The exceptions a user can meet.

Each carries the exit code its kind ends a command with. The message is one line: what was seen, where, what was
expected and what to do.
"""

from __future__ import annotations

import textwrap

REASON = 300  # characters of what a library says: enough to see the cause, short enough for one line


class GitCaptionError(Exception):
    """Base of every error that is the input's or the environment's fault rather than a bug of ours."""

    exit_code = 1


class UsageError(GitCaptionError):
    """The command or its parameters are wrong: unknown key, bad value, a file that is not there."""

    exit_code = 2


class DataError(GitCaptionError):
    """A file's content is not what its format says; the message names file and row."""


class MissingImage(DataError):
    """An image that a data set names and does not hold; the message names it and where it was looked for."""


class WeightsError(GitCaptionError):
    """Weights that cannot be found, or that do not fit the model they are meant for."""


class JobFailed(GitCaptionError):
    """A job that started well and could not finish."""


class Stopped(GitCaptionError):
    """Stopped by a signal with the finished part saved: run the same command again to go on."""

    exit_code = 75


def reason(error: Exception) -> str:
    """What an error of a library says, in one line; with its class where that alone says nothing."""
    said = str(error)
    if not said or isinstance(error, LookupError):
        said = f"{type(error).__name__} {said}"
    return textwrap.shorten(said, REASON, placeholder=" ...")
