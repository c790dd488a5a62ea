"""Images fetched a second: ours, img2dataset, and the loop of sixteen threads that the GIT tool had.

One server on the loopback gives the same JPEG of some 30 kB after 20 or 200 ms. It runs on one core, the same for all
three, and they on two: img2dataset and ours as two processes. Nothing is decoded or resized on any side; all write
files, and ours and img2dataset hash them. The rate is that of the server's requests from the first tenth to the last,
so that nobody's start and end count. img2dataset and requests are installed into an environment of their own, once.
Run from the repository: `python3 -m benchmarks.download`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import chain
from pathlib import Path
from statistics import median
from typing import ClassVar

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = Path(tempfile.gettempdir()) / "git_caption-img2dataset"
PEERS = ("img2dataset", "requests")
IN_FLIGHT = 512
PROCESSES = 2  # as img2dataset's, each with half of the requests in flight
AIMS = {"img2dataset": 1.3, "loop": 5.0}
COUNTED = (0.1, 0.9)  # of the requests of a run: from where to where their rate counts
MEMORY_EACH = 100  # of so many rows one is fetched, the others are refused without being asked

IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    urls, out, rows, threads = sys.argv[1:]
    download(url_list=urls, input_format="txt", output_folder=out, output_format="files", processes_count=2,
             thread_count=int(threads) // 2, number_sample_per_shard=-(-int(rows) // 4), resize_mode="no",
             disable_all_reencoding=True, timeout=10, retries=0, enable_wandb=False)
"""

LOOP = """
import sys, threading
import requests
urls, out, _, threads = sys.argv[1:]
lines = open(urls).read().split()
def work(first):
    for number in range(first, len(lines), int(threads)):
        answer = requests.get(lines[number], stream=True, timeout=10)
        if answer.status_code == 200:
            with open(f"{out}/{number:08d}.jpg", "wb") as file:
                file.write(answer.content)
running = [threading.Thread(target=work, args=(first,)) for first in range(int(threads))]
[thread.start() for thread in running]
[thread.join() for thread in running]
"""


def picture() -> bytes:
    """A JPEG of some 30 kB."""
    noise = np.random.default_rng(0).integers(0, 256, (36, 48, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


class _Connection(asyncio.Protocol):
    """Answers every request after the delay; `/times` tells what has been asked since it was last told."""

    delay = 0.0
    answer = b""
    times: ClassVar[list[float]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._pending = transport, b""

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            request, _, self._pending = self._pending.partition(b"\r\n\r\n")
            asyncio.get_running_loop().call_later(_Connection.delay, self._give, request.startswith(b"GET /times"))

    def _give(self, times: bool) -> None:
        now, cls = time.monotonic(), _Connection
        if times:
            body = json.dumps(sorted(cls.times)).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            cls.times.clear()
            return
        cls.times.append(now)
        self._transport.write(cls.answer)


async def serve(delay: float) -> None:
    """Serve until the end, on one core; prints the port."""
    body = picture()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    _Connection.delay, _Connection.answer = delay, head.encode() + body
    pin({max(cores())})
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def cores() -> list[int]:
    """The cores of this process; where they cannot be told, none."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def pin(to: set[int]) -> None:
    """Keep this process on these cores, where that can be said."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, to)


@contextmanager
def server(milliseconds: int) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    command = [sys.executable, "-m", "benchmarks.download", "--serve", str(milliseconds / 1000)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def environment(path: Path) -> Path:
    """The Python of img2dataset's environment, made where it is not there."""
    python = path / "bin" / "python"
    done = path / "complete"
    if not done.exists():
        venv.create(path, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS], check=True)
        done.touch()
    return python


def ours(urls: Path, out: Path, processes: int) -> list[list[str]]:
    """Our processes, each with its part of the list."""
    in_flight = str(IN_FLIGHT // processes)
    flags = ["--decode", "False", "--allow_private", "--in_flight", in_flight, "--per_host", in_flight]
    command = [sys.executable, str(ROOT / "download.py"), "--list", str(urls), "--output_dir", str(out), *flags]
    return [[*command, "--shard", f"{index}/{processes}"] for index in range(processes)]


def commands(way: str, python: Path, urls: Path, out: Path, rows: int) -> list[list[str]]:
    """How one of the three is told to fetch the list."""
    if way == "ours":
        return ours(urls, out, PROCESSES)
    code, threads = (IMG2DATASET, IN_FLIGHT) if way == "img2dataset" else (LOOP, 16)
    script = out.parent / f"fetch_by_{way}.py"
    script.write_text(code)
    return [[str(python), str(script), str(urls), str(out), str(rows), str(threads)]]


def rate(way: str, python: Path, address: str, rows: int) -> float:
    """Images a second of one run. Raises RuntimeError if not all were written."""
    with tempfile.TemporaryDirectory() as folder:
        urls, out = Path(folder) / "urls.txt", Path(folder) / "out"
        urls.write_text("".join(f"{address}/{number}.jpg\n" for number in range(rows)))
        out.mkdir()
        with open(Path(folder) / "said", "w+") as said:
            running = [
                subprocess.Popen(command, stdout=said, stderr=said, preexec_fn=lambda: pin(set(cores()[:2])))
                for command in commands(way, python, urls, out, rows)
            ]
            for process in running:
                process.wait()
            written = sum(1 for _ in out.rglob("*.jpg"))
            if written != rows:
                said.seek(0)
                raise RuntimeError(f"{way} wrote {written} of {rows} images: {said.read()[-2000:]}")
    with urllib.request.urlopen(f"{address}/times") as answer:
        times = json.load(answer)
    first, last = (int(share * (len(times) - 1)) for share in COUNTED)
    return float((last - first) / (times[last] - times[first]))


def rates(ways: Sequence[str], python: Path, delays: Sequence[int], rows: int, repeats: int) -> Iterator[str]:
    """The lines of the report on rates; the ways take turns."""
    yield f"{rows} images of {len(picture()) / 1000:.0f} kB, medians of {repeats}; the loop fetches a quarter of them\n"
    yield f"{'images/s':24}" + "".join(f"{way:>14}" for way in ways)
    for delay in delays:
        with server(delay) as address:
            runs: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(repeats):
                for way in ways:
                    runs[way].append(rate(way, python, address, rows // 4 if way == "loop" else rows))
        found = {way: median(values) for way, values in runs.items()}
        yield f"{f'delay of {delay} ms':24}" + "".join(f"{found[way]:14.0f}" for way in ways)
        for way, aim in AIMS.items():
            if way in found and (way != "loop" or delay == 200):
                ratio = found["ours"] / found[way]
                yield f"  ours to {way:14}{ratio:8.1f}x   {aim} or more{'' if ratio >= aim else ': MISSED'}"


def megabytes(rows: int, address: str) -> float:
    """Most memory of a run over so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        urls = Path(folder) / "urls.txt"
        with open(urls, "w") as file:
            for number in range(rows):
                file.write(f"{'ftp://refused' if number % MEMORY_EACH else address}/{number}.jpg\n")
        run = subprocess.Popen(ours(urls, Path(folder) / "out", 1)[0], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(run.pid, 0)
        if status:
            raise RuntimeError(f"the run over {rows} rows ended with {status}")
        return usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def memory(rows: Sequence[int]) -> Iterator[str]:
    """The lines of the report on memory."""
    yield f"\nmost memory, one row of {MEMORY_EACH} fetched, the others refused unasked"
    with server(0) as address:
        first: float | None = None
        for number in rows:
            most = megabytes(number, address)
            first = most if first is None else first
            yield f"{f'{number} rows':24}{most:12.0f} MB{most / first:8.2f}x"


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8000, help="images of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--delays", type=int, nargs="+", default=[20, 200], help="of the server, in milliseconds")
    parser.add_argument("--ways", nargs="+", default=["ours", "img2dataset", "loop"], help="who is measured")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[10_000, 1_000_000], help="rows to measure memory with"
    )
    parser.add_argument("--env", type=Path, default=ENVIRONMENT, help="environment of img2dataset and requests")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
        return
    python = environment(given.env) if set(given.ways) - {"ours"} else Path()
    for line in chain(
        rates(given.ways, python, given.delays, given.rows, given.repeats), memory(given.memory) if given.memory else ()
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
