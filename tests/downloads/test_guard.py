from __future__ import annotations

import ipaddress

import pytest
from yarl import URL

from git_caption.downloads.guard import Refused, is_public, parse_url


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254",
        "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
        "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "2002:7f00:1::", "2002:a00:1::1",
        "2001:0:7f00:1::", "2001:4860::5efe:10.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_anyones(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2001:4860:4860::8888", "64:ff9b::8.8.8.8"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("ftp://example.org/a.jpg", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("example.org/a.jpg", "unparseable"),
        ("~://dstormer6em3i4km.onion.link/a.jpg", "unparseable"),
        ("http://dstormer6em3i4km.onion.link/a.jpg", "onion"),
        ("http://abc.ONION/a.jpg", "onion"),
        ("http://", "unparseable"),
        ("http:///a.jpg", "unparseable"),
        ("http://[::1/a.jpg", "unparseable"),
        ("http://a:99999/", "unparseable"),
        ("http://a..b/", "unparseable"),
        (f"http://{'a' * 70}.org/", "unparseable"),
        ("http://127.0.0.1/", "private_address"),
        ("http://[::1]/", "private_address"),
        ("http://[::ffff:10.0.0.1]/", "private_address"),
        ("http://127.1/", "unparseable"),
        ("http://2130706433/", "unparseable"),
        ("http://0x7f.0.0.1/", "unparseable"),
        ("http://localhost/", "private_address"),
        ("http://metadata.google.internal/", "private_address"),
        ("http://localhost./", "private_address"),
    ],
)
def test_addresses_that_are_refused_unasked(text: str, cause: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_url(text, ())
    assert refused.value.cause == cause


@pytest.mark.parametrize(
    "text",
    ["http://example.org/a b.jpg", "https://bücher.example/ä.jpg?x=1&y=%20", "http://8.8.8.8:8080/a", "HTTP://A.org"],
)
def test_addresses_as_lists_have_them(text: str) -> None:
    assert parse_url(text, ()).scheme in ("http", "https")


def test_a_redirect_may_be_relative() -> None:
    base = URL("https://example.org/a/b.jpg")
    assert str(parse_url("../c.jpg", (), base)) == "https://example.org/c.jpg"
    assert str(parse_url("//example.com/c.jpg", (), base)) == "https://example.com/c.jpg"


def test_networks_that_are_allowed_leave_the_others_refused() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("::1/128")]
    assert parse_url("http://10.1.2.3/", allowed).host == "10.1.2.3"
    assert parse_url("http://[::1]/", allowed).host == "::1"
    for text in ("http://10.2.0.1/", "http://127.0.0.1/", "http://[::2]/", "http://[::ffff:10.1.2.3]/"):
        with pytest.raises(Refused):
            parse_url(text, allowed)
