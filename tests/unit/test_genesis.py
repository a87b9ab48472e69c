"""The genesis: what founds a group, which mistakes are refused, and what is said about them."""

from __future__ import annotations

import attrs
import pytest
from nacl.signing import SigningKey

from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import digest
from bftkit.core.ordering import Parameter, ProtocolRecord
from bftkit.core.wire import WireError
from bftkit.crypto.keys import EpochKeys
from bftkit.membership.genesis import Genesis, Limits
from bftkit.membership.roster import Roster, RosterEntry


def seed(*words: object) -> bytes:
    return digest(*(f"{word} ".encode() for word in words))


def public(*words: object) -> bytes:
    return bytes(SigningKey(seed(*words)).verify_key)


def entry(index: int) -> RosterEntry:
    keys = EpochKeys.generate(tuple(seed("epoch", index, epoch) for epoch in range(4)))
    return RosterEntry(
        id=f"m{index}",
        identity=public("identity", index),
        epoch_root=keys.root,
        epoch_count=4,
        epoch_key=keys.public(0),
        epoch_path=tuple(keys.path(0)),
        addresses=(f"tcp://127.0.0.1:{7000 + index}",),
    )


ENTRIES = tuple(entry(index) for index in range(4))

GENESIS = Genesis(
    name="shop",
    protocol="pbft",
    f=1,
    c=0,
    roster=Roster(ENTRIES),
    operators=(public("operator"),),
    operator_threshold=1,
    service="shop.orders:Orders",
    nonce=bytes(range(16)),
    parameters={"timeout_ticks": 500, "batch_bytes": 4096},
)

TEXT = GENESIS.to_text()


def test_the_text_and_the_bytes_lead_back_to_the_same_genesis() -> None:
    assert Genesis.from_text(TEXT) == GENESIS
    assert Genesis.decode(GENESIS.encode()) == GENESIS
    assert Genesis.from_text(TEXT).group_id == Genesis.decode(GENESIS.encode()).group_id == GENESIS.group_id


def test_the_text_says_the_group_id_so_that_two_people_can_compare_it() -> None:
    assert f"# Group id: {GENESIS.group_id.hex()}\n" in TEXT


def test_comments_spaces_and_the_order_of_tables_do_not_change_the_group() -> None:
    head, members = TEXT.split("\n# The members", 1)
    tables = head[head.index("# Settings of the protocol") :]
    plain = head[: head.index("# Settings of the protocol")]
    moved = plain + "\n# The members" + members + "\n\n# a remark\n" + tables
    assert moved != TEXT
    assert Genesis.from_text(moved).group_id == GENESIS.group_id


def test_the_group_id_is_the_digest_of_the_encoding_under_its_purpose() -> None:
    """SAFETY rule 2: what is hashed says what it is for."""
    assert GENESIS.group_id == digest(b"bftkit genesis" + GENESIS.encode())


def test_two_groups_with_equal_settings_have_different_ids() -> None:
    assert attrs.evolve(GENESIS, nonce=bytes(16)).group_id != GENESIS.group_id


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "shop2"},
        {"protocol": "coordinator"},
        {"f": 0, "c": 1},
        {"operators": (public("another"),)},
        {"service": "shop.orders:Other"},
        {"client_policy": "listed", "clients": (public("client"),)},
        {"parameters": {"timeout_ticks": 501, "batch_bytes": 4096}},
        {"durability": "memory"},
        {"checkpoint_interval": 64},
        {"window": 257},
        {"limits": Limits(sessions_max=17)},
        {"roster": Roster((*ENTRIES[1:], ENTRIES[0]))},
    ],
    ids=str,
)
def test_every_setting_counts_for_the_group_id(changes: dict[str, object]) -> None:
    changed = attrs.evolve(GENESIS, **changes)  # type: ignore[arg-type]
    assert changed.group_id != GENESIS.group_id
    assert Genesis.from_text(changed.to_text()) == changed
    assert Genesis.decode(changed.encode()) == changed


def test_the_order_in_which_parameters_were_given_does_not_count() -> None:
    other = attrs.evolve(GENESIS, parameters={"batch_bytes": 4096, "timeout_ticks": 500})
    assert other.group_id == GENESIS.group_id


def test_what_is_left_out_of_the_text_has_its_default() -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith(("window", "durability", "checkpoint_"))]
    start = lines.index("[limits]")
    del lines[start : lines.index("[clients]") - 1]
    assert Genesis.from_text("\n".join(lines)) == GENESIS


def test_the_window_defaults_to_two_checkpoint_intervals() -> None:
    """SAFETY rule 18."""
    text = TEXT.replace("checkpoint_interval = 128\nwindow = 256", "checkpoint_interval = 50")
    assert Genesis.from_text(text).window == 100


def test_the_quorum_is_that_of_the_rosters_size() -> None:
    assert (GENESIS.quorum.n, GENESIS.quorum.certificate, GENESIS.quorum.weak) == (4, 3, 2)


def test_a_roster_finds_members_by_id_and_by_identity() -> None:
    roster = GENESIS.roster
    assert roster.ids == ("m0", "m1", "m2", "m3")
    assert roster.entry("m2") is ENTRIES[2]
    assert roster.identity_of(ENTRIES[3].identity) == "m3"
    assert roster.identity_of(ENTRIES[3].epoch_key) is None
    with pytest.raises(KeyError):
        roster.entry("m4")


# ------------------------------------------------------------------------------------------------- mistakes

MISTAKES = [
    (
        "an unknown key",
        "protocol = ",
        "protocl = ",
        "protocl: no such key; did you mean 'protocol'?",
    ),
    (
        "a missing key",
        "byzantine = 1\n",
        "",
        "byzantine: the key is missing; give how many members may be Byzantine, as a whole number",
    ),
    (
        "a missing key in a table",
        'id = "m1"\n',
        "",
        'members[1].id: the key is missing; give a text in quotes, such as "m0"',
    ),
    (
        "an unknown key in a table",
        'id = "m1"\n',
        'id = "m1"\nport = 7001\n',
        "members[1].port: no such key; known here: id, identity, epoch_root, epoch_count, epoch_key, epoch_path, "
        "addresses",
    ),
    (
        "a text for a number",
        "byzantine = 1",
        'byzantine = "1"',
        "byzantine: '1' is not a whole number; give how many members may be Byzantine, as a whole number",
    ),
    (
        "a truth value for a number",
        "crash = 0",
        "crash = false",
        "crash: False is not a whole number; give how many more members may crash, as a whole number",
    ),
    (
        "a fraction",
        "window = 256",
        "window = 256.5",
        "window: 256.5 is not a whole number; give a whole number",
    ),
    (
        "a number for a text",
        'name = "shop"',
        "name = 7",
        'name: 7 is not a text in quotes, such as "m0"; give a text in quotes, such as "m0"',
    ),
    (
        "too many faults for the members",
        "byzantine = 1",
        "byzantine = 2",
        "byzantine, crash: 2 Byzantine and 0 crash faults need 7 members; there are 4 (n >= 3f + 2c + 1); "
        "add members, or lower them to byzantine = 1, crash = 0",
    ),
    (
        "too many crashes for the members",
        "crash = 0",
        "crash = 1",
        "byzantine, crash: 1 Byzantine and 1 crash faults need 6 members; there are 4 (n >= 3f + 2c + 1); "
        "add members, or lower them to byzantine = 1, crash = 0",
    ),
    (
        "a negative number of faults",
        "crash = 0",
        "crash = -1",
        "crash: -1 is out of range; give a number between 0 and 1024",
    ),
    (
        "two members of one id",
        'id = "m1"',
        'id = "m0"',
        "members: two members have the id 'm0'; give every member its own id",
    ),
    (
        "no id at all",
        'id = "m1"',
        'id = "M 1"',
        "members[1].id: 'M 1' is no id; give 1 to 32 of the characters a-z, 0-9, _ - and .",
    ),
    (
        "two members with one identity",
        ENTRIES[1].identity.hex(),
        ENTRIES[0].identity.hex(),
        "members: m1 has the identity of m0; give every member its own identity",
    ),
    (
        "a key that is too short",
        ENTRIES[1].identity.hex(),
        ENTRIES[1].identity.hex()[:-2],
        f"members[1].identity: '{ENTRIES[1].identity.hex()[:56]}... is not an identity key; "
        "give 32 bytes as 64 hexadecimal digits",
    ),
    (
        "a key that is no key",
        ENTRIES[1].identity.hex(),
        "00" * 32,
        "members[1].identity: 0000000000000000... is not an identity: no Ed25519 public key; "
        "copy the public key that `bftkit keygen` printed",
    ),
    (
        "an epoch key without proof",
        ENTRIES[1].epoch_key.hex(),
        public("stranger").hex(),
        "members[1].epoch_key: epoch_path does not prove that this is the key of m1 in epoch 0 under its epoch_root; "
        "copy epoch_root, epoch_count, epoch_key and epoch_path together, as `bftkit keygen` printed them",
    ),
    (
        "another member's commitment",
        ENTRIES[1].epoch_root.hex(),
        ENTRIES[2].epoch_root.hex(),
        "members[1].epoch_key: epoch_path does not prove that this is the key of m1 in epoch 0 under its epoch_root; "
        "copy epoch_root, epoch_count, epoch_key and epoch_path together, as `bftkit keygen` printed them",
    ),
    (
        "an address without a port",
        'addresses = ["tcp://127.0.0.1:7001"]',
        'addresses = ["127.0.0.1"]',
        "members[1].addresses[0]: '127.0.0.1' is not an address: the port is missing; "
        "give tcp://host:port, such as tcp://127.0.0.1:7000",
    ),
    (
        "an address that nobody can dial",
        'addresses = ["tcp://127.0.0.1:7001"]',
        'addresses = ["tcp://127.0.0.1:0"]',
        "members[1].addresses[0]: 'tcp://127.0.0.1:0' has port 0, which nobody can dial; give a port of 1 to 65535",
    ),
    (
        "an address that is no list",
        'addresses = ["tcp://127.0.0.1:7001"]',
        'addresses = "tcp://127.0.0.1:7001"',
        "members[1].addresses: 'tcp://127.0.0.1:7001' is not a list of texts; "
        'give a list of addresses, such as ["tcp://127.0.0.1:7000"]',
    ),
    (
        "no address",
        'addresses = ["tcp://127.0.0.1:7001"]',
        "addresses = []",
        "members[1].addresses: the list is empty; give at least one, as tcp://host:port",
    ),
    (
        "two members at one address",
        "127.0.0.1:7001",
        "127.0.0.1:7000",
        "members: m1 has the address of m0; give every member its own addresses",
    ),
    (
        "a window that is too narrow",
        "window = 256",
        "window = 255",
        "window: 255 slots are not between two checkpoint intervals (128 each) and 16777216; give 256 or a little more",
    ),
    (
        "no checkpoints",
        "checkpoint_interval = 128",
        "checkpoint_interval = 0",
        "checkpoint_interval: 0 is out of range; give a number between 1 and 1048576",
    ),
    (
        "no service's name",
        '"shop.orders:Orders"',
        '"shop.orders"',
        'service: \'shop.orders\' does not name a service; give "package.module:Class", such as "shop.orders:Orders"',
    ),
    (
        "an unknown durability",
        '"fsync"',
        '"safe"',
        "durability: 'safe' is not known; give one of fsync, async, memory",
    ),
    (
        "an unknown policy",
        'policy = "open"',
        'policy = "closed"',
        "clients.policy: 'closed' is not known; give one of open, listed",
    ),
    (
        "a list that nobody is on",
        'policy = "open"',
        'policy = "listed"',
        "clients: the policy is listed, and no key is listed: nobody could use the group; list a public key",
    ),
    (
        "a list that means nothing",
        'policy = "open"\nkeys = []',
        f'policy = "open"\nkeys = ["{public("client").hex()}"]',
        "clients: the policy is open, so the 1 listed keys would mean nothing; "
        'give policy = "listed", or remove the keys',
    ),
    (
        "more operators needed than there are",
        "threshold = 1",
        "threshold = 2",
        "operators.threshold: 2 of 1 operators can never sign; give a number between 1 and 1",
    ),
    (
        "no operator",
        public("operator").hex(),
        '", "',
        "operators.keys[0]: '' is not a public key; give 32 bytes as 64 hexadecimal digits",
    ),
    (
        "a member as operator",
        public("operator").hex(),
        ENTRIES[3].identity.hex(),
        "operators.keys[0]: this is the identity of member m3; give operators keys of their own",
    ),
    (
        "a batch that no bundle fits into",
        "batch_bytes_max = 4194304",
        "batch_bytes_max = 2097152",
        "limits.batch_bytes_max: 2097152 bytes are too few for bundle_bytes_max = 2097152; give at least 2098176",
    ),
    (
        "a batch that no frame can carry",
        "batch_bytes_max = 4194304",
        "batch_bytes_max = 16777216",
        "limits.batch_bytes_max: 16777216 is out of range; give a number between 1 and 15728640",
    ),
    (
        "a nonce that is too short",
        bytes(range(16)).hex(),
        bytes(range(15)).hex(),
        "nonce: '000102030405060708090a0b0c0d0e' is not a nonce; give 16 bytes as 32 hexadecimal digits",
    ),
    (
        "a parameter that is no number",
        "timeout_ticks = 500",
        'timeout_ticks = "500"',
        "parameters[timeout_ticks]: '500' is not a whole number; give a whole number",
    ),
    (
        "not TOML",
        'name = "shop"',
        "name = shop",
        "this is not TOML: Invalid value (at line 5, column 8); mend that line; texts stand in quotes",
    ),
    (
        "a list for a table",
        "[limits]",
        "[[limits]]",
        "limits: the value has the wrong shape; give a table of keys",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "message"), [mistake[1:] for mistake in MISTAKES], ids=[mistake[0] for mistake in MISTAKES]
)
def test_a_mistake_is_told_by_where_what_and_what_would_be_right(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) >= 1
    with pytest.raises(ConfigurationError) as caught:
        Genesis.from_text(TEXT.replace(old, new, 1))
    assert str(caught.value).removeprefix(": ") == message


def test_members_written_as_one_table_are_refused() -> None:
    first = TEXT.index("[[members]]")
    second = TEXT.index("[[members]]", first + 1)
    with pytest.raises(ConfigurationError, match="members"):
        Genesis.from_text(TEXT[:second].replace("[[members]]", "[members]"))


def test_bytes_that_describe_no_valid_group_are_refused_as_wire_errors() -> None:
    """A genesis from a peer is a peer's input: its mistakes are `WireError`, like any others."""
    with pytest.raises(WireError):
        Genesis.decode(GENESIS.encode()[:-1])
    swapped = GENESIS.encode().replace(ENTRIES[1].epoch_key, public("stranger"))
    with pytest.raises(WireError, match="does not prove"):
        Genesis.decode(swapped)


def test_parameters_out_of_order_on_the_wire_are_a_second_encoding_and_refused() -> None:
    data = GENESIS.encode()
    first, second = b"\xabbatch_bytes\xcd\x10\x00", b"\xadtimeout_ticks\xcd\x01\xf4"
    assert first + b"\x92" + second in data
    with pytest.raises(WireError, match="parameter"):
        Genesis.decode(data.replace(first + b"\x92" + second, second + b"\x92" + first))


RECORD = ProtocolRecord(
    name="pbft",
    title="",
    paper="",
    byzantine=True,
    timing="partial",
    steps=3,
    messages="",
    survives=frozenset(),
    when="",
    parameters={
        "timeout_ticks": Parameter(500, 10, 1000, ""),
        "batch_bytes": Parameter(1024, 1, 1 << 20, ""),
    },
)


def test_a_protocol_is_asked_whether_it_can_run_the_group() -> None:
    GENESIS.check_protocol(RECORD)
    with pytest.raises(ConfigurationError, match=r"byzantine: the protocol pbft survives crashes only"):
        GENESIS.check_protocol(attrs.evolve(RECORD, byzantine=False))
    with pytest.raises(ConfigurationError, match=r"parameters\.timeout_ticks: 500 is out of range; .* 501 and 1000"):
        GENESIS.check_protocol(
            attrs.evolve(
                RECORD,
                parameters={"timeout_ticks": Parameter(501, 501, 1000, "")}
                | {"batch_bytes": Parameter(1024, 1, 1 << 20, "")},
            )
        )
    with pytest.raises(ConfigurationError, match=r"parameters\.batch_bytes: pbft has no such parameter; known here: t"):
        GENESIS.check_protocol(attrs.evolve(RECORD, parameters={"timeout_ticks": Parameter(500, 10, 1000, "")}))
