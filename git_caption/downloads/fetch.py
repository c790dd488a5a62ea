"""One address to the bytes that stand there, or to the cause why not: redirects, limits, patience, politeness."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import ssl
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from git_caption.downloads.guard import GuardedResolver, Refused, parse_url
from git_caption.downloads.hosts import Hosts, Turns
from git_caption.downloads.robots import forbidden
from git_caption.downloads.status import OK
from git_caption.errors import JobFailed, UsageError
from git_caption.params.download import EVERYWHERE, NetworkParams

REDIRECTS = (301, 302, 303, 307, 308)
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be others a moment later
HOLD_BACK = (429, 503)  # said by a host of itself, not of one address
IDLE_SECONDS = 4.0  # that a connection is kept for the next request to its host
NAME_SECONDS = 300  # that the addresses of a name are kept
NAMES = 10_000
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass
class Fetched:
    """What one address gave.

    Attributes:
        status: the last HTTP status; None where no server answered.
        cause: `ok`, or why there are no bytes.
        body: the bytes; empty unless ok.
        seconds: of the last try.
        again: whether another try may help.
        retry_after: seconds that the server asked to wait.
        location: where it redirects to.
        holds_slot: whether it counts as in flight until `Fetcher.release`.
    """

    status: int | None
    cause: str
    body: bytes = b""
    seconds: float = 0.0
    again: bool = False
    retry_after: float | None = None
    location: str | None = None
    holds_slot: bool = True


class Fetcher:
    """Asks servers; at most `in_flight` requests at a time, `per_host` at one host.

    Raises UsageError where the environment names a proxy or certificates that cannot be used.
    """

    def __init__(self, params: NetworkParams, max_bytes: int) -> None:
        self._params = params
        self._private = params.private_networks
        self._max_bytes = max_bytes
        self._slots = Turns(params.in_flight)
        self._hosts = Hosts(params.per_host)
        self._proxies = {scheme: proxy for scheme, proxy in getproxies().items() if scheme in ("http", "https", "all")}
        for scheme, proxy in self._proxies.items():
            if URL(proxy).scheme not in ("http", "https"):
                raise UsageError(f"the environment has {scheme}_proxy={proxy}; expected a proxy by http or https")

    async def __aenter__(self) -> Self:
        # With a proxy it is the proxy that looks names up; ours looks up the proxy's own name, wherever that stands.
        tls = _tls()
        self._direct = self._session(GuardedResolver(self._private), tls)
        self._proxied = self._session(GuardedResolver(EVERYWHERE), tls) if self._proxies else self._direct
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._direct.close()
        await self._proxied.close()

    def _session(self, resolver: GuardedResolver, tls: ssl.SSLContext) -> aiohttp.ClientSession:
        params = self._params
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=resolver,
            ttl_dns_cache=NAME_SECONDS,
            dns_cache_max_size=NAMES,
            keepalive_timeout=IDLE_SECONDS,
            ssl=tls,
        )
        timeout = aiohttp.ClientTimeout(
            total=params.total_timeout, connect=params.connect_timeout, sock_read=params.read_timeout
        )
        # A body is unpacked by us, as far as the limit goes.
        headers = {"User-Agent": params.user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def fetch(self, text: str) -> Fetched:
        """What an address gives, after as many tries as it takes. It is in flight until it is released."""
        if not text:
            return Fetched(None, "bad_row", holds_slot=False)
        try:
            url = parse_url(text, self._private)
        except Refused as error:
            return Fetched(None, error.cause, holds_slot=False)
        tries = 0
        while True:
            fetched = await self._follow(url)
            wait = self._wait(fetched, tries)
            if wait is None:
                return fetched
            self.release(fetched)
            tries += 1
            if fetched.status in HOLD_BACK:
                self._hosts.hold_back(url.host or "", wait)
            await asyncio.sleep(wait)

    def release(self, fetched: Fetched) -> None:
        """It is no longer in flight."""
        if fetched.holds_slot:
            self._slots.leave()

    def _wait(self, fetched: Fetched, tries: int) -> float | None:
        """Seconds until the next try; None where there is none."""
        params = self._params
        if not fetched.again or tries >= params.retries:
            return None
        wait = fetched.retry_after
        if wait is None:
            wait = params.backoff * 2**tries * random.uniform(0.5, 1)
        return wait if wait <= params.max_wait else None

    async def _follow(self, url: URL) -> Fetched:
        """What an address gives, through redirects; it holds a slot."""
        for left in range(self._params.max_redirects, -1, -1):
            async with self._hosts.turn(url.host or ""):
                await self._slots.enter()
                try:
                    fetched = await self._ask(url)
                except BaseException:
                    self._slots.leave()
                    raise
            if fetched.location is None:
                break
            if not left:
                break
            try:
                url = parse_url(fetched.location, self._private, base=url)
            except Refused as error:
                fetched.cause = error.cause
                break
            self.release(fetched)
        return fetched

    async def _ask(self, url: URL) -> Fetched:
        """One request."""
        started = time.monotonic()
        proxy = self._proxy(url)
        try:
            session = self._direct if proxy is None else self._proxied
            async with session.get(url, proxy=proxy, allow_redirects=False) as response:
                fetched = await self._answer(response)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            cause, again = _cause(error, self._params.in_flight)
            fetched = Fetched(None, cause, again=again)
        fetched.seconds = time.monotonic() - started
        return fetched

    async def _answer(self, response: aiohttp.ClientResponse) -> Fetched:
        status, headers = response.status, response.headers
        if status in REDIRECTS:
            location = headers.get("Location")
            return Fetched(status, "redirects", location=location) if location else Fetched(status, f"http_{status}")
        if not 200 <= status < 300:
            return Fetched(
                status, f"http_{status}", again=status in AGAIN, retry_after=_seconds(headers.get("Retry-After"))
            )
        if self._params.honour_robots_tag and forbidden(headers.getall("X-Robots-Tag", []), self._params.user_agent):
            return Fetched(status, "robots_tag")
        if (response.content_length or 0) > self._max_bytes:
            return Fetched(status, "too_large")
        body = bytearray()
        try:
            async for block in response.content.iter_any():
                body += block
                if len(body) > self._max_bytes:
                    return Fetched(status, "too_large")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            cause, again = _cause(error, self._params.in_flight)
            return Fetched(status, cause, again=again)
        return _unpacked(status, bytes(body), headers.getall("Content-Encoding", []), self._max_bytes)

    def _proxy(self, url: URL) -> str | None:
        if not self._proxies or proxy_bypass(url.host or ""):
            return None
        return self._proxies.get(url.scheme) or self._proxies.get("all")


def _unpacked(status: int, body: bytes, encodings: Sequence[str], limit: int) -> Fetched:
    """The body, unpacked where the server packed it although it was not asked to."""
    for encoding in reversed([name.strip().lower() for text in encodings for name in text.split(",")]):
        if encoding in ("", "identity"):
            continue
        if encoding not in ("gzip", "x-gzip", "deflate"):
            return Fetched(status, "encoding")
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            body = unpacker.decompress(body, limit + 1)
        except zlib.error:
            return Fetched(status, "encoding")
        if len(body) > limit:
            return Fetched(status, "too_large")
        if not unpacker.eof:
            return Fetched(status, "cut_off", again=True)
    return Fetched(status, OK, body) if body else Fetched(status, "empty")


def _cause(error: Exception, in_flight: int) -> tuple[str, bool]:
    """The cause that an error is called in status rows, and whether another try may help.

    Raises:
        JobFailed: this machine is at fault, not the address.
    """
    inner = getattr(error, "os_error", error)
    if isinstance(inner, Refused):
        return inner.cause, False
    if getattr(inner, "errno", None) in (errno.EMFILE, errno.ENFILE):
        raise JobFailed(
            f"too many open files: lower 'in_flight' ({in_flight}), or raise the limit (ulimit -n)"
        ) from error
    match error:
        case TimeoutError():
            return "timeout", False
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return "dns", getattr(inner, "errno", None) == socket.EAI_AGAIN
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return "proxy", True
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls", False
        case aiohttp.ClientConnectorError():
            return "connect", True
        case aiohttp.InvalidURL() | UnicodeError():
            return "unparseable", False
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | OSError():
            return "cut_off", True
    return "protocol", False


def _seconds(text: str | None) -> float | None:
    """A Retry-After, which is a number of seconds or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _tls() -> ssl.SSLContext:
    named = next((name for name in CERTIFICATES if os.environ.get(name)), None)
    if named is None:
        return ssl.create_default_context()
    path = os.environ[named]
    try:
        if os.path.isdir(path):
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the environment has {named}={path}, which holds no certificates: {error}") from error
