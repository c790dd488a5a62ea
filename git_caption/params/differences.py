"""What two sets of settings differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 4


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first settings that differ, in words, each with both values; empty where none does.

    None is as good as absent: runs begun before a key was known go on.
    """
    before, after = dict(flat(earlier)), dict(flat(now))
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    shown = [f"{name}: {before.get(name)} then, {after.get(name)} now" for name in names[:SHOWN]]
    return "; ".join(shown + ([f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []))


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested settings by its path, as `decoding.num_beams`."""
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            yield from flat(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry
