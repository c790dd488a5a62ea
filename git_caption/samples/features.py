"""The feature cache: what an image encoder gave for each row of a data set, in one file that is mapped into memory.

A safetensors file, so that other tools read it too:

    values    float16 or float32[rows, N, D_v]   what was given for a row, then zeros
    counts    int64[rows]                        how many of the N are given; 0 for a row that could not be processed
    keys      uint8[...]                         the rows' keys in UTF-8, one after another
    key_ends  int64[rows]                        where each key ends in `keys`

Its metadata says what they were made from (`CacheDescription`, as JSON, under `made_from`).
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from git_caption.errors import DataError, UsageError
from git_caption.params.features import CacheDescription, FeatureOrigin, StoredAs
from git_caption.params.schema import read, to_dict
from git_caption.samples.inputs import identity

DESCRIPTION = "made_from"
LENGTH = struct.Struct("<Q")  # of the header, before it
LARGEST_HEADER = 1 << 24
TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
STORED: dict[StoredAs, str] = {"float16": "F16", "float32": "F32"}
SHOWN = 12  # characters of a digest in a message

Values = npt.NDArray[np.floating[Any]]
Header = dict[str, tuple[str, list[int]]]  # name of a tensor → its type and shape


@dataclass(frozen=True, eq=False)
class FeatureRow:
    """What an image encoder gave for a row: float16 or float32[n, D_v]; n is 0 where it could not be processed."""

    key: str
    values: Values


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive rows. values: [rows, N, D_v]. counts, key_ends: int64[rows]. keys: uint8[...]."""

    values: Values
    counts: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint8]
    key_ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[FeatureRow], stored_as: StoredAs) -> Self:
        """The block of some rows; those without values may have any width."""
        width = max((row.values.shape[1] for row in rows if len(row.values)), default=0)
        counts = np.array([len(row.values) for row in rows], dtype=np.int64)
        values = np.zeros((len(rows), int(counts.max(initial=0)), width), dtype=TYPES[STORED[stored_as]])
        for number, row in enumerate(rows):
            if len(row.values):
                values[number, : len(row.values)] = row.values
        keys = [row.key.encode() for row in rows]
        ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
        return cls(values, counts, np.frombuffer(b"".join(keys), dtype=np.uint8), ends)


class FeatureCache:
    """A feature cache, open for reading by row number, 0-based.

    Picklable: another process maps the file for itself. Only the pages of the rows that are read come into memory, and
    the system may drop them again.

    Attributes:
        path: the file.
        tokens: N, the most rows that an image has.
        width: D_v.
        description: what the features were made from.
    """

    def __init__(self, path: str | Path) -> None:
        """Map a file. Raises DataError if it is no feature cache, or not whole."""
        self.path = Path(path)
        with open(self.path, "rb") as file:
            header, start, self.description = _read_header(file, self.path)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        arrays: dict[str, Any] = {}
        for name, (kind, shape) in header.items():
            count = math.prod(shape)
            arrays[name] = np.frombuffer(self._map, TYPES[kind], count, start).reshape(shape)
            start += count * TYPES[kind].itemsize
        self.block = Block(arrays["values"], arrays["counts"], arrays["keys"], arrays["key_ends"])
        self.tokens, self.width = self.block.values.shape[1:]

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def holds_prefixes(self) -> bool:
        """Whether these are prefixes, which a mapper made of features."""
        return self.description.origin.what == "prefix"

    def __len__(self) -> int:
        return len(self.block.counts)

    def __getitem__(self, row: int) -> FeatureRow:
        """A row; its values are the file's own pages, read-only. Raises DataError if the file is damaged there."""
        count = int(self.block.counts[row])
        start, end = (int(self.block.key_ends[row - 1]) if row else 0), int(self.block.key_ends[row])
        if not (0 <= count <= self.tokens and 0 <= start <= end <= len(self.block.keys)):
            raise DataError(f"{self.where(row)}: the file is damaged: make it anew with 'extract_features'")
        key = self.block.keys[start:end].tobytes().decode("utf-8", "replace")
        return FeatureRow(key, self.block.values[row, :count])

    def values(self, row: int, key: str) -> Values:
        """The values [n, D_v] of a row whose key is known from another file.

        Raises DataError if it has another key here, or could not be processed.
        """
        found = self[row]
        if found.key != key:
            raise DataError(
                f"{self.where(row)}: the key is {found.key!r}, and {key!r} in the data; expected the same keys in the "
                "same order: make the features anew from these images"
            )
        if not len(found.values):
            raise DataError(f"{self.where(row)}: no features of key {key!r}, which could not be processed")
        return found.values

    def where(self, row: int) -> str:
        """File and row (1-based), as messages give them."""
        return f"{self.path}:{row + 1}"

    def check_origin(self, origin: FeatureOrigin, whose: str) -> None:
        """Raise UsageError if these are not the features of that image encoder; names what differs, both ways."""
        differences = self.description.origin.differences(origin)
        if differences:
            listed = "; ".join(
                f"{name} {_shown(here)} there, {_shown(there)} in it" for name, here, there in differences
            )
            raise UsageError(f"{self.path}: not the {origin.what} of {whose}: {listed}; make them anew with it")

    def check_origins(self, origins: Sequence[FeatureOrigin], whose: str) -> None:
        """As `check_origin`, of a captioner with one image encoder. Raises UsageError also where it mixes several."""
        if len(origins) != 1:
            raise UsageError(
                f"{self.path}: one file, and {whose} mixes {len(origins)} image encoders: expected a file of each, "
                "divided by commas"
            )
        self.check_origin(origins[0], whose)

    def check_same_inputs(self, other: FeatureCache) -> None:
        """Raise DataError if both were made from files of one name that differ."""
        mine = {Path(str(made_from.get("path"))).name: made_from for made_from in self.description.inputs}
        for made_from in other.description.inputs:
            own = mine.get(Path(str(made_from.get("path"))).name, made_from)
            if _version(own) != _version(made_from):
                raise DataError(
                    f"{other.path}: made from {_described(made_from)}, and {self.path} from {_described(own)}: "
                    "expected features of the same images"
                )

    def check_inputs(self, paths: Sequence[Path]) -> None:
        """Raise UsageError if one of these files has changed since the features were made from one of its name."""
        now = {path.name: identity(path) for path in paths}
        for made_from in self.description.inputs:
            given = now.get(Path(str(made_from.get("path"))).name, made_from)
            if _version(given) != _version(made_from):
                raise UsageError(
                    f"{self.path}: made from {_described(made_from)}, and that is now {_described(given)}: make the "
                    "features anew"
                )

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.__init__(path)  # type: ignore[misc]  # there is no other state


def padded(rows: Sequence[Values]) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Values [B, N, D_v] of rows [n, D_v], copied, with zeros on the right, and their mask bool[B, N]."""
    longest = max(len(row) for row in rows)
    values = np.zeros((len(rows), longest, rows[0].shape[1]), dtype=rows[0].dtype)
    mask = np.zeros((len(rows), longest), dtype=np.bool_)
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
        mask[number, : len(row)] = True
    return values, mask


def write(
    file: BinaryIO, blocks: Callable[[], Iterator[Block]], description: CacheDescription, stored_as: StoredAs
) -> int:
    """Write the blocks, in order, as one cache; gives the number of rows.

    blocks: called once for each tensor, so that one block at a time is held.
    """
    shapes = [(*block.values.shape, len(block.keys)) for block in blocks()]
    rows, key_bytes = (int(sum(shape[axis] for shape in shapes)) for axis in (0, 3))
    tokens, width = (max((shape[axis] for shape in shapes), default=0) for axis in (1, 2))
    header: Header = {
        "counts": ("I64", [rows]),
        "key_ends": ("I64", [rows]),
        "values": (STORED[stored_as], [rows, tokens, width]),
        "keys": ("U8", [key_bytes]),
    }
    file.write(_header(header, description))
    for block in blocks():
        file.write(block.counts.tobytes())
    before = 0
    for block in blocks():
        file.write((block.key_ends + before).tobytes())
        before += len(block.keys)
    for block in blocks():
        if block.values.shape[1:] == (tokens, width):
            file.write(np.ascontiguousarray(block.values).data)
            continue
        for row in block.values:
            file.write(np.pad(row, ((0, tokens - row.shape[0]), (0, width - row.shape[1]))).tobytes())
    for block in blocks():
        file.write(block.keys.tobytes())
    return rows


def _header(tensors: Header, description: CacheDescription) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {DESCRIPTION: json.dumps(to_dict(description), sort_keys=True)}}
    end = 0
    for name, (kind, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * TYPES[kind].itemsize
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % LENGTH.size)  # what follows is aligned
    return LENGTH.pack(len(text)) + text


def _read_header(file: BinaryIO, path: Path) -> tuple[Header, int, CacheDescription]:
    """The tensors in the order they lie in, where the first begins, and the description."""
    size = path.stat().st_size
    begun = file.read(LENGTH.size)
    length = int(LENGTH.unpack(begun)[0]) if len(begun) == LENGTH.size else LARGEST_HEADER + 1
    expected = f"{path}: expected a feature cache, as 'extract_features' writes it; "
    if length > LARGEST_HEADER:
        raise DataError(f"{expected}this is another file")
    try:
        entries = json.loads(file.read(length))
        about = json.loads(entries.pop("__metadata__")[DESCRIPTION])
        ordered = sorted(entries.items(), key=lambda entry: entry[1]["data_offsets"])
        header: Header = {name: (str(entry["dtype"]), list(entry["shape"])) for name, entry in ordered}
        offsets = [offset for _, entry in ordered for offset in entry["data_offsets"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{expected}this is another file") from error
    description, faults = read(CacheDescription, about, str(path))
    if description is None:
        raise DataError(f"{expected}{'; '.join(faults)}")
    start = LENGTH.size + length
    if not _is_whole(header, offsets) or (ends_at := start + offsets[-1]) != size:
        seen = f"{size} bytes long, expected {ends_at}" if _is_whole(header, offsets) else "its header is damaged"
        raise DataError(f"{expected}{seen}: make it anew")
    return header, start, description


def _is_whole(header: Header, offsets: list[int]) -> bool:
    """Whether the tensors are those of a cache, of shapes that fit, one right after another."""
    if set(header) != {"values", "counts", "keys", "key_ends"}:
        return False
    sizes = [size for _, shape in header.values() for size in shape]
    if not all(isinstance(size, int) and size >= 0 for size in sizes) or len(header["values"][1]) != 3:
        return False
    rows = header["values"][1][0]
    if header["counts"] != ("I64", [rows]) or header["key_ends"] != ("I64", [rows]):
        return False
    if header["values"][0] not in STORED.values() or header["keys"][0] != "U8" or len(header["keys"][1]) != 1:
        return False
    end, expected = 0, []
    for kind, shape in header.values():
        begin, end = end, end + math.prod(shape) * TYPES[kind].itemsize
        expected += [begin, end]
    return offsets == expected


def _version(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry.get("size"), entry.get("mtime_ns")


def _described(entry: dict[str, Any]) -> str:
    return f"{entry.get('path')} of {entry.get('size')} bytes, changed at {entry.get('mtime_ns')} ns"


def _shown(value: Any) -> str:
    """A value in a message; of a digest its beginning."""
    return f"{value[:SHOWN]}..." if isinstance(value, str) and len(value) == 64 else repr(value)
