"""Reads mappings into parameter classes and gathers every fault on the way."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from git_caption.params import paths
from git_caption.params.fields import Entry, KeySpec, entries, names_of
from git_caption.params.fitting import BAD, fit, is_params, members, params_in

T = TypeVar("T")
LONGEST_MESSAGE = 1000
READ_FILES = ("input_file", "input_files", "images")


def nearest(word: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` for the known name most like `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


class Reader:
    """Reads mappings into parameter classes and keeps the faults of all of them."""

    def __init__(self, where: str, promised: Collection[str]) -> None:
        self.where = where
        self.promised = promised
        self.faults: list[str] = []

    def fault(self, message: str) -> None:
        """Note a fault."""
        shown = message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "..."
        self.faults.append(f"{self.where}: {shown}")

    def instance(self, cls: type[T], mapping: Any, label: str) -> T | None:
        """An instance of `cls`, or None with the faults noted. `label` is the path of keys to the mapping."""
        if not isinstance(mapping, Mapping):
            self.fault(f"{label or 'the parameters'}: expected keys and values, found {_shorten(mapping)}")
            return None
        given = self._given(cls, mapping, label)
        return self._build(cls, given, label)

    def _given(self, cls: type[Any], mapping: Mapping[str, Any], label: str) -> dict[str, Any]:
        """Known keys under their own names; unknown keys and keys given twice are noted."""
        names = names_of(cls)
        given: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for name, value in mapping.items():
            if name not in names:
                hint = nearest(str(name), names) or f"; known keys: {', '.join(dict.fromkeys(names.values()))}"
                self.fault(f"unknown key {_join(label, str(name))!r}{hint}")
                continue
            own = names[name]
            if own in given:
                self.fault(f"{_join(label, spelled[own])!r} and {_join(label, name)!r} are one key; give one of them")
                continue
            given[own] = value
            spelled[own] = name
        return given

    def _build(self, cls: type[T], given: Mapping[str, Any], label: str) -> T | None:
        values: dict[str, Any] = {}
        bad: set[str] = set()
        for entry in entries(cls):
            name = entry.name
            values[name] = entry.default
            if entry.spec.group is not None:
                value = self._build(entry.hint, given, label)
                bad |= {name} if value is None else set()
                values[name] = value
            elif name in given:
                value = self._value(entry, given[name], label)
                if value is BAD:
                    bad.add(name)
                else:
                    values[name] = value
            elif entry.required:
                self.fault(f"missing key {_join(label, name)!r}: {entry.spec.help}")
                bad.add(name)
        for entry in entries(cls):
            if entry.name not in bad:
                self._path(entry, values, bad, label)
        self._overwritten(cls, values, bad, label)
        needed = {entry.name for entry in entries(cls) if entry.required or entry.spec.group is not None}
        for names, message in [] if needed & bad else _check(cls, values):
            if not bad.intersection(names):
                self.fault(f"{label}: {message}" if label else message)
        return None if bad else cls(**values)

    def _value(self, entry: Entry, raw: Any, label: str) -> Any:
        """The value of one key in its field's type, or BAD with the fault noted."""
        spec, name = entry.spec, _join(label, entry.name)
        nested = next((member for member in members(entry.hint) if is_params(member)), None)
        if nested is not None and isinstance(raw, Mapping):
            before = len(self.faults)
            value = self.instance(nested, raw, name)
            return BAD if len(self.faults) > before else value
        listed = next((found for member in members(entry.hint) if (found := params_in(member)) is not None), None)
        if listed is not None and isinstance(raw, (list, tuple)):
            before = len(self.faults)
            items = tuple(self.instance(listed, item, f"{name}[{number}]") for number, item in enumerate(raw))
            return BAD if len(self.faults) > before else items
        value = fit(raw, entry.hint)
        if value is BAD or not _within(value, spec):
            choices = spec.choices or tuple(c for m in members(entry.hint) for c in getattr(m, "__args__", ()))
            texts = [choice for choice in choices if isinstance(choice, str)]
            close = nearest(raw, texts) if isinstance(raw, str) else ""
            self.fault(f"{name!r}: expected {spec.expected(entry.hint)}, found {_shorten(raw)}{close}")
            return BAD
        return value

    def _path(self, entry: Entry, values: dict[str, Any], bad: set[str], label: str) -> None:
        """Expand a path and see that it can serve, a default one too; a fault is noted and the key is bad."""
        kind, value = entry.spec.kind, values[entry.name]
        if kind is None or value is None:
            return
        values[entry.name] = paths.expand(value)
        message = paths.fault(values[entry.name], kind, self.promised)
        if message:
            self.fault(f"{_join(label, entry.name)!r}: {message}")
            bad.add(entry.name)

    def _overwritten(self, cls: type[Any], values: Mapping[str, Any], bad: set[str], label: str) -> None:
        """Note output paths that are input paths too."""
        with_path = [e for e in entries(cls) if e.name not in bad and isinstance(values[e.name], str) and e.spec.kind]
        inputs = {
            os.path.realpath(path): e.name
            for e in with_path
            if e.spec.kind in READ_FILES
            for path in (paths.several(values[e.name]) if e.spec.kind == "input_files" else [values[e.name]])
        }
        for entry in with_path:
            read_as = inputs.get(os.path.realpath(values[entry.name]))
            if entry.spec.kind == "output_file" and read_as is not None:
                name = _join(label, entry.name)
                self.fault(f"{name!r}: {values[entry.name]!r} is {read_as!r} too, which it would overwrite")
                bad.add(entry.name)


def _check(cls: type[Any], values: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """What the class's own `check` finds; keys without a usable value stand at their default."""
    if not hasattr(cls, "check"):
        return []
    instance = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return list(instance.check())


def _within(value: Any, spec: KeySpec) -> bool:
    if spec.choices is not None and value is not None and value not in spec.choices:
        return False
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    return (
        (spec.minimum is None or value >= spec.minimum)
        and (spec.above is None or value > spec.above)
        and (spec.maximum is None or value <= spec.maximum)
    )


def _join(label: str, name: str) -> str:
    return f"{label}.{name}" if label else name


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
