"""Values fitted to the type of a field, with the spellings of YAML, JSON and Python that mean the same."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

BAD: Final = type("Bad", (), {"__repr__": lambda self: "BAD"})()

NONE = ("None", "null", "~")
BOOLEANS = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
LONGEST_NUMBER = 400


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else, itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def is_params(hint: Any) -> bool:
    """Whether the type is a parameter class of its own."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def params_in(hint: Any) -> Any:
    """The parameter class that the type is a tuple of; None for any other type."""
    inner = get_args(hint)[0] if get_origin(hint) is tuple else None
    return inner if is_params(inner) else None


def fit(value: Any, hint: Any) -> Any:
    """The value in the type `hint`, or BAD.

    A union takes a value of one of its literals first, then a spelling of None, then the first type that fits as it
    stands, then the first that a spelling fits. A lone text is taken for a list of one, or of numbers parted by commas.
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _fit_union(value, get_args(hint))
    if origin is Literal:
        return value if any(type(value) is type(c) and value == c for c in get_args(hint)) else BAD
    if origin in (tuple, list):
        return _fit_list(value, origin, get_args(hint)[0])
    if origin is dict:
        return _fit_dict(value, get_args(hint)[1])
    if hint is NoneType:
        return None if value is None or value in NONE else BAD
    if hint is str:
        return value if isinstance(value, str) else BAD
    if hint is bool:
        return value if isinstance(value, bool) else BOOLEANS.get(value, BAD) if isinstance(value, str) else BAD
    if hint is int or hint is float:
        return _fit_number(value, hint)
    return value if isinstance(value, hint) else BAD


def spell(hint: Any) -> str:
    """The type in words: `a whole number`, `text or None`."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(spell(member) for member in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if origin in (tuple, list):
        return f"a list ({spell(get_args(hint)[0])} each)"
    if origin is dict or is_params(hint):
        return "keys and values"
    words = {str: "text", bool: "True or False", int: "a whole number", float: "a number", NoneType: "None", Any: "any"}
    return words.get(hint, str(hint))


def _fit_union(value: Any, types: tuple[Any, ...]) -> Any:
    literals = [hint for hint in types if get_origin(hint) is Literal]
    nones = [hint for hint in types if hint is NoneType]
    others = [hint for hint in types if hint not in literals and hint not in nones]
    as_it_stands = [hint for hint in others if _stands(value, hint)]
    for hint in (*literals, *nones, *as_it_stands, *others):
        fitted = fit(value, hint)
        if fitted is not BAD:
            return fitted
    return BAD


def _stands(value: Any, hint: Any) -> bool:
    """Whether the value has the type already, spelling aside."""
    kind = {tuple: list, list: list, dict: dict}.get(get_origin(hint) or hint, hint)
    return isinstance(kind, type) and type(value) is kind


def _fit_list(value: Any, kind: type[Any], hint: Any) -> Any:
    if isinstance(value, str) and hint is str:
        return kind([value])
    if isinstance(value, str) and hint in (int, float):
        value = [item.strip() for item in value.split(",")]
    if not isinstance(value, (list, tuple)):
        return BAD
    items = [fit(item, hint) for item in value]
    return BAD if any(item is BAD for item in items) else kind(items)


def _fit_dict(value: Any, hint: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return BAD
    items = {name: fit(item, hint) for name, item in value.items()}
    return BAD if any(item is BAD for item in items.values()) else items


def _fit_number(value: Any, kind: type[int] | type[float]) -> Any:
    """A finite number; text that spells one counts, True and False do not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return BAD
    if isinstance(value, str):
        if len(value) > LONGEST_NUMBER or not NUMBER.fullmatch(value):
            return BAD
        value = int(value) if re.fullmatch(r"[-+]?\d+", value) else float(value)
    if kind is int:
        if isinstance(value, float):
            return int(value) if math.isfinite(value) and value == int(value) else BAD
        return value
    try:
        number = float(value)
    except OverflowError:
        return BAD
    return number if math.isfinite(number) else BAD
