"""One run of `download.py`: all its keys, in groups."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.schema import group, key

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
EVERYWHERE: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

SHARD = re.compile(r"(\d+)/(\d+)")
HTTP_CAUSE = re.compile(r"http_[1-5]\d\d")
CAUSES = (
    "bad_row",
    "unparseable",
    "scheme",
    "onion",
    "private_address",
    "robots_tag",
    "dns",
    "connect",
    "proxy",
    "tls",
    "timeout",
    "cut_off",
    "protocol",
    "redirects",
    "too_large",
    "empty",
    "encoding",
    "not_an_image",
    "damaged",
)
"""Why there is no image, beside `http_404` and so on: what a status row and `--retry` call it."""


@dataclass(frozen=True, kw_only=True)
class ListParams:
    """Which addresses."""

    data_root: str | None = key(
        None,
        help="folder with CC3M's Train_GCC-training.tsv, Validation_GCC-1.1.0-Validation.tsv or both; fills train/ and "
        "val/ in it",
        kind="input_dir",
    )
    list: str | None = key(
        None,
        help="any other list: .tsv, .csv, .jsonl, .parquet, or a text file with an address a line",
        kind="input_file",
    )
    url_col: str | None = key(
        None, help="column of the addresses: its name, or its number from 0 where a TSV has no header; None: found"
    )
    caption_col: str | None = key(None, help="column of the captions, likewise; None: found, or no captions")
    shard: str = key(
        "auto",
        help="i/n fetches the i-th of n parts, from 0; the one that ends last puts them together. auto: the task of a "
        "Slurm array, the process of srun, else all",
    )
    retry: tuple[str, ...] | None = key(
        None,
        help="once a run is complete: failed fetches again all that has no image; or a cause, or several with commas, "
        "as timeout,http_503",
    )

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Lists missing or given twice, shards and causes that are none, as (keys concerned, message)."""
        if (self.data_root is None) == (self.list is None):
            yield (
                ("data_root", "list"),
                "expected 'data_root' (a folder of CC3M) or 'list' (any other list), one of them",
            )
        if self.list is None and (self.url_col is not None or self.caption_col is not None):
            yield ("list", "url_col", "caption_col"), "'url_col' and 'caption_col' choose from 'list'"
        found = SHARD.fullmatch(self.shard)
        if self.shard != "auto" and (found is None or not int(found[1]) < int(found[2])):
            yield ("shard",), f"'shard': expected auto or i/n with i from 0 to n - 1, found {self.shard!r}"
        for cause in self.causes or ():
            if cause != "failed" and cause not in CAUSES and not HTTP_CAUSE.fullmatch(cause):
                known = ", ".join(("failed", *CAUSES))
                yield ("retry",), f"'retry': expected {known} or http_ and a status, found {cause!r}"

    @property
    def causes(self) -> tuple[str, ...] | None:
        """What is tried again, sorted."""
        if self.retry is None:
            return None
        return tuple(sorted({name.strip() for text in self.retry for name in text.split(",")}))


@dataclass(frozen=True, kw_only=True)
class OutputParams:
    """What is written."""

    output_dir: str | None = key(
        None,
        help="where images and status rows go; None: data_root, or a folder called as the list, beside it",
        kind="output_dir",
    )
    format: Literal["files", "tsv", "webdataset"] = key(
        "files",
        help="files: NAME/%08d.jpg by number of the row; tsv: image and caption TSV; webdataset: tars",
    )
    rows_per_tar: int = key(10_000, minimum=1, help="rows of the list that a tar holds the images of")


@dataclass(frozen=True, kw_only=True)
class PictureParams:
    """What is done with the bytes of an image."""

    decode: bool = key(True, help="see that the bytes are an image by decoding them, in worker processes")
    resize: int | None = key(
        None, minimum=1, help="pixels of the shorter side of what is written, as JPEG; smaller images stay as they are"
    )
    keep_ratio: bool = key(True, help="False squeezes the longer side to as many")
    quality: int = key(90, minimum=1, maximum=100, help="of the JPEG that is written where an image is resized")
    near_duplicates: bool = key(
        False, help="mark, in the status rows, images that look like an earlier one (perceptual hash)"
    )
    max_bytes: int = key(16_000_000, minimum=1, help="longest body that is read")
    num_workers: int = key(2, minimum=1, help="processes that decode")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What cannot be done without decoding, as (keys concerned, message)."""
        for name in ("resize", "near_duplicates"):
            if not self.decode and getattr(self, name):
                yield ("decode", name), f"{name!r}: needs the image decoded: leave 'decode' True"


@dataclass(frozen=True, kw_only=True)
class NetworkParams:
    """How servers are asked."""

    in_flight: int = key(256, minimum=1, help="requests at the same time", aliases=("num_threads",))
    per_host: int = key(16, minimum=1, help="of these at one host")
    connect_timeout: float = key(10.0, above=0, help="seconds until connected, name and TLS included")
    read_timeout: float = key(10.0, above=0, help="seconds without a byte")
    total_timeout: float = key(30.0, above=0, help="seconds for one request in all")
    retries: int = key(
        2, minimum=0, help="tries after the first where that may help: 429, 5xx, a cut or refused connection"
    )
    backoff: float = key(1.0, above=0, help="seconds before the second try, twice as many each time, with jitter")
    max_wait: float = key(
        120.0, minimum=0, help="longest wait in seconds that a Retry-After is followed; past it the row fails"
    )
    max_redirects: int = key(5, minimum=0, help="redirects that are followed, each address checked")
    user_agent: str = key(
        "git_caption/0.1 (downloads a published list of images for research)",
        help="what is told to servers; add how you can be reached",
    )
    honour_robots_tag: bool = key(
        True, help="leave out images whose X-Robots-Tag says noai, noimageai, noindex, noimageindex or none"
    )
    allow_private: bool | tuple[str, ...] = key(
        False,
        help="also fetch from private, loopback and link-local addresses, as tests and mirrors need; or from "
        "networks named, with commas, as 127.0.0.1,10.2.0.0/16",
    )

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Texts that cannot stand in a request, as (keys concerned, message)."""
        if not self.user_agent.isprintable() or not self.user_agent.isascii() or not self.user_agent.strip():
            yield ("user_agent",), f"'user_agent': expected printable ASCII in one line, found {self.user_agent!r}"
        try:
            self.private_networks  # noqa: B018 - the reading of it is what is checked
        except ValueError as error:
            yield ("allow_private",), f"'allow_private': expected True, False or networks: {error}"

    @property
    def private_networks(self) -> tuple[Network, ...]:
        """Where addresses may be asked that are not public. Raises ValueError if what is named is no network."""
        if isinstance(self.allow_private, bool):
            return EVERYWHERE if self.allow_private else ()
        names = (name.strip() for text in self.allow_private for name in text.split(","))
        return tuple(ipaddress.ip_network(name, strict=False) for name in names)


@dataclass(frozen=True, kw_only=True)
class DownloadParams:
    """One run of `download.py`."""

    addresses: ListParams = group(ListParams, "which addresses")
    output: OutputParams = group(OutputParams, "what is written")
    pictures: PictureParams = group(PictureParams, "images")
    network: NetworkParams = group(NetworkParams, "network")
