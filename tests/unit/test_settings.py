"""Settings and key files: what is read, which mistakes are refused, and that no secret shows."""

from __future__ import annotations

import re

import attrs
import pytest

from bftkit.configuration.keyfiles import KeyPair
from bftkit.configuration.settings import (
    ClientSettings,
    DnsSettings,
    HoldingLimits,
    LogSettings,
    MemberSettings,
    NameSettings,
)
from bftkit.configuration.text import ConfigurationError, Value, parse_toml, to_toml
from bftkit.core.digest import digest
from bftkit.membership.chain import TrustedPoint
from bftkit.network.addresses import Address

MEMBER = MemberSettings(id="m0", service="shop.orders:Orders", listen="tcp://127.0.0.1:7000")

MEMBER_TEXT = MEMBER.to_text()


def test_settings_survive_their_text() -> None:
    changed = MemberSettings(
        id="m-1",
        service="a:B",
        listen="tcp://[::1]:80",
        data="/var/lib/bftkit",
        durability="memory",
        log=LogSettings("debug"),
        limits=HoldingLimits(9, 1 << 23),
    )
    for settings in (MEMBER, changed):
        assert MemberSettings.from_text(settings.to_text()) == settings
    assert ClientSettings.from_text(ClientSettings(key="a b.key").to_text()) == ClientSettings(key="a b.key")


def test_three_lines_are_enough_for_a_member_and_none_for_a_client() -> None:
    text = 'id = "m0"\nservice = "shop.orders:Orders"\nlisten = "tcp://127.0.0.1:7000"\n'
    assert MemberSettings.from_text(text) == MEMBER
    assert ClientSettings.from_text("") == ClientSettings()


MISTAKES = [
    ("an unknown key", "listen = ", "listne = ", "listne: no such key; did you mean 'listen'?"),
    (
        "a missing key",
        'listen = "tcp://127.0.0.1:7000"\n',
        "",
        'listen: the key is missing; give the address to listen on, such as "tcp://127.0.0.1:7000"',
    ),
    (
        "an unknown key in a table",
        'level = "info"',
        'levle = "info"',
        "log.levle: no such key; did you mean 'level'?",
    ),
    (
        "a table for a text",
        'data = "data"',
        "data = {}",
        'data: {} is not a text in quotes, such as "m0"; give the path of the folder for log and snapshots',
    ),
    ("no id", '"m0"', '"m 0"', "id: 'm 0' is no id; give the member's id, such as m0"),
    (
        "no address",
        "tcp://127.0.0.1:7000",
        "127.0.0.1",
        "listen: '127.0.0.1' is not an address: the port is missing; "
        "give tcp://host:port, such as tcp://127.0.0.1:7000",
    ),
    (
        "an unknown durability",
        '"fsync"\n',
        '"disk"\n',
        "durability: 'disk' is not known; give one of fsync, async, memory",
    ),
    (
        "an unknown level",
        '"info"',
        '"loud"',
        "log.level: 'loud' is not known; give one of debug, info, warning, error",
    ),
    (
        "no service",
        '"shop.orders:Orders"',
        '"shop"',
        'service: \'shop\' does not name a service; give "package.module:Class", such as "shop.orders:Orders"',
    ),
    (
        "too few connections",
        "connections = 1024",
        "connections = 1",
        "limits.connections: 1 is out of range; give a number between 8 and 65536",
    ),
    (
        "an empty path",
        '"keys/epochs.key"',
        '""',
        "keys.epochs: '' is no path; give the path of a file, relative to this folder",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "message"), [mistake[1:] for mistake in MISTAKES], ids=[mistake[0] for mistake in MISTAKES]
)
def test_a_mistake_in_member_toml_is_told_by_where_what_and_what_would_be_right(
    old: str, new: str, message: str
) -> None:
    assert old in MEMBER_TEXT
    with pytest.raises(ConfigurationError) as caught:
        MemberSettings.from_text(MEMBER_TEXT.replace(old, new))
    assert str(caught.value) == message


def test_a_mistake_in_client_toml_is_told_too() -> None:
    with pytest.raises(ConfigurationError, match=r"^kye: no such key; did you mean 'key'\?$"):
        ClientSettings.from_text('kye = "client.key"')


# ------------------------------------------------------------------------------------------------- TOML


@pytest.mark.parametrize(
    "text", ["", 'say "hi"', "back\\slash", "tab\tline\nend\r", "\x00\x1b\x7f", "ü 日本 🙂", "\u2028"]
)
def test_every_text_survives_the_emitter(text: str) -> None:
    table: dict[str, Value] = {"value": text, "list": [text, "x"], text or "k": 1, "sub": {text or "k": text}}
    assert parse_toml(to_toml(table)) == table


def test_long_lists_and_lists_of_tables_survive_the_emitter() -> None:
    table: dict[str, Value] = {
        "keys": ["ab" * 32, "cd" * 32],
        "rows": [{"a": 1, "t": {"b": True}}, {"a": 2, "t": {"b": False}}],
    }
    assert parse_toml(to_toml(table)) == table


# ------------------------------------------------------------------------------------------------- key files


def seed(*words: object) -> bytes:
    return digest(*(f"{word} ".encode() for word in words))


def test_a_key_survives_its_file_and_signs_as_before() -> None:
    key = KeyPair.of("client", seed("client"))
    again = KeyPair.from_text(key.to_text(), "client")
    assert again == key
    assert again.signing_key.public == key.public


def test_a_key_of_another_kind_is_refused() -> None:
    """An operator's key in a member's place would sign in the operator's name."""
    text = KeyPair.of("operator", seed("operator")).to_text()
    with pytest.raises(ConfigurationError, match="a key of kind operator, not identity"):
        KeyPair.from_text(text, "identity")


def test_a_secret_that_does_not_belong_to_its_public_key_is_refused() -> None:
    ours, other = KeyPair.of("client", seed(1)), KeyPair.of("client", seed(2))
    with pytest.raises(ConfigurationError, match="not the public key of the secret"):
        KeyPair.from_text(ours.to_text().replace(ours.public.hex(), other.public.hex()), "client")


SECRET = seed("secret")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("secret = ", "secret == "),
        ('secret = "', 'secret = "ff'),
        ('secret = "', 'secret = "zz'),
        ('secret = "', 'secret = 5\nhint = "'),
        ("secret = ", "secret = [\n"),
        (f'"{SECRET.hex()}"', f'["{SECRET.hex()}"]'),
        ('"\n', "\n"),
        ("public = ", "publik = "),
        ('"client"', '"nothing"'),
    ],
)
def test_no_error_text_shows_a_secret(old: str, new: str) -> None:
    """SAFETY rule 20."""
    key = KeyPair.of("client", SECRET)
    text = key.to_text().replace(old, new)
    assert text != key.to_text()
    with pytest.raises(ConfigurationError) as caught:
        KeyPair.from_text(text, "client")
    assert SECRET.hex()[:8] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_repr_shows_a_secret() -> None:
    """SAFETY rule 20."""
    key = KeyPair.of("client", SECRET)
    assert SECRET.hex()[:8] not in repr(key)
    assert repr(SECRET) not in repr(key)


# ------------------------------------------------------------------------------------------------- name services


@pytest.mark.parametrize(
    "names",
    [
        NameSettings(file="names.toml"),
        NameSettings(dns=DnsSettings("shop.example", "127.0.0.1:53")),
        NameSettings(file="/etc/names", dns=DnsSettings("shop.example.", "[::1]:5353")),
    ],
)
def test_name_services_survive_their_text(names: NameSettings) -> None:
    member = attrs.evolve(MEMBER, names=names)
    assert MemberSettings.from_text(member.to_text()) == member
    client = ClientSettings(names=names)
    assert ClientSettings.from_text(client.to_text()) == client


def test_settings_without_name_services_do_not_mention_them() -> None:
    assert "names" not in MEMBER_TEXT
    assert MemberSettings.from_text(MEMBER_TEXT).names is None


def test_a_resolver_is_an_address() -> None:
    assert DnsSettings("a.b", "127.0.0.1:53").resolver_address == Address("udp", "127.0.0.1", 53)
    assert DnsSettings("a.b", "udp://[::1]:53").resolver_address == Address("udp", "::1", 53)


NAMES_MISTAKES = [
    ("[names]", "names: the table names no service; give file, or a table names.dns, or neither"),
    ('[names]\nfiel = "a"', "names.fiel: no such key; did you mean 'file'?"),
    ('[names]\nfile = ""', "names.file: '' is no path; give the path of a file, relative to this folder"),
    ('[names.dns]\ndomain = "a.b"', "names.dns.resolver: the key is missing; give the resolver's IP address and port"),
    (
        '[names.dns]\ndomain = "a..b"\nresolver = "127.0.0.1:53"',
        "names.dns.domain: 'a..b' is no domain; give one such as shop.example",
    ),
    (
        '[names.dns]\ndomain = "10.0.0.1"\nresolver = "127.0.0.1:53"',
        "names.dns.domain: '10.0.0.1' is no domain; give one such as shop.example",
    ),
    (
        f'[names.dns]\ndomain = "{"a." * 101}b"\nresolver = "127.0.0.1:53"',
        "is no domain; give one such as shop.example",
    ),
    (
        '[names.dns]\ndomain = "a.b"\nresolver = "localhost:53"',
        "names.dns.resolver: 'localhost:53' is no IP address with a port; give IP:port, such as 127.0.0.1:53",
    ),
    (
        '[names.dns]\ndomain = "a.b"\nresolver = "127.0.0.1"',
        "the port is missing; give IP:port, such as 127.0.0.1:53",
    ),
    (
        '[names.dns]\ndomain = "a.b"\nresolver = "tcp://127.0.0.1:53"',
        "names.dns.resolver: 'tcp://127.0.0.1:53' is no IP address with a port; give IP:port, such as 127.0.0.1:53",
    ),
]


@pytest.mark.parametrize(("text", "told"), NAMES_MISTAKES)
def test_a_mistake_in_the_name_services_is_told(text: str, told: str) -> None:
    head = 'id = "m0"\nservice = "shop.orders:Orders"\nlisten = "tcp://127.0.0.1:7000"\n'
    with pytest.raises(ConfigurationError) as error:
        MemberSettings.from_text(head + text)
    assert told in str(error.value)
    with pytest.raises(ConfigurationError):
        ClientSettings.from_text(text)


def test_a_hand_over_that_is_trusted_is_named_by_its_epoch_and_digest() -> None:
    settings = ClientSettings(trusted_epoch=7, trusted_digest="ab" * 32)
    assert ClientSettings.from_text(settings.to_text()) == settings
    assert settings.trusted == TrustedPoint(7, b"\xab" * 32)
    assert ClientSettings().trusted is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trusted_epoch = 7", "trusted_digest: it is missing; give trusted_epoch and trusted_digest, or neither"),
        (f'trusted_digest = "{"ab" * 32}"', "trusted_epoch: it is missing"),
        (f'trusted_epoch = 0\ntrusted_digest = "{"ab" * 32}"', "trusted_epoch"),
        ('trusted_epoch = 7\ntrusted_digest = "ab"', "is not a hand-over's digest; give 32 bytes"),
        (f'trusted_epoch = 7\ntrusted_digest = "{"xy" * 32}"', "is not a hand-over's digest"),
    ],
)
def test_a_mistake_in_what_is_trusted_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        ClientSettings.from_text(text)
