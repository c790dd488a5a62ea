"""Which process of how many this one is: the only reader of what launchers put into the environment."""

from __future__ import annotations

import os

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


def rank() -> int:
    """This process's number, from 0."""
    return _rank_and_size()[0]


def world_size() -> int:
    """Number of processes of the run; 1 where no launcher says otherwise."""
    return _rank_and_size()[1]


def require_one(program: str) -> None:
    """Refuse to be one of several processes, which would all do the same work.

    Raises:
        UsageError: a launcher started more than one.
    """
    if world_size() > 1:
        raise UsageError(
            f"{program} runs as one process for now, and a launcher started {world_size()} of it (this is number "
            f"{rank()}): start one"
        )


def as_torchrun() -> None:
    """Put what another launcher said into the environment as torchrun does, for torch reads it there.

    Raises:
        UsageError: there are several processes, and nothing says where the first one can be met.
    """
    number, size = _rank_and_size()
    if size == 1:
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UsageError(
            f"{size} processes were started without {' and '.join(missing)}: set the first one's host and a free port, "
            "or start them with torchrun"
        )
    local = next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), "0")
    os.environ.update(RANK=str(number), WORLD_SIZE=str(size), LOCAL_RANK=local)


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
