"""What is asked for, over the checkpoint's defaults, over the general ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from git_caption.errors import UsageError
from git_caption.params.decoding import Decoding, DecodingParams, Task, resolve
from git_caption.params.schema import faults, parse, to_dict

NOTHING = DecodingParams()


def test_defaults_are_three_beams_and_the_length_of_the_task() -> None:
    assert resolve(NOTHING, NOTHING, "caption") == Decoding(num_beams=3, max_new_tokens=40)
    assert resolve(NOTHING, NOTHING, "answer") == Decoding(num_beams=3, max_new_tokens=10)
    assert not resolve(NOTHING, NOTHING, "caption").do_sample


@pytest.mark.parametrize(
    ("asked", "stored", "task", "expected"),
    [
        ({"num_beams": 5}, {"num_beams": 2}, "caption", {"num_beams": 5}),
        ({}, {"num_beams": 2, "max_new_tokens": 7, "stop": (".",)}, "answer", {"num_beams": 2, "max_new_tokens": 7}),
        ({"min_new_tokens": 0}, {"min_new_tokens": 3}, "caption", {"min_new_tokens": 0}),
        ({"stop": ()}, {"stop": (".",)}, "caption", {"stop": ()}),
        ({"with_scores": False}, {"with_scores": True}, "caption", {"with_scores": False}),
        ({"temperature": 0}, {}, "caption", {"num_beams": 1, "do_sample": False}),
        ({"temperature": 0}, {"num_beams": 5}, "caption", {"num_beams": 1, "do_sample": False}),
        ({"temperature": 0}, {"top_p": 0.9}, "caption", {"num_beams": 1, "do_sample": False, "top_p": 1.0}),
        ({}, {"temperature": 0}, "caption", {"num_beams": 1, "do_sample": False}),
        ({"temperature": 0.7}, {}, "caption", {"num_beams": 1, "do_sample": True, "temperature": 0.7}),
        ({"temperature": 0.7}, {"num_beams": 4}, "caption", {"num_beams": 1, "do_sample": True}),
        ({"top_p": 0.9}, {}, "caption", {"num_beams": 1, "do_sample": True, "temperature": 1.0, "top_p": 0.9}),
        ({"top_k": 5}, {"temperature": 0}, "caption", {"do_sample": True, "temperature": 1.0, "top_k": 5}),
        ({"top_k": 0}, {}, "caption", {"num_beams": 3, "do_sample": False}),
        ({}, {"temperature": 0.5, "top_k": 4}, "caption", {"do_sample": True, "temperature": 0.5, "top_k": 4}),
        ({"num_beams": 1}, {"temperature": 0.5}, "caption", {"num_beams": 1, "do_sample": True}),
        ({"num_beams": 4}, {"temperature": 0.5}, "caption", {"num_beams": 4, "do_sample": False, "temperature": 0.0}),
        ({"num_beams": 4}, {"temperature": 0}, "caption", {"num_beams": 4, "do_sample": False}),
        ({"temperature": 0.7, "num_captions": 9}, {}, "caption", {"num_captions": 9}),
        ({"num_beams": 5, "num_captions": 5}, {}, "caption", {"num_captions": 5}),
    ],
)
def test_precedence(asked: dict[str, Any], stored: dict[str, Any], task: Task, expected: dict[str, Any]) -> None:
    decoding = resolve(DecodingParams(**asked), DecodingParams(**stored), task)
    assert {name: getattr(decoding, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("asked", "stored", "message"),
    [
        ({"num_beams": 3, "temperature": 0.7}, {}, r"num_beams 3 and temperature 0\.7 \(sampling\) exclude each other"),
        ({"num_beams": 2, "top_p": 0.9}, {}, r"num_beams 2 and top_p 0\.9 \(sampling\)"),
        ({"num_beams": 2, "top_k": 4}, {}, r"num_beams 2 and top_k 4 \(sampling\)"),
        ({"num_beams": 2, "temperature": 0.0}, {}, r"num_beams 2 and temperature 0 \(greedy\) exclude"),
        ({"temperature": 0.0, "top_p": 0.9}, {}, r"temperature 0 is greedy and top_p 0\.9 samples"),
        ({"num_captions": 5}, {}, r"num_captions 5 is more than num_beams 3 \(not asked for\).*num_beams to 5"),
        ({"num_captions": 2, "temperature": 0}, {}, r"num_captions 2 is more than num_beams 1"),
        ({"num_beams": 2}, {"num_captions": 3}, r"num_captions 3 \(not asked for\) is more than num_beams 2;"),
        ({"min_new_tokens": 50}, {}, r"min_new_tokens 50 is more than max_new_tokens 40 \(not asked for\)"),
        ({"stop": ("",)}, {}, "stop holds an empty text"),
        ({"temperature": 1e-40}, {}, r"temperature 1e-40 is too low to divide by; 0 takes the likeliest token always"),
        ({}, {"num_beams": 2, "top_p": 0.5}, r"decoding defaults of the checkpoint: num_beams 2 and top_p 0\.5"),
    ],
)
def test_contradictions_name_both_values(asked: dict[str, Any], stored: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(DecodingParams(**asked), DecodingParams(**stored), "caption")


def test_contradictions_are_found_when_the_parameters_are_read() -> None:
    assert faults(DecodingParams, {"num_beams": "3", "temperature": "1e-1"}, "job") == [
        "job: num_beams 3 and temperature 0.1 (sampling) exclude each other; leave one out, or set num_beams to 1"
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_beams", 0, "a whole number of at least 1 or None"),
        ("max_new_tokens", 0, "a whole number of at least 1 or None"),
        ("min_new_tokens", -1, "a whole number of at least 0 or None"),
        ("temperature", -0.1, "a number of at least 0 or None"),
        ("temperature", float("inf"), "a number of at least 0 or None"),
        ("top_p", 0, "a number above 0 and at most 1 or None"),
        ("top_p", 1.5, "a number above 0 and at most 1 or None"),
        ("top_k", -1, "a whole number of at least 0 or None"),
        ("repetition_penalty", 0, "a number above 0 or None"),
        ("no_repeat_ngram_size", -1, "a whole number of at least 0 or None"),
        ("length_penalty", float("nan"), "a number of at least -20 and at most 20 or None"),
        ("length_penalty", 300, "a number of at least -20 and at most 20 or None"),
        ("num_captions", 0, "a whole number of at least 1 or None"),
        ("seed", -1, "a whole number of at least 0 or None"),
        ("seed", 2**63, "a whole number of at least 0 or None"),
        ("with_scores", 1, "True or False or None"),
        ("stop", [1], "a list (text each) or None"),
    ],
)
def test_ranges(name: str, value: Any, expected: str) -> None:
    assert faults(DecodingParams, {name: value}, "job") == [f"job: {name!r}: expected {expected}, found {value!r}"]


def test_a_lone_stop_text_is_a_list_of_one() -> None:
    assert parse(DecodingParams, {"stop": "."}, "job").stop == (".",)


def test_defaults_of_a_checkpoint_survive_its_config_file() -> None:
    params = DecodingParams(num_beams=2, stop=(".", "!"), length_penalty=-0.5)
    assert parse(DecodingParams, to_dict(params), "config.json") == params


def test_allowed_texts_are_the_lines_of_a_file_and_length_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_bytes("\ufeffred\r\n\nnaïve  café \nred\n\tno".encode())
    asked, stored = DecodingParams(allowed_texts=str(path)), DecodingParams(stop=(".",), max_new_tokens=3)
    decoding = resolve(asked, stored, "answer")
    assert decoding.allowed_texts == ("red", "naïve  café", "no")
    assert (decoding.stop, decoding.max_new_tokens, decoding.length_penalty) == ((), 10, 0.0)
    assert resolve(replace(asked, length_penalty=1.0), stored, "answer").length_penalty == 1.0


def test_allowed_texts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    asked = DecodingParams(allowed_texts=str(path))
    with pytest.raises(UsageError, match=r"answers\.txt' cannot be read: No such file"):
        resolve(asked, NOTHING, "answer")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"answers\.txt' cannot be read: not UTF-8"):
        resolve(asked, NOTHING, "answer")
    path.write_text("\n \n")
    with pytest.raises(UsageError, match=r"answers\.txt' holds no text, expected one a line"):
        resolve(asked, NOTHING, "answer")
    path.write_text("yes\nno\n")
    with pytest.raises(UsageError, match=r"num_captions 3 is more than the 2 allowed texts"):
        resolve(replace(asked, num_captions=3), NOTHING, "answer")
    for name, value in (("max_new_tokens", 5), ("stop", (".",)), ("no_repeat_ngram_size", 2)):
        with pytest.raises(UsageError, match=f"{name} and allowed_texts exclude each other"):
            resolve(replace(asked, **{name: value}), NOTHING, "answer")
