"""Whatever a valid genesis says, its text and its bytes say the same, and no other genesis has its id."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import digest
from bftkit.core.wire import WireError
from bftkit.crypto.keys import EpochKeys, SigningKey
from bftkit.membership.genesis import OVERHEAD, Genesis, Limits
from bftkit.membership.roster import Roster, RosterEntry

MEMBERS = 7
IDENTITIES = [SigningKey(digest(b"identity", bytes([i]))).public for i in range(MEMBERS)]
EPOCHS = [EpochKeys.generate([digest(b"epoch", bytes([i, e])) for e in range(5)]) for i in range(MEMBERS)]
PATHS = [[keys.path(epoch) for epoch in range(5)] for keys in EPOCHS]
ROOTS = [keys.root for keys in EPOCHS]
OTHERS = [SigningKey(digest(b"other", bytes([i]))).public for i in range(5)]

names = st.from_regex(r"[a-z0-9_.-]{1,32}", fullmatch=True)
hosts = st.one_of(
    st.from_regex(r"[a-z][a-z0-9]{0,10}(\.[a-z][a-z0-9]{0,5})?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"),
)


@st.composite
def rosters(draw: st.DrawFn, members: int, epoch: int) -> Roster:
    ids = draw(st.lists(names, min_size=members, max_size=members, unique=True))
    entries: list[RosterEntry] = []
    port = draw(st.integers(1, 60000))
    for index, member in enumerate(ids):
        addresses = [f"tcp://{draw(hosts)}:{port + 2 * index + k}" for k in range(draw(st.integers(1, 2)))]
        keys = EPOCHS[index]
        entries.append(
            RosterEntry(
                member,
                IDENTITIES[index],
                ROOTS[index],
                keys.count,
                keys.public(epoch),
                PATHS[index][epoch],
                tuple(addresses),
            )
        )
    return Roster(tuple(entries), epoch)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    operation = draw(st.integers(1, 1 << 22))
    bundle = operation + OVERHEAD + draw(st.integers(0, 1 << 20))
    batch = bundle + OVERHEAD + draw(st.integers(0, 1 << 20))
    return Limits(operation, bundle, batch, draw(st.integers(1, 1 << 20)), draw(st.integers(1, 1 << 20)))


@st.composite
def geneses(draw: st.DrawFn) -> Genesis:
    members = draw(st.integers(1, MEMBERS))
    f = draw(st.integers(0, (members - 1) // 3))
    c = draw(st.integers(0, (members - 1 - 3 * f) // 2))
    interval = draw(st.integers(1, 1 << 20))
    operators = draw(st.lists(st.sampled_from(OTHERS), min_size=1, unique=True))
    clients = draw(st.lists(st.sampled_from(OTHERS), unique=True))
    more: dict[str, Any] = {"client_policy": "listed", "clients": tuple(clients)} if clients else {}
    return Genesis(
        name=draw(names),
        protocol=draw(names),
        f=f,
        c=c,
        roster=draw(rosters(members, 0)),
        operators=tuple(operators),
        operator_threshold=draw(st.integers(1, len(operators))),
        service=draw(st.from_regex(r"[a-z_]{1,9}(\.[A-Za-z_]{1,9}){0,3}:[A-Za-z_]{1,9}", fullmatch=True)),
        nonce=draw(st.binary(min_size=16, max_size=16)),
        parameters=draw(
            st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), st.integers(0, (1 << 63) - 1))
        ),
        durability=draw(st.sampled_from(["fsync", "async", "memory"])),
        checkpoint_interval=interval,
        window=draw(st.integers(2 * interval, max(2 * interval, 1 << 24))),
        limits=draw(limits()),
        **more,
    )


@given(geneses())
@settings(max_examples=40, deadline=None)
def test_text_and_bytes_lead_back_to_the_same_genesis(genesis: Genesis) -> None:
    assert Genesis.from_text(genesis.to_text()) == genesis
    assert Genesis.decode(genesis.encode()) == genesis
    assert Genesis.from_text(genesis.to_text()).encode() == genesis.encode()


@given(geneses(), geneses())
@settings(max_examples=20, deadline=None)
def test_the_id_is_equal_exactly_for_equal_geneses(one: Genesis, other: Genesis) -> None:
    assert (one.group_id == other.group_id) == (one == other)


@given(geneses(), st.data())
@settings(max_examples=40, deadline=None)
def test_no_two_encodings_of_one_genesis_are_taken(genesis: Genesis, data: st.DataObject) -> None:
    """Flip any byte: the result is refused, or it is another group."""
    encoded = bytearray(genesis.encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        other = Genesis.decode(bytes(encoded))
    except WireError:
        return
    assert other.group_id != genesis.group_id
    assert other.encode() == bytes(encoded)


@given(st.integers(1, MEMBERS), st.integers(0, 4), st.data())
@settings(max_examples=20, deadline=None)
def test_a_roster_of_any_epoch_proves_its_keys(members: int, epoch: int, data: st.DataObject) -> None:
    """SAFETY rule 28: the key of another epoch is not taken for the one in use."""
    roster = data.draw(rosters(members, epoch))
    assert [roster.identity_of(entry.identity) for entry in roster.entries] == list(roster.ids)
    wrong = data.draw(st.integers(0, 4).filter(lambda other: other != epoch))
    with pytest.raises(ConfigurationError, match="does not prove"):
        Roster(roster.entries, wrong)
