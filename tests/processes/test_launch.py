from __future__ import annotations

import os

import pytest

from git_caption import processes
from git_caption.errors import UsageError
from git_caption.processes import LAUNCHERS, as_torchrun, launch, part, rank, require_one, world_size


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in LAUNCHERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    assert (rank(), world_size()) == (0, 1)


@pytest.mark.parametrize("names", LAUNCHERS)
def test_each_launcher_is_understood(monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]) -> None:
    monkeypatch.setenv(names[0], "3")
    monkeypatch.setenv(names[1], "8")
    assert (rank(), world_size()) == (3, 8)


def test_torchrun_inside_a_slurm_step_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "5", "WORLD_SIZE": "16"}.items():
        monkeypatch.setenv(name, value)
    assert (rank(), world_size()) == (5, 16)


def test_a_batch_script_is_one_process_whatever_it_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert (rank(), world_size()) == (0, 1)


@pytest.mark.parametrize(("number", "size"), [("4", "4"), ("-1", "4"), ("x", "4"), ("0", "")])
def test_impossible_values_are_refused(monkeypatch: pytest.MonkeyPatch, number: str, size: str) -> None:
    monkeypatch.setenv("RANK", number)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match=rf"RANK={number} and WORLD_SIZE={size}; expected a rank from 0"):
        rank()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}, (1, 3)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "9",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_STEP": "4",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
            },
            (5, 6),
        ),
    ],
)
def test_the_tasks_of_an_array_and_their_processes_share_work(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[int, int]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert part() == expected


def test_an_array_with_gaps_tells_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ID", "9"), ("MIN", "1"), ("COUNT", "3")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(UsageError, match=r"SLURM_ARRAY_TASK_ID=9 of 3 tasks.*'shard'"):
        part()


def test_one_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_one("inference.py")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match=r"inference\.py runs as one process, and a launcher started 4 of it"):
        require_one("inference.py")


@pytest.mark.parametrize(
    ("launched", "local"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, "0"),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}, "1"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}, "3"),
    ],
    ids=str,
)
def test_torch_is_told_what_any_launcher_said(launched, local, monkeypatch):
    monkeypatch.setattr(os, "environ", {**launched, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    as_torchrun()
    assert {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} == {
        "RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": local,
    }


def test_several_processes_have_to_know_where_to_meet(monkeypatch):
    monkeypatch.setattr(os, "environ", {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"})
    with pytest.raises(UsageError, match="2 processes were started without MASTER_ADDR and MASTER_PORT"):
        as_torchrun()
    monkeypatch.setattr(os, "environ", {})
    as_torchrun()
    assert os.environ == {}


STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"}


def met_at(monkeypatch: pytest.MonkeyPatch, **launched: str) -> tuple[str, int]:
    monkeypatch.setattr(os, "environ", dict(launched))
    as_torchrun()
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def test_processes_of_srun_meet_at_the_first_host_of_their_step(monkeypatch):
    monkeypatch.setattr(launch, "_has_address", lambda host: host == "gpu07")
    nodes = {"SLURM_JOB_NODELIST": "gpu[05-09]", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_STEP_NUM_NODES": "2"}
    host, port = met_at(monkeypatch, **STEP, **nodes)
    assert host == "gpu07"
    assert 20_000 <= port < 32_000  # under Linux's ephemeral ports
    assert met_at(monkeypatch, **STEP, **nodes, MASTER_ADDR="ib-gpu07", MASTER_PORT="29500") == ("ib-gpu07", 29500)
    assert met_at(monkeypatch, **STEP, **nodes, MASTER_ADDR="ib-gpu07") == ("ib-gpu07", port)


def test_a_host_without_an_address_is_met_where_srun_runs(monkeypatch):
    monkeypatch.setattr(launch, "_has_address", lambda _: False)
    nodes = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_NODES": "2", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}
    assert met_at(monkeypatch, **STEP, **nodes)[0] == "10.0.0.7"


def test_processes_of_one_node_meet_there(monkeypatch):
    assert met_at(monkeypatch, **STEP, SLURM_STEP_NODELIST="n1", SLURM_STEP_NUM_NODES="1")[0] == "127.0.0.1"


def test_steps_that_run_at_a_time_have_ports_of_their_own(monkeypatch):
    nodes = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_NODES": "1"}
    ports = {
        met_at(monkeypatch, **nodes, SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step))[1]
        for job in range(900, 920)
        for step in range(8)
    }
    assert len(ports) == 20 * 8


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[07-09,12],login", "gpu07"),
        ("a-100-[003,005-007]", "a-100-003"),
        ("rack[2-3]n[04-05].hpc", "rack2n04.hpc"),
        ("login,n[1-2]", "login"),
    ],
)
def test_the_first_host_of_slurms_lists(hosts, first):
    assert processes.first_host(hosts) == first
