"""Which addresses may be asked: http(s) at public addresses.

What a name stands for is looked up once; those addresses are checked, and the connection is made to them and to no
other, so that a name cannot be public when it is looked at and private when it is called.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from git_caption.params.download import Network

LOOKUPS = 64  # names looked up at the same time
LOCAL_NAMES = ("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp")
# Numbers that the C library takes for an IPv4 address, as 127.1, 0x7f000001 or 2130706433.
NUMERIC = re.compile(r"(?:[^.]*\.)*(?:0x[0-9a-f]*|\d+)\.?", re.IGNORECASE)
NAME = re.compile(r"[a-z0-9_.-]+", re.IGNORECASE)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Beside what `ipaddress` calls private, which differs between versions of Python.
REFUSED = [
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # shared by carriers; Alibaba's metadata
        "168.63.129.16/32",  # Azure's metadata
        "192.0.0.0/24",  # Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "100::/64",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
]
NAT64 = ipaddress.ip_network("64:ff9b::/96")
ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")


class Refused(OSError):
    """An address that may not be asked; `cause` as in status rows."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def parse_url(text: str, private: Sequence[Network], base: URL | None = None) -> URL:
    """The address, if it may be asked as far as can be told without looking up its name.

    Args:
        text: as it stands in a list or, where there is a `base`, in a redirect from there.
        private: networks whose addresses may be asked although they are not public.
        base: the address that redirected.

    Raises:
        Refused: cause `unparseable`, `scheme`, `onion` or `private_address`.
    """
    try:
        url = URL(text) if base is None else base.join(URL(text))
        host, _ = url.raw_host, url.port
    except (ValueError, TypeError) as error:
        raise Refused("unparseable") from error
    if url.scheme not in ("http", "https"):
        raise Refused("scheme" if url.scheme else "unparseable")
    if not host or len(host) > 253:
        raise Refused("unparseable")
    labels = host.lower().rstrip(".").split(".")
    if "onion" in labels:  # gateways to hidden services too, as name.onion.link
        raise Refused("onion")
    if any(not label or len(label) > 63 for label in labels) and ":" not in host:
        raise Refused("unparseable")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if NUMERIC.fullmatch(host) or not NAME.fullmatch(host):
            raise Refused("unparseable") from None
        if not private and labels[-1] in LOCAL_NAMES:
            raise Refused("private_address") from None
        return url
    if not may_be_asked(address, private):
        raise Refused("private_address")
    return url


def may_be_asked(address: Address, private: Sequence[Network]) -> bool:
    """Whether the address is public, or in one of the networks."""
    return is_public(address) or any(address in network for network in private if network.version == address.version)


def is_public(address: Address) -> bool:
    """Whether anyone's server may stand there: not private, local, multicast or reserved, nor a way to such a place."""
    return _is_public(address) and all(_is_public(inner) for inner in _embedded(address))


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address in NAT64:
        return True  # as public as what is embedded in it
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or any(address in network for network in REFUSED if network.version == address.version)
    )


def _embedded(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to by mapping, translation or a tunnel."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    last = ipaddress.IPv4Address(address.packed[12:])
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or address.packed[8:12] in ISATAP or not any(address.packed[:12]):
        found.append(last)
    return [inner for inner in found if inner is not None]


class GuardedResolver(AbstractResolver):
    """Looks up names in threads of its own; one that has a private address is refused whole."""

    def __init__(self, private: Sequence[Network]) -> None:
        self._private = private
        self._threads = ThreadPoolExecutor(LOOKUPS, "names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises gaierror, or Refused for one that may not be asked."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._look_up, host, port, family)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in found
        ]

    def _look_up(self, host: str, port: int, family: int) -> list[tuple[int, str]]:
        # Without AI_ADDRCONFIG, which some containers answer with nothing; of an unreachable kind the next is tried.
        answers = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        found = [(int(kind), str(place[0])) for kind, _, _, _, place in answers]
        if not all(may_be_asked(ipaddress.ip_address(address), self._private) for _, address in found):
            raise Refused("private_address")
        return found

    async def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
