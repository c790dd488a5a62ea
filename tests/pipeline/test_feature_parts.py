"""The guarantees of a run, with a feature cache for an output."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from git_caption.errors import UsageError
from git_caption.pipeline.feature_parts import FeatureParts
from git_caption.pipeline.run import Summary, run
from git_caption.samples.features import FeatureCache, FeatureRow
from git_caption.samples.sample import Failure
from tests.feature_origins import description
from tests.pipeline.test_crash_points import ROWS, Numbers, ended_at, outputs


def values(number: int) -> np.ndarray:
    """Of a row: as many tokens as its number says, more in later chunks."""
    return np.full((1 + number % 2 + number // 256, 2), number, dtype=np.float32)


def write(out: Path, computed: list[int] | None = None, stored_as: str = "float32", **options: object) -> Summary:
    def compute(numbers: list[int]) -> list[FeatureRow]:
        if computed is not None:
            computed.append(numbers[0] // 256)
        return [FeatureRow(str(number), values(number)) for number in numbers]

    form = FeatureParts(description(), stored_as)
    return run(Numbers(), compute, out, {"stored_as": stored_as}, form=form, num_workers=0, **options)


def test_rows_are_there_in_order_and_failed_rows_have_no_features(tmp_path: Path) -> None:
    summary = write(tmp_path / "out")
    assert (summary.rows, summary.lines, summary.skipped) == (ROWS, ROWS - 3, 3)
    cache = FeatureCache(tmp_path / "out")
    assert (len(cache), cache.tokens, cache.width) == (ROWS, 4, 2)
    for number in range(ROWS):
        expected = values(number) if number % 200 != 7 else np.zeros((0, 2))
        assert (cache[number].key, cache[number].values.tolist()) == (str(number), expected.tolist())
    assert (tmp_path / "out.errors.tsv").read_text() == "8\t7\tfails\n208\t207\tfails\n408\t407\tfails\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.errors.tsv"]


def test_a_source_whose_rows_all_fail_is_a_cache_without_features(tmp_path: Path) -> None:
    class Broken(Numbers):
        def read(self, row: int) -> Failure:
            return Failure(str(row), "broken", ())

    form = FeatureParts(description(), "float16")
    run(Broken(), lambda numbers: [], tmp_path / "out", {}, form=form, num_workers=0)
    cache = FeatureCache(tmp_path / "out")
    assert (len(cache), cache.tokens, cache[ROWS - 1].key) == (ROWS, 0, str(ROWS - 1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ends runs in forked processes")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_run_ended_at_any_touch_of_the_disk_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole" / "out")
    whole = outputs(tmp_path / "whole")
    touch = 0
    while True:
        touch += 1
        out = tmp_path / str(touch) / "out"
        out.parent.mkdir()
        status = ended_at(touch, out, write)
        if status == 0:
            break
        assert status == 9
        assert (out.read_bytes() if out.exists() else None) in (None, whole["out"]), touch
        committed = {int(path.name[:6]) for path in out.parent.glob("out.parts/??????.safetensors")}
        kept = committed if (out.parent / "out.parts" / "manifest.json").exists() else set()
        computed: list[int] = []
        write(out, computed)
        assert computed == sorted(set(range(3)) - kept), touch
        assert outputs(out.parent) == whole, touch
        assert [path.name for path in out.parent.iterdir() if path.is_dir()] == [], touch
    assert touch > 30


def test_the_parts_of_a_run_with_other_settings_are_refused(tmp_path: Path) -> None:
    def stop(numbers: list[int]) -> list[FeatureRow]:
        if numbers[0] >= 256:
            raise RuntimeError("stopped")
        return [FeatureRow(str(number), values(number)) for number in numbers]

    form = FeatureParts(description(), "float16")
    with pytest.raises(RuntimeError, match="stopped"):
        run(Numbers(), stop, tmp_path / "out", {"stored_as": "float16"}, form=form, num_workers=0)
    with pytest.raises(UsageError, match="stored_as: float16 then, float32 now"):
        write(tmp_path / "out")
    assert "out: 600 rows" in str(write(tmp_path / "out", resume=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.errors.tsv"]
