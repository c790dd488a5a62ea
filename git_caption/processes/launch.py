"""Which process of how many this one is: the only reader of what launchers put into the environment."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from git_caption.errors import UsageError

# Rank and size as torchrun, srun, Open MPI and MPICH give them; the first pair that is there counts. Not SLURM_NTASKS,
# which an sbatch script also has where it runs as a single process.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)

LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
OF_JOBS = (
    *("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NUM_NODES", "SLURM_JOB_NODELIST", "SLURM_JOB_GPUS"),
    *("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE", "SLURM_MEM_PER_NODE"),
    *("SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES", "SLURM_LAUNCH_NODE_IPADDR", "SLURMD_NODENAME"),
    *("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"),
)
PLACE = ("MASTER_ADDR", "MASTER_PORT")  # where the first process can be met
STEP_PORTS = range(20_000, 32_000)  # below those that Linux gives to whoever asks for any
STEPS_OF_A_JOB = 8  # that run at a time with ports of their own
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"  # torchrun's store outlives the processes of an attempt

ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
ARRAY_STEP = "SLURM_ARRAY_TASK_STEP"


def rank() -> int:
    """This process's number, from 0."""
    return _rank_and_size()[0]


def world_size() -> int:
    """Number of processes of the run; 1 where no launcher says otherwise."""
    return _rank_and_size()[1]


def part() -> tuple[int, int]:
    """Which part of work that needs no word between processes is this one's, and of how many.

    The tasks of a Slurm array share it, and in each of them the processes that a launcher started.

    Raises:
        UsageError: the numbers of the array's tasks do not tell the parts.
    """
    number, size = _rank_and_size()
    texts = [os.environ.get(name) for name in ARRAY]
    if None in texts:
        return number, size
    task, first, count = (int(str(text)) for text in texts)
    task = (task - first) // int(os.environ.get(ARRAY_STEP, "1"))
    if not 0 <= task < count:
        raise UsageError(
            f"the environment has {ARRAY[0]}={texts[0]} of {count} tasks, whose numbers are not evenly spaced: "
            "name the part as 'shard'"
        )
    return task * size + number, count * size


def require_one(program: str) -> None:
    """Refuse to be one of several processes, which would all do the same work.

    Raises:
        UsageError: a launcher started more than one.
    """
    if world_size() > 1:
        raise UsageError(f"{program} runs as one process, and a launcher started {world_size()} of it: start one")


def as_torchrun() -> None:
    """Put what another launcher said into the environment as torchrun does, for torch reads it there.

    Where nothing says where the first process can be met, Slurm's variables do.

    Raises:
        UsageError: there are several processes, and nothing says where the first one can be met.
    """
    number, size = _rank_and_size()
    if size == 1:
        return
    for name, value in _slurm_place().items():
        os.environ.setdefault(name, value)
    if missing := [name for name in PLACE if not os.environ.get(name)]:
        raise UsageError(
            f"{size} processes were started without {' and '.join(missing)}: set the first one's host and a free port, "
            "or start them with torchrun"
        )
    os.environ.update(RANK=str(number), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank()))


def _slurm_place() -> dict[str, str]:
    """PLACE by Slurm's variables: the first host of the step, and a port that no other step has; nothing without Slurm.

    SLURM_LAUNCH_NODE_IPADDR, where srun runs, is that of the first host in a batch script only: it stands in where
    the host's name means nothing to the network.
    """
    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    job, step = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_STEP_ID", "0")
    if not hosts or not job.isdecimal() or not step.isdecimal():
        return {}
    port = STEP_PORTS[(int(job) * STEPS_OF_A_JOB + int(step)) % len(STEP_PORTS)]
    if os.environ.get("SLURM_STEP_NUM_NODES") == "1":
        host = "127.0.0.1"
    elif not _has_address(host := first_host(hosts)):
        host = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", host)
    return {"MASTER_ADDR": host, "MASTER_PORT": str(port)}


def first_host(hosts: str) -> str:
    """The first name of a list as Slurm writes it: `gpu[07-09,12],login` begins with `gpu07`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)  # to the first comma that is not in brackets
    assert first is not None, "it matches nothing at least"
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def _has_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def launched_with() -> dict[str, str]:
    """What launchers put into the environment, as far as it says which process this is and what it may use."""
    own = {*PLACE, *LOCAL_RANKS, *(name for names in LAUNCHERS for name in names), ATTEMPT, *OF_JOBS}
    return {name: os.environ[name] for name in sorted(own & os.environ.keys())}


@contextmanager
def unlaunched() -> Iterator[None]:
    """Inside, libraries see no launcher in the environment: of one process that it started, they make a group."""
    told = launched_with()
    for name in told:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(told)


def local_rank() -> int:
    """This process's number among those of its machine, from 0."""
    return int(next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), "0"))


def _rank_and_size() -> tuple[int, int]:
    for names in LAUNCHERS:
        texts = [os.environ.get(name) for name in names]
        if None in texts:
            continue
        try:
            number, size = (int(str(text)) for text in texts)
        except ValueError:
            number, size = -1, 0
        if not 0 <= number < size:
            raise UsageError(
                f"the environment has {names[0]}={texts[0]} and {names[1]}={texts[1]}; expected a rank from 0 to one "
                "less than the size"
            )
        return number, size
    return 0, 1
