"""Strict reading of parameter classes: every fault found at once, and nothing else refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from git_caption.errors import UsageError
from git_caption.params.schema import describe, faults, group, key, outputs, parse, to_dict


@dataclass(frozen=True)
class Inner:
    kind: Literal["mlp", "linear"] = key(help="kind")
    width: int = key(8, minimum=1, help="width")


@dataclass(frozen=True)
class Shared:
    beams: int | None = key(None, minimum=1, help="beams")
    rate: float = key(0.5, above=0, maximum=1, help="rate")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.beams is not None and self.beams > 3 and self.rate < 0.1:
            yield ("beams", "rate"), f"beams {self.beams} need a rate of 0.1, not {self.rate}"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = key(help="what it is called", aliases=("title",))
    inner: Inner = key(Inner("mlp"), help="inner")
    source: str | None = key(None, help="input", kind="input_file")
    out: str | None = key(None, help="output", kind="output_file")
    tags: tuple[str, ...] = key((), help="tags")
    extra: dict[str, Any] = key(factory=dict, help="extra")
    shared: Shared = group(Shared, "shared")


def test_defaults_fill_what_is_not_given() -> None:
    assert parse(Outer, {"name": "x"}, "job") == Outer(name="x")


def test_keys_of_a_group_stand_at_the_same_level() -> None:
    read = parse(Outer, {"title": "x", "beams": "4", "rate": "1e-1", "inner": {"kind": "linear"}, "tags": "a"}, "job")
    assert read == Outer(name="x", shared=Shared(beams=4, rate=0.1), inner=Inner("linear"), tags=("a",))


def test_to_dict_is_what_parse_reads() -> None:
    value = Outer(name="x", inner=Inner("linear", 3), tags=("a", "b"), extra={"a": [1]}, shared=Shared(beams=2))
    assert to_dict(value) == {
        "name": "x",
        "inner": {"kind": "linear", "width": 3},
        "source": None,
        "out": None,
        "tags": ["a", "b"],
        "extra": {"a": [1]},
        "beams": 2,
        "rate": 0.5,
    }
    assert parse(Outer, to_dict(value), "job") == value


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    given = {
        "nmae": "x",
        "inner": {"kind": "mlpp", "widht": 3, "width": 0},
        "source": str(tmp_path / "absent.tsv"),
        "out": str(tmp_path),
        "tags": [1],
        "rate": float("nan"),
        "beams": "three",
        "colour": "red",
    }
    assert faults(Outer, given, "job") == [
        "job: unknown key 'nmae'; did you mean 'name'?",
        "job: unknown key 'colour'; known keys: name, inner, source, out, tags, extra, beams, rate",
        "job: missing key 'name': what it is called",
        "job: unknown key 'inner.widht'; did you mean 'width'?",
        "job: 'inner.kind': expected one of mlp, linear, found 'mlpp'; did you mean 'mlp'?",
        "job: 'inner.width': expected a whole number of at least 1, found 0",
        "job: 'tags': expected a list (text each), found [1]",
        "job: 'beams': expected a whole number of at least 1 or None, found 'three'",
        "job: 'rate': expected a number above 0 and at most 1, found nan",
        f"job: 'source': no such file: {str(tmp_path / 'absent.tsv')!r}",
        f"job: 'out': expected a file to write, found a folder: {str(tmp_path)!r}",
    ]
    with pytest.raises(UsageError, match=r"(?s)unknown key 'nmae'.*\n.*expected a number above 0"):
        parse(Outer, given, "job")


def test_values_that_do_not_fit_together_are_reported_beside_other_faults() -> None:
    assert faults(Outer, {"beams": 4, "rate": 0.05}, "job") == [
        "job: missing key 'name': what it is called",
        "job: beams 4 need a rate of 0.1, not 0.05",
    ]


def test_a_rule_is_silent_where_one_of_its_keys_is_faulty() -> None:
    assert faults(Shared, {"beams": 4, "rate": 5}, "job") == [
        "job: 'rate': expected a number above 0 and at most 1, found 5"
    ]


def test_a_key_and_its_alias_exclude_each_other() -> None:
    assert faults(Outer, {"name": "x", "title": "y"}, "job") == [
        "job: 'name' and 'title' are one key; give one of them"
    ]


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("")
    found = faults(Outer, {"name": "x", "source": str(path), "out": f"{tmp_path}/./a.tsv"}, "job")
    assert found == [f"job: 'out': '{tmp_path}/./a.tsv' is 'source' too, which it would overwrite"]


def test_nested_values_must_be_dicts() -> None:
    assert faults(Outer, {"name": "x", "inner": 5}, "job") == ["job: 'inner': expected keys and values, found 5"]
    assert faults(Outer, [1], "config.json") == ["config.json: the parameters: expected keys and values, found [1]"]  # type: ignore[arg-type]


def test_long_values_are_shortened_in_messages() -> None:
    (found,) = faults(Outer, {"name": ["x" * 500]}, "job")
    assert found.startswith("job: 'name': expected text, found ['xxx")
    assert found.endswith("...")
    assert len(found) < 130
    (found,) = faults(Outer, {"name": "x", "k" * 5000: 1}, "job")
    assert found.startswith("job: unknown key 'kkk")
    assert found.endswith("...")
    assert len(found) < 1100


def test_a_default_path_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class WithDefault:
        data_dir: str = key("data/shapes", help="folder", kind="input_dir")

    monkeypatch.chdir(tmp_path)
    globals()["WithDefault"] = WithDefault
    assert faults(WithDefault, {}, "job") == ["job: 'data_dir': no such folder: 'data/shapes'"]
    assert faults(WithDefault, {}, "job", promised=["data/shapes"]) == []


def test_outputs_are_the_paths_that_will_be_written() -> None:
    assert outputs(Outer(name="x", out="a/b.tsv")) == ["a/b.tsv"]
    assert outputs(Outer(name="x")) == []


def test_describe_tells_every_key() -> None:
    rows = {row.name: row for row in describe(Outer)}
    assert list(rows) == ["name", "inner", "source", "out", "tags", "extra", "beams", "rate"]
    assert rows["name"].required
    assert rows["name"].help == "what it is called (also called title)"
    assert (rows["beams"].type, rows["beams"].default, rows["beams"].group) == (
        "a whole number of at least 1",
        "None",
        "shared",
    )
    assert (rows["rate"].type, rows["rate"].default) == ("a number above 0 and at most 1", "0.5")
