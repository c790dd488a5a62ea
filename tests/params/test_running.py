"""How a job runs."""

from __future__ import annotations

import os

import pytest

from git_caption.params.running import RunningParams
from git_caption.params.schema import faults, parse


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 1), (5, 4), (64, 4)])
def test_workers_leave_one_core_and_are_at_most_four(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert RunningParams().workers == expected
    assert RunningParams(num_workers=7).workers == 7
    assert RunningParams(num_workers=0).workers == 0


def test_workers_without_affinity_count_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert RunningParams().workers == 2


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices(device: str) -> None:
    assert parse(RunningParams, {"device": device}, "job").device == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_devices_that_do_not_exist(device: str) -> None:
    assert faults(RunningParams, {"device": device}, "job") == [
        f"job: 'device': expected auto, cpu, mps, cuda or cuda:N, found {device!r}"
    ]


def test_values_are_checked() -> None:
    found = faults(
        RunningParams,
        {"batch_size": 0, "dtype": "float", "quantization": "8-bit", "on_error": "ignore", "resume": "yes"},
        "job",
    )
    assert found == [
        "job: 'batch_size': expected a whole number of at least 1, found 0",
        "job: 'dtype': expected one of auto, float32, bfloat16, float16, found 'float'; did you mean 'float32'?",
        "job: 'quantization': expected one of none, 8bit, 4bit or None, found '8-bit'; did you mean '8bit'?",
        "job: 'on_error': expected one of skip, raise, found 'ignore'",
        "job: 'resume': expected True or False, found 'yes'",
    ]


@pytest.mark.parametrize(
    "device_map",
    [None, "auto", "balanced", "balanced_low_0", "sequential", {"": "disk"}, {"model": 0, "lm_head": "cpu"}],
)
def test_device_maps(device_map: object) -> None:
    assert parse(RunningParams, {"device_map": device_map}, "job").device_map == device_map


def test_device_maps_that_are_none_of_accelerates() -> None:
    assert faults(RunningParams, {"device_map": "balance"}, "job") == [
        "job: 'device_map': expected one of auto, balanced, balanced_low_0, sequential or keys and values or None, "
        "found 'balance'; did you mean 'balanced'?"
    ]
    assert faults(RunningParams, {"max_memory": {"0": "10GiB"}}, "job") == [
        "job: 'max_memory': bounds a 'device_map' and there is none: give one, as 'auto'"
    ]
