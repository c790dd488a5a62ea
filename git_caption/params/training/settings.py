"""What a run is told, put together: a preset's defaults, a config file over them, flags over both.

Each of the three may tell one field of a part and leave the rest to the others, so they are joined as flat tables: a
field of a part by its path, as `mapper.type`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from git_caption.errors import UsageError
from git_caption.params.device_split import old_split
from git_caption.params.fields import entries, names_of
from git_caption.params.fitting import BAD, fit, is_params, members
from git_caption.params.literal import parse_literal
from git_caption.params.schema import nearest, parse
from git_caption.params.training import spellings
from git_caption.params.training.captioners import captioner_family
from git_caption.params.training.presets import PRESETS, Preset, PresetName, implied
from git_caption.params.training.run import TrainingParams

MODELS = ("image_encoder", "mapper", "language_model")

Flat = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """A run's parameters and, of its preset's defaults, those that nothing else told."""

    params: TrainingParams
    defaults: Mapping[str, Any]

    def __str__(self) -> str:
        """The preset and what it brings, in one line."""
        name = self.params.preset
        if name is None:
            return "preset none: the defaults that --help tells"
        shown = ", ".join(f"{key} {_in_line(value)}" for key, value in self.defaults.items())
        shown = shown or "nothing that is not told"
        return f"preset {name} ({PRESETS[name].tool}): {shown}"


def settle(config: Mapping[str, Any], flags: Mapping[str, str], where: str) -> Settings:
    """The parameters that a preset, a config file and flags make together; a later one wins.

    Args:
        config: key or old spelling → value.
        flags: the same in texts.
        where: begins every fault: the config file, or the program.

    Raises:
        UsageError: a preset that is not known, keys given twice, and all that `parse` finds.
    """
    told = {**config, **flags}
    name = _preset_name(told)
    preset = PRESETS[name] if name is not None else Preset(tool="")
    given = _over(_flat(config, preset, where), _flat(flags, preset, "train.py"))
    given = _split(given, name, where)
    folder = given.pop(spellings.FILE_PREFIX, None)
    defaults = _unless_told(preset, given)
    values = _over(defaults, given)
    if folder is not None and values.get("output_dir") is not None:
        values["output_dir"] = os.path.join(str(values["output_dir"]), str(folder))
    values["preset"] = name
    return Settings(parse(TrainingParams, _nested(values), where), defaults)


def parts_of(name: str) -> type[Any] | None:
    """The parameter class of a key that has keys in it; None for any other."""
    return _PARTS.get(name)


def _in_line(value: Any) -> str:
    """A value as a line may show it; a new line in quotes, by its escape."""
    text = str(value)
    return text if text.isprintable() else repr(value)


def _preset_name(told: Mapping[str, Any]) -> PresetName | None:
    """The preset told or implied. Raises UsageError for one that there is not."""
    told = {key: value for key, value in told.items() if _is_told(value)}
    name = told.get("preset")
    if name is not None and name not in PRESETS:
        known = ", ".join(get_args(PresetName))
        raise UsageError(f"'preset': expected one of {known}, found {name!r}{nearest(str(name), list(PRESETS))}")
    return implied(told) if name is None else name


def _flat(told: Mapping[str, Any], preset: Preset, where: str) -> Flat:
    """Keys under their own names, fields of parts by their paths. Raises UsageError for a key told twice."""
    found: Flat = {}
    names: dict[str, str] = {}
    for name, value in told.items():
        if name == "preset":
            continue
        for key, own in _own(str(name), value, preset).items():
            if key in found:
                raise UsageError(f"{where}: {names[key]!r} and {name!r} are one key, {key!r}; give one of them")
            found[key], names[key] = own, name
    return found


def _own(name: str, value: Any, preset: Preset) -> Flat:
    """What one key told under any name sets, under its own."""
    name = _NAMES.get(name, name)
    cls = parts_of(name)
    if (cls is not None or name in _TABLES) and isinstance(value, str) and value.lstrip().startswith("{"):
        value = parse_literal(value, f"--{name}")
    old = spellings.spelling(name) if cls is None or isinstance(value, str) else None
    if old is not None:
        own = preset.words.get(old.key, {}).get(str(value), old.value(value))
        return {} if own is None else {old.key: own}
    if cls is not None and isinstance(value, Mapping):
        fields = names_of(cls)
        return {f"{name}.{fields.get(field, field)}": own for field, own in value.items()}
    return {name: value}


def _over(lower: Flat, upper: Flat) -> Flat:
    """Both, `upper` winning; a part that one tells as a whole (that there is none) leaves nothing of the other's."""
    whole = {key.partition(".")[0] for key in upper if "." in key}
    kept = {key: value for key, value in lower.items() if key.partition(".")[0] not in upper and key not in whole}
    return {**kept, **upper}


def _split(given: Flat, preset: PresetName | None, where: str) -> Flat:
    """Old figures for GPUs and for the blocks on each under their own keys. Raises UsageError for other figures."""
    kept = {key: value for key, value in given.items() if key != spellings.SPLIT}
    blocks = given.get(spellings.SPLIT)
    if blocks is None and preset != "clipcap_opt":
        return kept
    devices = str(kept.get("device", "" if blocks is None else spellings.SPLIT_DEVICES))
    if not devices.isdecimal():  # one device by its name takes all blocks
        return kept
    try:
        split = old_split(devices, str(spellings.SPLIT_BLOCKS if blocks is None else blocks))
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    return {**kept, "device": f"cuda:{split.first}", **({"device_split": str(split)} if split.ends else {})}


def _unless_told(preset: Preset, given: Flat) -> Flat:
    """The preset's defaults for what nothing else tells."""
    own = {key.partition(".")[0] for key in given if key.endswith((".architecture", ".weights")) and given[key]}
    initial = _is_told(given.get("init_from")) or _is_told(given.get("captioner"))
    brought = initial or given.get("objective") == "contrastive"
    without = {*MODELS, "mixing", "fusion", "captioner"} if brought else own

    def fits(key: str) -> bool:
        part = key.partition(".")[0]
        return key not in given and (part == key or part not in given) and part not in without

    defaults = {key: value for key, value in preset.defaults.items() if fits(key)}
    if _is_told(given.get("image_tsv")) or not os.path.exists(defaults.get("data", "")):
        defaults.pop("data", None)  # of no use where it is not: then the data that is missing is asked for
    for case in preset.cases:
        told = {**defaults, **given}
        fitting = all(_is(told, *setting) for setting in case.only.items()) and not _any(case.unless, told)
        if fitting and fnmatchcase(_family(case.key, told.get(case.key)), case.pattern):
            defaults |= {key: value for key, value in case.defaults.items() if fits(key)}
    return defaults


def _is_told(value: Any) -> bool:
    """Whether a value is more than one of the spellings of None."""
    return fit(value, NoneType) is BAD


def _any(settings: Mapping[str, Any], told: Flat) -> bool:
    return any(_is(told, *setting) for setting in settings.items())


def _is(told: Flat, key: str, wanted: Any) -> bool:
    return bool(fit(told.get(key), type(wanted)) == wanted)


def _family(key: str, value: Any) -> str:
    """What a case is matched with: the value, or what a captioner or a language model's folder says of itself."""
    if key == "captioner" and value:
        return captioner_family(str(value))
    if key == "language_model.name" and value and (config := Path(str(value)).expanduser() / "config.json").is_file():
        try:
            return str(json.loads(config.read_text(encoding="utf-8")).get("model_type", ""))
        except (ValueError, AttributeError):
            return ""  # what is wrong with the folder is told when it is loaded
    return str(value).lower()


def _nested(flat: Flat) -> dict[str, Any]:
    """The mapping that `parse` takes."""
    result: dict[str, Any] = {}
    for key in sorted(flat, key=lambda key: "." in key):
        part, _, field = key.partition(".")
        if field and parts_of(part) is not None:
            result[part] = {**(result.get(part) or {}), field: flat[key]}
        else:
            result[key] = flat[key]
    return result


def _parts(cls: type[Any]) -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    for entry in entries(cls):
        if entry.spec.group is not None:
            found |= _parts(entry.hint)
        elif inner := [member for member in members(entry.hint) if is_params(member)]:
            found[entry.name] = inner[0]
    return found


def _tables(cls: type[Any]) -> set[str]:
    """Keys whose values are keys and values of any names."""
    found: set[str] = set()
    for entry in entries(cls):
        if entry.spec.group is not None:
            found |= _tables(entry.hint)
        elif any(get_origin(member) is dict for member in members(entry.hint)):
            found.add(entry.name)
    return found


_PARTS = _parts(TrainingParams)
_TABLES = _tables(TrainingParams)
_NAMES = names_of(TrainingParams)
