"""A whole download: lists, shards, what is left of earlier runs, and what is put together at the end."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from git_caption import processes
from git_caption.downloads import work
from git_caption.downloads.collect import Collection, collect
from git_caption.downloads.finish import Totals, finish
from git_caption.downloads.list import ListRow, UrlList, open_list
from git_caption.downloads.report import Progress, table
from git_caption.downloads.status import OK, StatusLog, locked, read_rows
from git_caption.downloads.store import BlobStore, FileStore
from git_caption.downloads.survey import Shard, Survey, survey
from git_caption.errors import JobFailed, UsageError
from git_caption.params.download import SHARD, DownloadParams
from git_caption.tsv.writer import write_atomically

CC3M = {"val": "Validation_GCC-1.1.0-Validation.tsv", "train": "Train_GCC-training.tsv"}
CC3M_PAGE = "https://ai.google.com/research/ConceptualCaptions/"
OPEN, DONE = 0, 1


@dataclass(frozen=True)
class Task:
    """A list and where its images go."""

    source: UrlList
    output: work.Output


def download(params: DownloadParams) -> None:
    """Fetch what the parameters name, and print what came of it.

    Raises:
        UsageError: no list, or a run there that was begun otherwise.
        DataError: a list cannot be read.
        JobFailed: another run writes there, or this machine cannot go on.
        Stopped: by a signal; the same command goes on.
    """
    _allow_many_files()
    shard = _shard(params.addresses.shard)
    for task in _tasks(params):
        _download(task, shard, params)


def _tasks(params: DownloadParams) -> list[Task]:
    addresses, output = params.addresses, params.output
    if addresses.list is not None:
        path = Path(addresses.list)
        folder = Path(output.output_dir) if output.output_dir else path.parent / path.stem
        source = open_list(path, addresses.url_col, addresses.caption_col)
        return [Task(source, work.Output(folder, path.stem))]
    root = Path(str(addresses.data_root))
    there = {name: root / table for name, table in CC3M.items() if (root / table).is_file()}
    if not there:
        raise UsageError(
            f"{root}: neither {' nor '.join(CC3M.values())} is there: get them at {CC3M_PAGE}, or name another list by "
            "--list"
        )
    folder = (
        Path(output.output_dir) if output.output_dir else root / ("" if output.format == "files" else output.format)
    )
    return [Task(UrlList(path, 1, 0), work.Output(folder, name)) for name, path in there.items()]


def _shard(text: str) -> Shard:
    found = SHARD.fullmatch(text)
    return Shard(int(found[1]), int(found[2])) if found else Shard(*processes.part())


def _download(task: Task, shard: Shard, params: DownloadParams) -> None:
    output, name = task.output, task.output.name
    output.folder.mkdir(parents=True, exist_ok=True)
    found = survey(task.source)
    manifest = _manifest(found, shard, params)
    if (summary := _complete(output)) is not None and params.addresses.retry is None:
        work.compare(summary["manifest"], {**manifest, "shards": summary["manifest"]["shards"]}, output.summary)
        print(f"{name}: complete already; --retry failed tries the rest again")
        _show(name, Totals.of(summary), params)
        return
    if summary is None and params.addresses.retry is not None and not output.work.exists():
        raise UsageError(f"{output.work}: there is no complete run to try again from: run it without 'retry' first")
    folder = work.begin(output, manifest, shard)
    with locked(folder) as held:
        if not held:
            raise JobFailed(f"{folder}: another run is writing here; wait for it, or stop it")
        if not (folder / work.ENDED).exists():
            _collect(task, found, shard, folder, params)
            work.end_shard(folder)
    if not work.all_ended(output.work, shard.count):
        print(f"{name}: part {shard} has ended; the last one to end puts them together")
        return
    with locked(output.work) as held:
        if held:
            totals = finish(task.source, found, output, work.shards(output.work, shard.count), params)
            summary = {"manifest": {**manifest, "retry": None}, "causes": totals.causes, "bytes": totals.bytes}
            write_atomically(output.summary, json.dumps(summary, indent=1, sort_keys=True).encode() + b"\n")
            work.remove(output.work)
            _show(name, totals, params)


def _manifest(found: Survey, shard: Shard, params: DownloadParams) -> dict[str, Any]:
    """What has to stay the same until a run is complete, in types of JSON."""
    pictures = asdict(params.pictures)
    causes = params.addresses.causes
    return {
        "rows": found.rows,
        "addresses": found.digest,
        "shards": shard.count,
        "retry": None if causes is None else list(causes),
        "format": params.output.format,
        "rows_per_tar": params.output.rows_per_tar,
        **{name: pictures[name] for name in ("decode", "resize", "keep_ratio", "quality", "near_duplicates")},
    }


def _complete(output: work.Output) -> dict[str, Any] | None:
    """The summary of a complete run; None where there is none, or another one has been begun."""
    if output.work.exists() or not output.status.exists():
        return None
    return work.read_json(output.summary)


def _collect(task: Task, found: Survey, shard: Shard, folder: Path, params: DownloadParams) -> None:
    """Fetch what is left of a shard."""
    output = task.output
    rows = _rows_to_do(found, output, folder / work.LOG, params)
    todo = rows.count(OPEN) // shard.count
    again = len(found.repeats)
    print(
        f"{output.name}: {found.rows} rows{f', part {shard}' if shard.count > 1 else ''}, {todo} to fetch"
        f"{f', {again} with the address of an earlier one' if again else ''}",
        flush=True,
    )
    if params.output.format == "files":
        store: FileStore | BlobStore = FileStore(output.images)
    else:
        store = BlobStore(folder, params.output.rows_per_tar)
    log = StatusLog(folder / work.LOG)
    progress = Progress(output.name, todo)
    try:
        collect(_left(task.source, rows, shard), Collection(params, found, store, log, progress))
    finally:
        progress.close()
        log.close()


def _rows_to_do(found: Survey, output: work.Output, log: Path, params: DownloadParams) -> bytearray:
    """OPEN or DONE for each row; of rows with one address only the first is to do."""
    causes = params.addresses.causes
    rows = bytearray([OPEN if causes is None else DONE]) * found.rows
    if causes is not None:
        for row in read_rows(output.status):
            if row.cause in causes or ("failed" in causes and row.cause != OK):
                rows[row.number] = OPEN
    for number in found.repeats.tolist():
        rows[number] = DONE
    for row in read_rows(log):
        rows[row.number] = DONE
    return rows


def _left(source: UrlList, rows: bytearray, shard: Shard) -> Iterator[ListRow]:
    for row in source:
        if rows[row.number] == OPEN and shard.holds(row.url):
            yield row


def _show(name: str, totals: Totals, params: DownloadParams) -> None:
    print(table(name, totals.causes, totals.bytes, cc3m=params.addresses.data_root is not None), flush=True)


def _allow_many_files() -> None:
    """As many open files as this machine lets us have: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says unlimited, and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
