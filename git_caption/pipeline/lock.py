"""One run at a time on an output."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from git_caption.errors import JobFailed

logger = logging.getLogger(__name__)

WITHOUT_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)


@contextmanager
def locked(path: Path, out: Path) -> Iterator[None]:
    """Holds the lock file `path` for the run that writes `out`, and removes it at the end.

    The operating system's lock, so it dies with its process, however that ends. Raises JobFailed naming the run that
    holds it. On a file system without locks it only warns.
    """
    descriptor = _acquire(path, out)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, out: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise JobFailed(
                f"{out}: another run is writing this output ({_describe(holder)}); wait for it or stop it, or give "
                "another output"
            ) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            logger.warning("%s: this file system has no locks; do not start a second run with this output", out)
            return descriptor
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # its holder ended between our opening and locking it, and removed it: take the next one
        os.close(descriptor)


def _describe(holder: bytes) -> str:
    try:
        run = json.loads(holder)
        return f"process {run['pid']} on {run['host']}"
    except (ValueError, KeyError, TypeError):
        return "just started"
