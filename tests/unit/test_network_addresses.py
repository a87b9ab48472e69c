"""Addresses are read strictly, and written back as they were read."""

from __future__ import annotations

import pytest

from bftkit.network.addresses import Address, AddressError, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:7000", Address("tcp", "127.0.0.1", 7000)),
        ("127.0.0.1:7000", Address("tcp", "127.0.0.1", 7000)),
        ("member-1.example:0", Address("tcp", "member-1.example", 0)),
        ("udp://[::1]:65535", Address("udp", "::1", 65535)),
        ("[fe80::1]:1", Address("tcp", "fe80::1", 1)),
        ("memory://m0", Address("memory", "m0")),
    ],
)
def test_reads_and_writes(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "port is missing"),
        ("tcp://127.0.0.1", "port is missing"),
        ("127.0.0.1:", "port ''"),
        ("127.0.0.1:65536", "65536"),
        ("127.0.0.1:+1", "'+1'"),
        ("127.0.0.1:٣", "is not a number"),
        ("127.0.0.300:1", "neither a host name nor"),
        ("::1:7000", "brackets"),
        ("[::1:7000", "not closed"),
        ("[::1]", "port is missing"),
        ("[127.0.0.1]:1", "not an IPv6"),
        ("http://a:1", "unknown scheme 'http'"),
        ("a b:1", "neither a host name nor"),
        ("-a:1", "neither a host name nor"),
        (":1", "neither a host name nor"),
        ("memory://", "short name"),
        ("memory://a/b", "short name"),
    ],
)
def test_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert complaint in str(caught.value)
    assert repr(text) in str(caught.value)


def test_numeric() -> None:
    assert parse_address("[::1]:1").is_numeric
    assert parse_address("10.0.0.1:1").is_numeric
    assert not parse_address("localhost:1").is_numeric
