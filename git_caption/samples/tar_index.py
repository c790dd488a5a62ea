"""Which samples a tar holds and where: read from its headers once, then from a file beside it.

`NAME.tar.index.json` is a JSON object: `size` and `mtime_ns` of the tar it is of, and `samples`, a list of
[key, {extension: [offset, size]}]. Of a tar that has changed since it is made anew.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from git_caption.errors import DataError
from git_caption.tsv.index import folder_is_read_only
from git_caption.tsv.writer import write_atomically


@dataclass
class TarSample:
    """Neighbours in a tar with one key: extension → offset and size."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)

    def first(self, extensions: tuple[str, ...]) -> tuple[str, tuple[int, int]]:
        """The first of these extensions that is there, with its place."""
        return next(((name, self.members[name]) for name in extensions if name in self.members), ("", (0, -1)))


def samples(path: Path) -> list[TarSample]:
    """The samples of a tar, whose headers are read where no index tells; it is kept where the folder may be written.

    Raises DataError if the tar is damaged, incomplete or compressed.
    """
    index = path.with_name(f"{path.name}.index.json")
    version = _version(path)
    found = _stored(index, version)
    if found is None:
        found = list(_scanned(path))
        if not folder_is_read_only(Path(os.path.abspath(path)).parent):
            listed = [[sample.key, sample.members] for sample in found]
            with suppress(OSError):  # a full disk: the headers are read again next time
                write_atomically(index, json.dumps({**version, "samples": listed}, separators=(",", ":")).encode())
    return found


def _version(path: Path) -> dict[str, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _stored(index: Path, version: dict[str, int]) -> list[TarSample] | None:
    """What the index says; None where there is none, it is damaged or of another version of the tar."""
    try:
        content = json.loads(index.read_bytes())
        if {name: content[name] for name in version} != version:
            return None
        return [TarSample(str(key), _places(members, version["size"])) for key, members in content["samples"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _places(members: dict[str, Any], size: int) -> dict[str, tuple[int, int]]:
    """Raises ValueError for a place that is not in the tar."""
    places = {name: (int(offset), int(length)) for name, (offset, length) in members.items()}
    if any(offset < 0 or length < 0 or offset + length > size for offset, length in places.values()):
        raise ValueError("beyond the tar")
    return places


def _ends(path: Path, offset: int) -> bool:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _scanned(path: Path) -> Iterator[TarSample]:
    """The samples of a tar: members whose names agree up to the first dot of the last part, one after the other."""
    sample: TarSample | None = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0:  # tarfile would go back to where it came from, for ever
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                folder, name = os.path.split(member.name)
                stem, _, extension = name.partition(".")
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not stem or member.issparse():
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key or extension.lower() in sample.members:
                    if sample is not None:
                        yield sample
                    sample = TarSample(key)
                sample.members[extension.lower()] = (member.offset_data, member.size)
            # tarfile takes a header that is cut off, or lacking where more was to come, for the end.
            if not _ends(path, tar.offset):
                raise tarfile.ReadError(f"it ends at byte {path.stat().st_size} without tar's closing block")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a complete uncompressed tar: {error}") from error
    if sample is not None:
        yield sample
