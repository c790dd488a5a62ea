"""Values and their spellings, fitted to types."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from git_caption.params.fitting import BAD, fit, spell


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("1e-4", float, 1e-4),
        (3, float, 3.0),
        (".5", float, 0.5),
        ("40", int, 40),
        (40.0, int, 40),
        ("1e3", int, 1000),
        ("True", bool, True),
        ("false", bool, False),
        ("None", int | None, None),
        ("null", str | None, None),
        ("none", str | None, "none"),
        ("None", str, "None"),
        ("None", Literal["None", "mlp"] | None, "None"),
        (None, Literal["None", "mlp"] | None, None),
        ("none", Literal["none", "8bit"] | None, "none"),
        ("a", str | tuple[str, ...], "a"),
        (["a", "b"], str | tuple[str, ...], ("a", "b")),
        ("a", tuple[str, ...], ("a",)),
        (["1", 2], tuple[float, ...] | None, (1.0, 2.0)),
        ({"a": "1"}, dict[str, int], {"a": 1}),
        ({"a": [1, None]}, dict[str, Any] | None, {"a": [1, None]}),
        (7, int | str, 7),
        ("7", int | str, "7"),
    ],
)
def test_what_fits(value: Any, hint: Any, expected: Any) -> None:
    fitted = fit(value, hint)
    assert fitted == expected
    assert type(fitted) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (True, float),
        (1, bool),
        ("yes", bool),
        ("no", bool),
        (1.5, int),
        ("three", int),
        ("", int),
        ("1_000", int),
        ("0x10", int),
        (float("nan"), float),
        (float("inf"), int),
        ("nan", float),
        ("inf", float),
        ("1e999", float),
        (10**400, float),
        (5, str),
        (None, str),
        ("8Bit", Literal["none", "8bit"]),
        (True, Literal[1]),
        (["a", 1], tuple[str, ...]),
        (5, tuple[int, ...]),
        ({1: 1}, dict[str, int]),
        ({"a": "x"}, dict[str, int]),
        ("x", int | None),
    ],
)
def test_what_does_not_fit(value: Any, hint: Any) -> None:
    assert fit(value, hint) is BAD


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or None"),
        (str | tuple[str, ...], "text or a list (text each)"),
        (Literal["a", "b"], "one of a, b"),
        (dict[str, Any], "keys and values"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert spell(hint) == words
