"""Which of a data set's splits is read: one rule for all formats."""

from __future__ import annotations

from collections.abc import Collection

from git_caption.errors import UsageError

TRAIN = "train"


def choose(names: Collection[str], asked: str | None, where: str) -> str:
    """The split called `asked`, else the only one whose name begins with it (`val`: val2017, validation).

    With None that is `train`, or the only split that there is. Raises UsageError with the names there are.
    """
    wanted = asked or TRAIN
    found = [wanted] if wanted in names else [name for name in names if name.startswith(wanted)]
    if asked is None and len(names) == 1:
        found = list(names)
    if len(found) != 1:
        problem = "more than one split fits" if found else "no split is called"
        raise UsageError(f"{where}: {problem} {wanted!r}, there are {', '.join(sorted(names))}: name one as 'split'")
    return found[0]


def refuse(asked: str | None, kind: str, where: str) -> None:
    """Raises UsageError if a split is asked of a format that has none."""
    if asked is not None:
        raise UsageError(f"{where}: {kind} has no splits, {asked!r} was asked for: leave 'split' out")
