"""Frozen dataclasses read strictly from a mapping: every fault found, none let through, nothing guessed silently.

A parameter class is a frozen dataclass whose fields are made by `key` (one key of the mapping) or `group` (the keys of
another parameter class, taken at the same level). It may have a method `check(self)` that yields
`((key, ...), message)` for values that do not fit together. A message is dropped where one of its keys is faulty
already, and `check` is not asked where a required key has no value. A property `also_written` gives the files that its
job writes beside those that its keys name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from git_caption.errors import UsageError
from git_caption.params import paths
from git_caption.params.fields import entries, group, key
from git_caption.params.reader import Reader, nearest

__all__ = ["KeyRow", "describe", "faults", "group", "key", "nearest", "outputs", "parse", "read", "to_dict"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class KeyRow:
    """One key as help shows it."""

    name: str
    type: str
    default: str
    help: str
    group: str
    required: bool
    example: Any
    kind: paths.Kind | None
    aliases: tuple[str, ...]


def parse(cls: type[T], mapping: Mapping[str, Any], where: str, promised: Collection[str] = ()) -> T:
    """An instance of `cls` from `mapping`.

    Args:
        cls: parameter class.
        mapping: key → value, as `literal` or a JSON file gives it.
        where: begins every fault: a job name or a file.
        promised: paths that earlier jobs of the same command will have written by then; they count as there.

    Raises:
        UsageError: one line for each fault: unknown or missing key, wrong type, bad value, absent file, values that
            do not fit together.
    """
    instance, found = read(cls, mapping, where, promised)
    if instance is None:
        raise UsageError("\n".join(found))
    return instance


def faults(cls: type[Any], mapping: Mapping[str, Any], where: str, promised: Collection[str] = ()) -> list[str]:
    """What `parse` would raise, one line for each fault; empty where it would not raise."""
    return read(cls, mapping, where, promised)[1]


def read(
    cls: type[T], mapping: Mapping[str, Any], where: str, promised: Collection[str] = ()
) -> tuple[T | None, list[str]]:
    """(instance, []) or (None, faults): `parse` for a caller that gathers faults of several mappings."""
    reader = Reader(where, promised)
    instance = reader.instance(cls, mapping, "")
    return (None, reader.faults) if reader.faults else (instance, [])


def to_dict(instance: Any) -> dict[str, Any]:
    """The mapping that `parse` reads back as an equal instance; JSON types only, groups at the same level."""
    result: dict[str, Any] = {}
    for entry in entries(type(instance)):
        value = getattr(instance, entry.name)
        if entry.spec.group is not None:
            result.update(to_dict(value))
        else:
            result[entry.name] = _plain(value)
    return result


def describe(cls: type[Any], title: str = "") -> list[KeyRow]:
    """A row for each key of `cls`, in order, the keys of groups where the group stands."""
    rows = []
    for entry in entries(cls):
        spec = entry.spec
        if spec.group is not None:
            rows += describe(entry.hint, spec.group)
            continue
        shown = "" if entry.required else repr(_plain(entry.default))
        also = f" (also called {', '.join(spec.aliases)})" if spec.aliases else ""
        words = spec.expected(entry.hint).removesuffix(" or None" if shown == "None" else "")
        told = (spec.help + also, title, entry.required, spec.example, spec.kind, spec.aliases)
        rows.append(KeyRow(entry.name, words, shown, *told))
    return rows


def outputs(instance: Any) -> list[str]:
    """The paths that a job with these parameters says it will write."""
    found = []
    for entry in entries(type(instance)):
        value = getattr(instance, entry.name)
        if entry.spec.group is not None:
            found += outputs(value)
        elif entry.spec.kind in ("output_file", "output_dir") and value is not None:
            found += value if isinstance(value, tuple) else (str(value),)
    return [*found, *getattr(instance, "also_written", ())]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value
