"""Bytes of a body to what is written: seen to be an image, resized if asked, hashed. Runs in worker processes."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from git_caption.downloads.status import OK
from git_caption.errors import DataError, JobFailed
from git_caption.images.decode import decode
from git_caption.params.download import PictureParams

HASH_SIDE = 8
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is Slurm's early warning


@dataclass(frozen=True, slots=True)
class Examined:
    """What is written of a body.

    Attributes:
        cause: `ok`, `not_an_image` or `damaged`.
        image: the bytes to write; None for the body as it is.
        sha256: of the bytes to write; None where that is left to whoever writes them.
        width, height: of the picture, upright; None where it was not decoded.
        hash: perceptual hash in hexadecimal, where asked for.
    """

    cause: str
    image: bytes | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    hash: str | None = None


def examine(body: bytes, params: PictureParams) -> Examined:
    """Decode, and resize as `params` say; EXIF orientation is applied where the image is written anew."""
    try:
        picture = decode(body)
    except DataError as error:
        return Examined("not_an_image" if str(error).startswith("not an image") else "damaged")
    looks = perceptual_hash(picture) if params.near_duplicates else None
    image: bytes | None = None
    size = _resized(picture.size, params)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=params.quality)
        image = buffer.getvalue()
    digest = hashlib.sha256(body if image is None else image).hexdigest()
    return Examined(OK, image, digest, *picture.size, looks)


def _resized(size: tuple[int, int], params: PictureParams) -> tuple[int, int]:
    """Width and height of what is written; of an image that is small enough its own."""
    if params.resize is None or min(size) <= params.resize:
        return size
    if not params.keep_ratio:
        return params.resize, params.resize
    width, height = (max(1, round(side * params.resize / min(size))) for side in size)
    return width, height


def perceptual_hash(picture: Image.Image) -> str:
    """64 bits that change little with size and compression: which of two neighbouring cells is the brighter (dHash)."""
    small = picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(small, dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


class Examiners:
    """Worker processes that examine; they end with this one, however it ends.

    Without decoding there is nothing to examine.
    """

    def __init__(self, params: PictureParams) -> None:
        self._params = params
        self._pool: ProcessPoolExecutor | None = None
        if params.decode:
            context = multiprocessing.get_context("spawn")  # a fork would copy threads in mid-air
            self._pool = ProcessPoolExecutor(params.num_workers, context, initializer=_start)
            # Begun with the stopping signals held back, until they know that these are not for them.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            for _ in range(params.num_workers):
                self._pool.submit(os.getpid)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    async def examine(self, body: bytes) -> Examined:
        """As the function does.

        Raises:
            JobFailed: a worker died.
        """
        if self._pool is None:
            return Examined(OK)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, examine, body, self._params)
        except BrokenProcessPool as error:
            raise JobFailed(
                "a decoding process died (out of memory, or an image library crashed); what has a status row is kept: "
                "run the same command again, with fewer 'num_workers' if memory is short"
            ) from error

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _start() -> None:
    for number in STOPPING:  # the main process decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def end_with_the_main_process() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_the_main_process, daemon=True).start()
