"""Name services without I/O: what an address book takes and refuses, the order of trust, the formats."""

from __future__ import annotations

import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import attrs
import pytest

from bftkit.cli.client import proposed
from bftkit.configuration.settings import ClientSettings, DnsSettings
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import digest
from bftkit.crypto.keys import EpochKeys, SigningKey
from bftkit.membership.names import (
    PROPOSALS_MAX,
    REFUSALS_MAX,
    TEXT_MAX,
    TTL_CAP_SECONDS,
    TTL_FLOOR_SECONDS,
    AddressBook,
    Naming,
    Proposal,
    ServiceRecord,
    living,
    parse_naming,
    proposal_of,
    service_order,
)
from bftkit.membership.roster import ADDRESSES_MAX, RosterEntry

FILE, ZONE = "names.file", "names.dns"


def key(who: str) -> bytes:
    return SigningKey(digest(who.encode())).public


def entry(member: str, *addresses: str) -> RosterEntry:
    epochs = EpochKeys.generate([digest(b"epoch", member.encode())])
    return RosterEntry(
        id=member,
        identity=key(member),
        epoch_root=epochs.root,
        epoch_count=1,
        epoch_key=epochs.public(0),
        epoch_path=epochs.path(0),
        addresses=addresses or (f"tcp://10.0.0.{member[1:]}:7000",),
    )


ENTRIES = tuple(entry(f"m{number}") for number in range(1, 4))


@pytest.fixture
def book() -> AddressBook:
    return AddressBook(ENTRIES, [FILE, ZONE], me="m1", group="shop")


def shown(book: AddressBook, member: str) -> list[str]:
    return [str(address) for address in book.addresses(member)]


# ------------------------------------------------------------------------------------------------- addresses


def test_the_rosters_addresses_come_first_then_the_sources_in_their_order(book: AddressBook) -> None:
    book.learn(ZONE, Naming({"m2": ("tcp://10.3.0.2:1", "tcp://10.0.0.2:7000")}))
    book.learn(FILE, Naming({"m2": ("10.2.0.2:1", "tcp://10.3.0.2:1", "tcp://10.2.0.2:1")}))
    assert shown(book, "m2") == ["tcp://10.0.0.2:7000", "tcp://10.2.0.2:1", "tcp://10.3.0.2:1"]
    assert shown(book, "m3") == ["tcp://10.0.0.3:7000"]


def test_a_change_is_told_once_and_only_if_it_is_one(book: AddressBook) -> None:
    assert book.changes() == {}
    book.learn(FILE, Naming({"m2": ("tcp://10.2.0.2:1",), "m3": ("tcp://10.0.0.3:7000",)}))
    changed = book.changes()
    assert changed == {"m2": book.addresses("m2")}, "what the roster says already is no change"
    assert book.changes() == {}
    book.learn(ZONE, Naming({"m2": ("tcp://10.2.0.2:1",)}))
    assert book.changes() == {}
    book.learn(FILE, Naming())
    assert book.changes() == {}, "the other source says so still"
    book.learn(ZONE, Naming())
    assert {member: list(map(str, to)) for member, to in book.changes().items()} == {"m2": ["tcp://10.0.0.2:7000"]}


def test_one_file_serves_all_members(book: AddressBook) -> None:
    """What it says of ourselves is neither used nor refused."""
    assert book.learn(FILE, Naming({"m1": ("nonsense",)})) == ()
    assert book.changes() == {}
    assert book.addresses("m1") == ()


def test_a_name_service_makes_nobody_a_member(book: AddressBook) -> None:
    """SAFETY rule 27."""
    told = book.learn(FILE, Naming({"m9": ("tcp://10.2.0.9:1",)}, (Proposal("m8", key("m8").hex(), ("h:1",)),)))
    assert told == ("'m9' is no member of this group; a name service cannot make it one",)
    assert book.changes() == {}
    assert sorted(book.all_addresses()) == ["m2", "m3"]
    assert book.addresses("m8") == book.addresses("m9") == ()
    assert [candidate.id for candidate in book.candidates()] == ["m8"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "the port is missing"),
        ("tcp://10.0.0.2", "the port is missing"),
        ("tcp://10.0.0.2:0", "has port 0, which nobody can dial"),
        ("tcp://10.0.0.2:65536", "port 65536 is not between 0 and 65535"),
        ("http://10.0.0.2:1", "unknown scheme 'http'"),
        ("memory://m2", "cannot be dialled here"),
        ("udp://10.0.0.2:1", "cannot be dialled here"),
        ("tcp://0.0.0.0:1", "is nobody's address"),
        ("tcp://[::]:1", "is nobody's address"),
        ("tcp://224.0.0.1:1", "is nobody's address"),
        ("tcp://a b:1", "is neither a host name nor an IP address"),
    ],
)
def test_a_bad_address_is_refused_alone_and_with_its_reason(book: AddressBook, text: str, wrong: str) -> None:
    (told,) = book.learn(FILE, Naming({"m2": ("tcp://10.2.0.2:1", text, "tcp://10.2.0.2:2"), "m3": ("h:3",)}))
    assert told.startswith("m2: ")
    assert wrong in told
    assert shown(book, "m2")[1:] == ["tcp://10.2.0.2:1", "tcp://10.2.0.2:2"]
    assert shown(book, "m3")[1:] == ["tcp://h:3"]
    assert book.refused == {FILE: 1, ZONE: 0}


def test_no_source_takes_more_than_its_room_or_anothers(book: AddressBook) -> None:
    many = tuple(f"tcp://10.3.0.2:{port}" for port in range(1, ADDRESSES_MAX + 2))
    (told,) = book.learn(FILE, Naming({"m2": many}))
    assert told == f"m2: {len(many)} addresses are too many; those after the first {ADDRESSES_MAX} are ignored"
    book.learn(ZONE, Naming({"m2": ("tcp://10.4.0.2:1",)}))
    found = shown(book, "m2")
    assert len(found) == 1 + ADDRESSES_MAX + 1
    assert found[0] == "tcp://10.0.0.2:7000"
    assert found[-1] == "tcp://10.4.0.2:1"


def test_refusals_are_told_once_and_bounded(book: AddressBook) -> None:
    strangers = {f"x{number}": ("h:1",) for number in range(3 * REFUSALS_MAX)}
    told = book.learn(FILE, Naming(strangers))
    assert len(told) == REFUSALS_MAX + 1
    assert told[-1] == f"{2 * REFUSALS_MAX} more entries were refused"
    assert book.learn(FILE, Naming(strangers)) == ()
    assert book.refused[FILE] == 6 * REFUSALS_MAX
    (news,) = book.learn(FILE, Naming({"x1": ("h:1",), "m2": ("h",)}))
    assert news.startswith("m2: 'h' is not an address")
    assert book.refusals(FILE)[1].startswith("'x1' is no member")


def test_what_is_about_another_group_changes_nothing(book: AddressBook) -> None:
    assert book.learn(FILE, Naming({"m2": ("h:1",)}, group="shop")) == ()
    (told,) = book.learn(FILE, Naming({"m2": ("h:2",)}, group="bank"))
    assert told == "this is about the group 'bank', and we are in 'shop'"
    assert shown(book, "m2")[1:] == ["tcp://h:1"]


def test_an_unknown_source_is_the_callers_mistake(book: AddressBook) -> None:
    with pytest.raises(ValueError, match="knows no source"):
        book.learn("names.fax", Naming())
    with pytest.raises(ValueError, match="twice"):
        AddressBook(ENTRIES, [FILE, FILE])


def test_a_changed_roster_is_followed(book: AddressBook) -> None:
    """Who has joined by an ordered command is found where the sources said all the time; who has left is forgotten."""
    book.learn(FILE, Naming({"m4": ("h:4",), "m3": ("h:3",)}, (Proposal("m4", key("m4").hex()),)))
    assert len(book.candidates()) == 1
    book.follow((ENTRIES[0], ENTRIES[1], entry("m4")))
    assert shown(book, "m4") == ["tcp://10.0.0.4:7000", "tcp://h:4"]
    assert book.addresses("m3") == ()
    assert sorted(book.changes()) == ["m4"]
    assert book.candidates() == (), "m4 is a member now"
    book.follow((*ENTRIES, entry("m4", "tcp://10.9.9.9:1")))
    assert shown(book, "m4") == ["tcp://10.9.9.9:1", "tcp://h:4"]


def test_what_cannot_be_dialled_here_is_left_out_of_the_roster_too() -> None:
    book = AddressBook([entry("m2", "udp://10.0.0.2:1", "tcp://10.0.0.2:2", "memory://m2")], [FILE])
    assert shown(book, "m2") == ["tcp://10.0.0.2:2"]


# ------------------------------------------------------------------------------------------------- proposals

GOOD = Proposal("m8", key("m8").hex(), ("tcp://10.0.0.8:1",), "hall 2")


def test_a_good_proposal_is_shown(book: AddressBook) -> None:
    assert book.learn(ZONE, Naming(proposals=(GOOD,))) == ()
    status = book.status()
    assert status["proposals"] == [
        {
            "id": "m8",
            "identity": key("m8").hex(),
            "addresses": ["tcp://10.0.0.8:1"],
            "note": "hall 2",
            "source": ZONE,
        }
    ]


@pytest.mark.parametrize(
    ("proposal", "wrong"),
    [
        (attrs.evolve(GOOD, id="m2"), "m2 is a member, and no name service changes its key"),
        (attrs.evolve(GOOD, id="m1"), "m1 is a member, and no name service changes its key"),
        (attrs.evolve(GOOD, identity=key("m3").hex()), "this is the key of m3"),
        (attrs.evolve(GOOD, id="M 8"), "this is no id"),
        (attrs.evolve(GOOD, identity="00"), "no Ed25519 public key"),
        (attrs.evolve(GOOD, identity="x" * 64), "no Ed25519 public key"),
        (attrs.evolve(GOOD, identity="00" * 32), "no Ed25519 public key"),
        (attrs.evolve(GOOD, identity=" " * 64), "no Ed25519 public key"),
    ],
)
def test_a_bad_proposal_is_refused(book: AddressBook, proposal: Proposal, wrong: str) -> None:
    """SAFETY rule 27: above all, no name service changes a member's key."""
    (told,) = book.learn(ZONE, Naming(proposals=(proposal,)))
    assert wrong in told
    assert book.candidates() == ()


def test_proposals_are_bounded_in_number_and_length(book: AddressBook) -> None:
    many = tuple(Proposal(f"p{number}", key(f"p{number}").hex()) for number in range(PROPOSALS_MAX + 1))
    (told,) = book.learn(ZONE, Naming(proposals=many))
    assert told == f"{PROPOSALS_MAX + 1} proposals are too many; {PROPOSALS_MAX} are looked at"
    assert len(book.candidates()) == PROPOSALS_MAX
    long = attrs.evolve(GOOD, note="\x1b[2J" + "y" * 1000)
    (told,) = book.learn(ZONE, Naming(proposals=(long, GOOD)))
    assert "it is made twice" in told
    assert book.candidates()[0].note == "[2J" + "y" * (TEXT_MAX - 4)


def test_operators_see_who_is_proposed_and_by_whom_though_members_may_lie(book: AddressBook) -> None:
    book.learn(ZONE, Naming(proposals=(GOOD,)))
    status = {"names": book.status()}
    lies: list[object] = [3, {"id": 3}, {"id": "\x1b[2Jm9", "identity": "k" * 1000, "note": ""}]
    found = {"m2": status, "m1": status, "m3": {"names": {"proposals": lies * 1000}}, "m4": {"names": 3}, "m5": {}}
    assert proposed(found) == [
        f"proposed as a member: [2Jm9, identity {'k' * TEXT_MAX}, says m3",
        f"proposed as a member: m8, identity {key('m8').hex()} (hall 2), says m1, m2",
    ]


# ------------------------------------------------------------------------------------------------- the file


def test_a_file_is_read() -> None:
    text = f"""
        group = "shop"
        [members]
        m0 = ["tcp://10.0.0.5:7000", "h:1"]
        m1 = []
        [proposals.m4]
        identity = "{key("m4").hex()}"
        note = "hall 2"
    """
    assert parse_naming(text) == Naming(
        {"m0": ("tcp://10.0.0.5:7000", "h:1"), "m1": ()}, (Proposal("m4", key("m4").hex(), (), "hall 2"),), "shop"
    )
    assert parse_naming("") == Naming()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[member]", "member: no such key; did you mean 'members'?"),
        ("members = 3", "members: the value has the wrong shape; give a table such as m0 ="),
        ('[members]\nm0 = "h:1"', "members[m0]: 'h:1' is not a list of texts"),
        ("[proposals.m4]", "proposals[m4].identity: the key is missing; give the identity key that"),
        ('[proposals.m4]\nidentity = "00"\nkey = 1', "proposals[m4].key: no such key"),
        ("group = 1", "group: 1 is not a text"),
        ('[members]\nm0 = ["h:', "this is not TOML"),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_naming(text)
    assert wrong in str(error.value)


def test_the_examples_of_the_guide_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "addresses.md").read_text(encoding="utf-8")
    file, naming, zone = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    found = ClientSettings.from_text(file).names
    assert found is not None
    assert found.file == "../names.toml"
    assert sorted(parse_naming(naming).members) == ["m0", "m1"]
    found = ClientSettings.from_text(zone).names
    assert found is not None
    assert found.dns == DnsSettings("shop.example", "127.0.0.1:53")


# ------------------------------------------------------------------------------------------------- the DNS


def test_lower_priorities_come_first_and_the_order_stays() -> None:
    records = [ServiceRecord(priority, 5, port, f"h{port}.") for priority in (2, 0, 1) for port in (1, 2, 3)]
    order = service_order(records, b"salt")
    assert [record.priority for record in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert service_order(reversed(records), b"salt") == order
    assert len({tuple(service_order(records, bytes([salt]))) for salt in range(50)}) > 10


def test_within_a_priority_the_chances_are_those_of_rfc_2782() -> None:
    """Its algorithm: draw a record with a chance in proportion to its weight; then again among the rest."""
    weights = {1: 10, 2: 30, 3: 60}
    runs = 6000
    seen: Counter[tuple[int, ...]] = Counter()
    for run in range(runs):
        records = [ServiceRecord(0, weight, port, "h.") for port, weight in weights.items()]
        seen[tuple(record.port for record in service_order(records, run.to_bytes(4, "big")))] += 1
    for order in permutations(weights):
        expected, left = 1.0, 100
        for port in order:
            expected *= weights[port] / left
            left -= weights[port]
        # Salts are fixed, so this is no gamble; four standard deviations would be a surprise for any set of salts.
        assert abs(seen[order] - runs * expected) < 4 * (runs * expected * (1 - expected)) ** 0.5, order


def test_weight_zero_has_a_very_small_chance() -> None:
    records = [ServiceRecord(0, 0, 1, "h."), ServiceRecord(0, 1, 2, "h.")]
    first = Counter(service_order(records, run.to_bytes(4, "big"))[0].port for run in range(6000))
    assert 0 < first[1] < 20


def test_a_proposal_in_a_txt_record() -> None:
    words = [b"id=m4", b"address=h:1", b"identity=ab", b"address=h:2", b"note=a=b", b"id=m5", b"colour=red", b"flag"]
    assert proposal_of(words) == Proposal("m4", "ab", ("h:1", "h:2"), "a=b")
    assert proposal_of([b"v=spf1 -all"]) is None
    assert proposal_of([b"id=\xff"]) == Proposal("\ufffd", "")


def test_a_time_to_live_has_a_floor_and_a_cap() -> None:
    assert living(0) == TTL_FLOOR_SECONDS
    assert living(30) == 30
    assert living(1 << 31) == TTL_CAP_SECONDS
