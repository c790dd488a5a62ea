"""One dict in three spellings: every value comes back, every fault has its place."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from git_caption.errors import UsageError
from git_caption.params.literal import LONGEST, parse_file, parse_literal

AWKWARD = [
    *("it's", 'a "b"', "'", "''", '"', "\\", "a\\b", "C:\\", "\\n", "None", "no", "on", "yes", "~", "=", "<<", ""),
    *("1e-4", "1.5e3", "-.5", "007", "0o7", "0x1F", "1_000", "1:30", ".inf", "2001-01-01", "True"),
    *("&a", "*a", "!t", "|", ">", "%a", "@a", "`a", "? a", "- a", "a: b", "a, b", "#a", " #a", "{", "}", "[", "]"),
    *("\n", "a\nb", " a ", "\t", "\u2028", "\x85", "\ufeff", "\0", "😀", "ü", "漢字", "word " * 40, "back\\ " * 30),
]
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.sampled_from(AWKWARD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
# Every job's dict has 'type'; its bare word is what tells YAML from Python.
DICTS = st.dictionaries(st.text() | st.sampled_from(AWKWARD), VALUES, max_size=4).map(lambda d: {**d, "type": "help"})


@settings(max_examples=150, deadline=None)
@given(DICTS)
def test_every_dict_comes_back_from_json_and_python(value: dict[str, Any]) -> None:
    assert parse_literal(json.dumps(value), "-p") == value
    assert parse_literal(json.dumps(value, ensure_ascii=False, indent=2), "-p") == value
    assert parse_literal(repr(value), "-p") == value


@settings(max_examples=150, deadline=None)
@given(DICTS)
def test_every_dict_comes_back_from_yaml(value: dict[str, Any]) -> None:
    assert parse_literal(yaml.safe_dump(value, default_flow_style=True), "-p") == value


@settings(max_examples=60, deadline=None)
@given(DICTS)
def test_every_dict_comes_back_from_a_yaml_file_in_block_style(value: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(yaml.safe_dump([value, {"type": "help"}], default_flow_style=False))
        file.flush()
        assert parse_file(file.name) == [value, {"type": "help"}]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="{}[]()'\",:\\\n #abc1?-!&*|>%@`\t"))
def test_no_text_gets_past_as_anything_but_a_dict_or_one_line_of_error(text: str) -> None:
    for spelled in (text, "{" + text, "{'a': " + text + "}"):
        try:
            assert isinstance(parse_literal(spelled, "-p"), dict)
        except UsageError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'type': 'x', 'a': null, 'b': None, 'c': true, 'd': True, 'e': false}", [None, None, True, True, False]),
        ("{'type': 'x', 'a': 1e-4, 'b': .5, 'c': +3, 'd': -2.,}", [1e-4, 0.5, 3, -2.0]),
        ("{'type': 'x', \\\n   'a': '', \\\n}", [""]),
        ("{'type': 'x', \\   'a': 1}", [1]),
        ("{type: x, \\\n  a: b, \\\n}", ["b"]),
        ("{type: x, a: images/a.jpg, b: null, c: ~, d: no, e: True}", ["images/a.jpg", None, None, "no", True]),
        ("{type: x, a: it's, b: 'it''s', c: \"it's\"}", ["it's", "it's", "it's"]),
        ("{'type': 'x', 'a': 'it\\'s', 'b': \"it's\"}", ["it's", "it's"]),
        ("{'type': 'x', 'a': 'it''s', 'b': 'C:\\new'}", ["it's", "C:\\new"]),
        ("{'type': 'x', 'a': ('b', 'c'), 'd': ('e')}", [["b", "c"], "e"]),
        ('{"type": "x", "a": "\\ud83d\\ude00 \\u00fc \\/"}', ["😀 ü /"]),
        ("{'type': 'x', 'a': 'C:\\\\new', 'b': '\\x41\\101\\q'}", ["C:\\new", "AA\\q"]),
        ("{'type': 'x', # what\n 'a': 1}  # done", [1]),
        ("{'type': 'x', 'a': {0: '10GiB', 'cpu': 1}}", [{"0": "10GiB", "cpu": 1}]),
        ("{type: x, a: NaN, b: __import__('os').system('x')}", ["NaN", "__import__('os').system('x')"]),
    ],
)
def test_spellings(text: str, expected: list[Any]) -> None:
    value = parse_literal(text, "-p")
    assert value.pop("type") == "x"
    assert list(value.values()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "-p: expected one dict in braces, found nothing"),
        ("help", r"-p: expected one dict in braces.*found 'help'"),
        ("[1]", r"expected one dict.*found '\[1\]'"),
        ("{'type': 'x', 'a': 1", r"line 1, column 1: this '\{' is not closed by a '\}'"),
        ("{type: x,\n a: [1, 2", r"line 2, column 5: this '\[' is not closed by a '\]'"),
        ("{'type':\n 'x, 'a': 1}", r"line 2, column 7: expected ',' or a closing bracket after the text, found 'a'"),
        ("{'type': 'x", r"line 1, column 10: the text that begins here is not closed by a '"),
        ("{'type': 'x' 'a': 1}", r"column 14: expected ',' or '\}', found 'a'"),
        ("{'type' 'x'}", r"column 9: expected ':' after the key 'type', found 'x'"),
        ("{'a': [1, 2}", r"column 12: expected ',' or '\]', found '\}'"),
        ("{'a': 1}}", r"column 9: expected the end.*'\}'"),
        ("{type:x}", r"column 8: 'type:x' has no value; write a colon and a space"),
        ("{a" + " " * 500 + "b}", r"'a {100,200}\.\.\.$"),
        ("{'a': 1, 'a': 2}", r"column 10: key 'a' is given twice"),
        ("{a: 1, 'a': 2}", r"column 8: key 'a' is given twice"),
        ("{a: what is it?}", r"column 15: expected ',' or '\}', but got '\?'; put texts in quotes"),
        ("{1.5: 2}", r"column 2: expected a text as key, found 1.5"),
        ("{[a]: 2}", r"column 2: expected a text as key, found a list or dict"),
        ("{'a': !!python/object/apply:os.system ['x']}", r"column 7: YAML tags are not taken"),
        ("{'a': &x [1], b: *x}", r"column 7: YAML anchors and aliases are not taken"),
        ("{'a': " + "[" * 60 + "]" * 60 + "}", r"column 56: nested deeper than 50"),
        ("{a: " + "[" * 60 + "]" * 60 + "}", r"column 54: nested deeper than 50"),
        ("{'a': " + "[" * 200_000, r"nested deeper than 50"),
        ("{'a': " + "1" * 500 + "}", r"column 7: a number of 500 characters; at most 400"),
        ("{'a': 1e999}", r"column 7: the number 1e999 is too large"),
        ("{'a': '\udce9'}", r"not valid UTF-8"),
        ("{a: \0}", r"U\+0000 must be escaped"),
        ("{'a': '" + "x" * LONGEST + "'}", rf"expected at most {LONGEST} characters, found {LONGEST + 9}"),
    ],
)
def test_faults_name_the_place(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_literal(text, "-p")


def test_a_file_name_in_place_of_a_dict_is_pointed_to_f(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("type: help\n")
    with pytest.raises(UsageError, match=f"use -f {path}"):
        parse_literal(str(path), "-p")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type: help\njob: prefetch\n", [{"type": "help", "job": "prefetch"}]),
        (
            "\ufeff- type: help\n- type: prefetch\n  ids: [gpt2]\n",
            [{"type": "help"}, {"type": "prefetch", "ids": ["gpt2"]}],
        ),
        ('[{"type": "help"}, {"type": "help", "job": null}]', [{"type": "help"}, {"type": "help", "job": None}]),
        ("# one job\n{'type': 'help',}\n", [{"type": "help"}]),
        ("type: help\nlr: 1e-4\nstop: on\n", [{"type": "help", "lr": "1e-4", "stop": "on"}]),
        ("type: help\ntext: foo, \\ bar\n", [{"type": "help", "text": "foo, \\ bar"}]),
    ],
)
def test_files(tmp_path: Path, text: str, expected: list[dict[str, Any]]) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_bytes(text.encode())
    assert parse_file(path) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "jobs.yaml: expected a dict or a list of dicts, found nothing"),
        (b"# nothing\n", "expected a value, found the end"),
        (b"[]", "found an empty list"),
        (b"- type: help\n- 5\n", "item 2 is '5'"),
        (b"just text", "found .*just text"),
        (b"type: help\n\xff", "expected UTF-8 text, found byte 0xff at 11"),
        (b"a: 1\n---\nb: 1\n", "line 2, column 1: expected one YAML document, found a second"),
        (b"a: 1\n b: 1\n", "line 2, column 3: mapping values are not allowed here"),
        (b"a: 1\na: 2\n", "line 2, column 1: key 'a' is given twice"),
    ],
)
def test_faulty_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        parse_file(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml: cannot read the file: No such file"):
        parse_file(tmp_path / "absent.yaml")
