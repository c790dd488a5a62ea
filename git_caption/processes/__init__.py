"""Which process of how many this one is, and what several processes share.

One process by itself needs no torch and opens no socket.
"""

from git_caption.processes.launch import (
    LAUNCHERS,
    as_torchrun,
    first_host,
    launched_with,
    local_rank,
    part,
    rank,
    require_one,
    unlaunched,
    world_size,
)
from git_caption.processes.meeting import end, meet, met, own_device, rank_0_first, together
from git_caption.processes.ranks import POLL_SECONDS, Ranks, Store

__all__ = [
    "LAUNCHERS",
    "POLL_SECONDS",
    "Ranks",
    "Store",
    "as_torchrun",
    "end",
    "first_host",
    "launched_with",
    "local_rank",
    "meet",
    "met",
    "own_device",
    "part",
    "rank",
    "rank_0_first",
    "require_one",
    "together",
    "unlaunched",
    "world_size",
]
