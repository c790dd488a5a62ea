"""What servers do to us: each trouble ends in its cause, whatever else goes on."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from git_caption.downloads import fetch, guard
from git_caption.downloads.fetch import Fetched, Fetcher
from git_caption.params.download import NetworkParams
from tests.downloads.lists import UNDECODED, causes_of, run, status_of, write_list
from tests.downloads.server import Server
from tests.pictures import jpeg


def fetched(urls: list[str], max_bytes: int = 1_000_000, **params: object) -> list[Fetched]:
    """What addresses give, asked side by side."""
    network = NetworkParams(**{"allow_private": True, "backoff": 0.05, **params})

    async def ask() -> list[Fetched]:
        async with Fetcher(network, max_bytes) as fetcher:

            async def one(url: str) -> Fetched:
                result = await fetcher.fetch(url)
                fetcher.release(result)
                return result

            return await asyncio.gather(*map(one, urls))

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "status", "cause"),
    [
        ("ok/10", 200, "ok"),
        ("text", 200, "ok"),  # it is the bytes that count
        ("gzip", 200, "ok"),
        ("first/500", 200, "ok"),
        ("first/429/0", 200, "ok"),
        ("to?/ok/10", 200, "ok"),
        ("status/404", 404, "http_404"),
        ("status/403", 403, "http_403"),
        ("status/503", 503, "http_503"),
        ("loop/0", 302, "redirects"),
        ("to?gopher://example.org/", 302, "scheme"),
        ("to?http://abc.onion/a.jpg", 302, "onion"),
        ("to?http://[bad", 302, "unparseable"),
        ("endless", 200, "too_large"),
        ("endless/announced", 200, "too_large"),
        ("bomb", 200, "too_large"),
        ("empty", 200, "empty"),
        ("cut", 200, "cut_off"),
        ("reset", None, "cut_off"),
        ("rubbish", None, "protocol"),
        ("robots/noai", 200, "robots_tag"),
        ("robots/all,%20noindex", 200, "robots_tag"),
        ("robots/otherbot:%20noindex,%20nofollow", 200, "ok"),
    ],
)
def test_each_trouble_has_its_cause(server: Server, path: str, status: int | None, cause: str) -> None:
    (found,) = fetched([server.url(path)])
    assert (found.status, found.cause) == (status, cause)
    assert bool(found.body) == (cause == "ok")


def test_what_comes_is_what_stands_there(server: Server) -> None:
    assert [found.body for found in fetched([server.url("ok/70"), server.url("gzip")])] == [jpeg(70), jpeg(100)]


@pytest.mark.parametrize("path", ["trickle", "silent"])
def test_what_takes_too_long_is_given_up_after_its_time(server: Server, path: str) -> None:
    started = time.monotonic()
    (found,) = fetched([server.url(path)], total_timeout=0.4)
    assert found.cause == "timeout"
    assert time.monotonic() - started < 2


def test_a_closed_port_and_a_name_that_is_none(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = fetched([f"http://127.0.0.1:{port}/a.jpg", "http://no-such-host.invalid/a.jpg"], retries=0)
    assert [(one.status, one.cause) for one in found] == [(None, "connect"), (None, "dns")]


def test_plain_http_on_a_port_of_https(server: Server) -> None:
    (found,) = fetched([server.url("ok/1").replace("http:", "https:")], retries=0)
    assert found.cause == "tls"


def test_retry_after_is_waited_for_by_the_whole_host(server: Server) -> None:
    found = fetched([server.url("first/429/1"), *(server.url(f"ok/{n}") for n in range(20))], per_host=1)
    assert {one.cause for one in found} == {"ok"}
    first, second = server.times["first/429/1"]
    assert second - first >= 1
    assert min(server.times["ok/0"]) - first >= 1  # asked later, and held back too


def test_a_retry_after_of_too_long_is_not_waited_for(server: Server) -> None:
    (found,) = fetched([server.url("first/429/1000")], max_wait=1.0)
    assert (found.status, found.cause, server.asked["first/429/1000"]) == (429, "http_429", 1)


def test_what_stays_wrong_is_tried_as_often_as_told_with_growing_waits(server: Server) -> None:
    fetched([server.url("status/500"), server.url("status/404")], retries=3, backoff=0.1)
    assert server.asked == {"status/500": 4, "status/404": 1}
    gaps = [after - before for before, after in itertools.pairwise(server.times["status/500"])]
    assert [gap >= least for gap, least in zip(gaps, (0.05, 0.1, 0.2), strict=True)] == [True] * 3


def test_a_host_is_asked_by_so_many_at_a_time(server: Server) -> None:
    fetched([server.url(f"late/30/{n}") for n in range(12)], per_host=3)
    assert server.most_running == 3


def test_requests_in_flight_are_bounded_over_all_hosts(server: Server) -> None:
    urls = [server.url(f"late/30/{n}") for n in range(12)]
    fetched([url.replace("127.0.0.1", f"127.0.0.{1 + n % 3}") for n, url in enumerate(urls)], in_flight=2, retries=0)
    assert server.most_running <= 2


def test_the_server_is_told_who_asks_and_nothing_of_other_tools(server: Server) -> None:
    fetched([server.url("ok/1")], user_agent="mybot/1 (me@example.org)")
    headers = server.headers_of["ok/1"]
    assert headers["User-Agent"] == "mybot/1 (me@example.org)"
    assert headers["Accept-Encoding"] == "identity"


def test_a_robots_tag_for_us_counts_and_can_be_overruled(server: Server) -> None:
    url = server.url("robots/mybot:%20noai")
    assert [one.cause for one in fetched([url], user_agent="mybot/1")] == ["robots_tag"]
    assert [one.cause for one in fetched([url], user_agent="mybot/1", honour_robots_tag=False)] == ["ok"]


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/a", "http://169.254.169.254/latest", "http://[::1]/a", "http://localhost.internal/a"]
)
def test_a_redirect_to_a_private_address_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.168.0.1", 80))]
    monkeypatch.setattr(guard.socket, "getaddrinfo", lambda *_: answer)
    found = fetched([server.url("ok/1"), server.url(f"to?{target}")], allow_private=("127.0.0.1",))
    assert [one.cause for one in found] == ["ok", "private_address"]


def test_the_address_checked_is_the_address_called(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that may be asked when it is looked at, and is private from then on."""
    answers = iter(["127.0.0.1"])

    def look_up(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (next(answers, "10.0.0.1"), port))]

    monkeypatch.setattr(guard.socket, "getaddrinfo", look_up)
    urls = [f"http://images.example.org:{server.server_address[1]}/ok/{number}" for number in (1, 2)]
    assert [one.cause for one in fetched(urls[:1], allow_private=("127.0.0.0/8",))] == ["ok"]
    assert server.headers_of["ok/1"]["Host"] == urls[0].split("/")[2]
    assert [one.cause for one in fetched(urls[1:], allow_private=("127.0.0.0/8",))] == ["private_address"]
    assert server.asked["ok/2"] == 0


@pytest.fixture
def secure(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server by TLS, with a certificate for images.example.org that this process trusts, which is its name."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    both = tmp_path / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=images.example.org", "-addext", "subjectAltName=DNS:images.example.org", "-days", "2"]
    subprocess.run(
        [*command, "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True
    )
    both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    port = server.server_address[1]
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
    monkeypatch.setattr(guard.socket, "getaddrinfo", lambda *_: answer)
    return server


def test_a_certificate_is_held_against_the_name_though_an_address_is_called(secure: Server) -> None:
    port = secure.server_address[1]
    urls = [f"https://{name}.example.org:{port}/ok/1" for name in ("images", "others")]
    assert [one.cause for one in fetched(urls)] == ["ok", "tls"]
    assert secure.headers_of["ok/1"]["Host"] == f"images.example.org:{port}"


def test_a_proxy_of_the_environment_is_asked_instead(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.root)
    monkeypatch.setenv("no_proxy", "")
    found = fetched(["http://images.example.org/ok/5", "http://10.0.0.1/ok/6"], allow_private=False, retries=0)
    assert found[1].cause == "private_address"
    assert any("images.example.org" in path for path in server.asked)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("0", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), (None, None)]
)
def test_retry_after_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    assert fetch._seconds(text) == seconds


def test_a_run_over_them_has_a_status_row_for_each(server: Server, tmp_path: Path) -> None:
    paths = ["ok/10", "html", "half", "status/404", "ok/10", "text"]
    folder = run(write_list(tmp_path, [server.url(path) for path in paths] + [""]))
    assert causes_of(folder) == ["ok", "not_an_image", "damaged", "http_404", "ok", "ok", "bad_row"]
    first, *_ = rows = status_of(folder)
    assert [row["key"] for row in rows] == [f"{number:08d}" for number in range(7)]
    assert {name: first[name] for name in ("bytes", "sha256", "width", "height", "status")} == {
        "bytes": len(jpeg(10)),
        "sha256": hashlib.sha256(jpeg(10)).hexdigest(),
        "width": 10,
        "height": 8,
        "status": 200,
    }
    assert {path.name: path.read_bytes() for path in (folder / "list").iterdir()} == {
        "00000000.jpg": jpeg(10),
        "00000004.jpg": jpeg(10),
        "00000005.jpg": jpeg(100),
    }
    assert server.asked["ok/10"] == 1
    assert not (folder / "list.download").exists()


def test_without_allow_private_nothing_local_is_asked(server: Server, tmp_path: Path) -> None:
    urls = [server.url("ok/1"), server.url("ok/1").replace("127.0.0.1", "localhost")]
    assert run(write_list(tmp_path, urls), *UNDECODED, "--allow_private", "False")
    assert causes_of(tmp_path / "list") == ["private_address"] * 2
    assert not server.asked
