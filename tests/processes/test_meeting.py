from __future__ import annotations

import pytest

from git_caption import processes
from git_caption.processes import meeting


@pytest.mark.parametrize(("gpus", "own"), [(0, "auto"), (1, "cuda:0"), (2, "cuda:1"), (8, "cuda:3")])
def test_processes_of_one_machine_take_a_gpu_each(monkeypatch, gpus, own):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert processes.own_device("auto") == "auto"
    monkeypatch.setattr(meeting, "_met", object())
    assert [processes.own_device(name) for name in ("auto", "cpu", "cuda:0")] == [own, "cpu", "cuda:0"]
