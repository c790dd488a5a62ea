"""The parameters of jobs as text: one dict in the spelling of JSON, Python or YAML. Nothing in it is ever evaluated."""

from __future__ import annotations

import os
from typing import Any

from git_caption.errors import UsageError
from git_caption.params import braces, yaml_text
from git_caption.params.braces import SpellingFault

LONGEST = 1_000_000
"""Characters of text taken."""


def parse_literal(text: str, source: str) -> dict[str, Any]:
    """The dict that `text` spells.

    JSON and Python are read alike: either kind of quotes, `None` or `null`, trailing commas, comments, lines continued
    by a backslash. Where a word stands without quotes the whole text is YAML's flow style, with the booleans of YAML
    1.2 (`no` and `on` are text).

    Args:
        text: one dict in braces.
        source: where the text is from, for errors; `-p` for instance.

    Raises:
        UsageError: the text is none of these spellings, holds a key twice, is too long or too deep, or is no dict. The
            message has the line and column.
    """
    if not text.strip():
        raise UsageError(f"{source}: expected one dict in braces, found nothing")
    if not text.lstrip().startswith("{"):
        advice = f"; for a file use -f {text}" if os.path.isfile(text) else ""
        raise UsageError(f"{source}: expected one dict in braces, {{'type': ...}}, found {_start(text)}{advice}")
    value = _value(text, source)
    assert isinstance(value, dict), "a text that begins with a brace spells a dict"
    return value


def parse_file(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The dicts of a file: one dict or a list of them, in any spelling of `parse_literal` or YAML's block style.

    Raises:
        UsageError: the file is not there, is not UTF-8, or holds something else; the message has the line and column.
    """
    source = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(4 * LONGEST + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{source}: cannot read the file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source}: expected UTF-8 text, found byte {data[error.start]:#04x} at {error.start}"
        ) from error
    if not text.strip():
        raise UsageError(f"{source}: expected a dict or a list of dicts, found nothing")
    value = _value(text, source)
    jobs = value if isinstance(value, list) else [value]
    if not jobs:
        raise UsageError(f"{source}: expected a dict or a list of dicts, found an empty list")
    for number, job in enumerate(jobs, 1):
        if not isinstance(job, dict):
            place = f"item {number} is" if isinstance(value, list) else "found"
            raise UsageError(f"{source}: expected a dict or a list of dicts; {place} {_start(repr(job))}")
    return jobs


def _value(text: str, source: str) -> Any:
    """The value that the text spells, as JSON or Python where it can be, else as YAML."""
    if len(text) > LONGEST:
        raise UsageError(f"{source}: expected at most {LONGEST} characters, found {len(text)}")
    try:
        braces.whole(text, 0)
        return braces.parse(text)
    except SpellingFault as fault:
        shown = fault
    if not shown.certain:
        try:
            return yaml_text.parse(text)
        except SpellingFault as fault:
            # YAML's complaint is about the user's text only where the text uses what YAML alone has.
            shown = fault if shown.maybe_yaml or fault.certain else shown
    line = text.count("\n", 0, shown.position) + 1
    column = shown.position - (text.rfind("\n", 0, shown.position) + 1) + 1
    raise UsageError(f"{source}: line {line}, column {column}: {shown.message}")


def _start(text: str) -> str:
    shown = text.strip()
    return repr(shown if len(shown) <= 40 else shown[:37] + "...")
