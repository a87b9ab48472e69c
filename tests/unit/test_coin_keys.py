"""The coin key of a group: dealt when it is founded, public in its genesis, each share in its member's folder alone."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.channel.interface import ReplicaSettings
from bftkit.cli import main
from bftkit.cli.app import ExitCode
from bftkit.client.local import local_group_sync
from bftkit.configuration.keyfiles import CoinShare, KeyPair
from bftkit.configuration.text import ConfigurationError
from bftkit.core.ordering import Plugin, ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.core.wire import WireError
from bftkit.crypto.keys import EpochKeys, SigningKey
from bftkit.crypto.threshold import GROUP_ORDER, CoinPublics, Coins, deal, public_point
from bftkit.membership.founding import deal_coin, default_faults
from bftkit.membership.genesis import Genesis, genesis_table
from bftkit.membership.roster import Roster, RosterEntry
from bftkit.node.assembly import assemble, genesis_settings
from bftkit.node.folders import read_coin_share, read_genesis, read_member
from bftkit.service.keyvalue import KeyValueStore

RECORD = load_protocol("pbft").record
COINS = attrs.evolve(RECORD, coins=True, crash_as_lie=True)
"""A protocol that tosses coins and for which a crash costs as much as a lie."""
SECRET = bytes(range(32))
EPOCHS = [EpochKeys.generate([bytes([index + 1]) * 32]) for index in range(7)]


def entry(index: int) -> RosterEntry:
    keys = EPOCHS[index]
    identity = SigningKey(bytes([index + 101]) * 32).public
    address = f"tcp://127.0.0.1:{7000 + index}"
    return RosterEntry(f"m{index}", identity, keys.root, 1, keys.public(0), keys.path(0), (address,))


def group_of(n: int = 4, f: int = 1, c: int = 0, coin: CoinPublics | None = None) -> Genesis:
    return Genesis(
        name="shop",
        protocol="pbft",
        f=f,
        c=c,
        roster=Roster(tuple(entry(index) for index in range(n))),
        operators=(SigningKey(b"o" * 32).public,),
        operator_threshold=1,
        service="shop.orders:Orders",
        nonce=bytes(16),
        coin=coin,
    )


def key_of(n: int = 4, threshold: int = 3) -> CoinPublics:
    return CoinPublics(threshold, tuple(deal([f"m{index}" for index in range(n)], threshold, SECRET)[0].values()))


# ------------------------------------------------------------------------------------------------- genesis


def test_a_genesis_without_a_coin_key_is_what_it_was_before_there_were_any() -> None:
    """This id and these bytes were written down before; no group's id may change with the program."""
    genesis = group_of()
    assert "coin" not in genesis.to_text()
    assert genesis.encode()[:1] == b"\x01"
    assert Genesis.decode(genesis.encode()) == genesis == Genesis.from_text(genesis.to_text())
    assert genesis.group_id.hex() == OLD_ID


OLD_ID = "cd210490ada523cf3818d1f545c27dbd2b7f337ab652a956ee969e2e51abc409"


def test_a_coin_key_goes_with_the_genesis_and_counts_for_the_groups_id() -> None:
    genesis = group_of(coin=key_of())
    assert Genesis.from_text(genesis.to_text()) == genesis
    assert Genesis.decode(genesis.encode()) == genesis
    assert Genesis.from_text(genesis.to_text()).group_id == genesis.group_id
    other = CoinPublics(3, tuple(deal([f"m{index}" for index in range(4)], 3, bytes(32))[0].values()))
    ids = {group_of().group_id, genesis.group_id, group_of(coin=other).group_id}
    assert len(ids) == 3
    table: Any = genesis_table(genesis)["coin"]
    assert (table["scheme"], table["threshold"], len(table["points"])) == ("cks-ed25519-1", 3, 4)


def test_no_two_encodings_of_one_genesis_with_a_coin_key_are_taken() -> None:
    data = group_of(coin=key_of()).encode()
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            found = Genesis.decode(changed)
        except WireError:
            continue
        assert found.encode() == changed
        assert found.group_id != group_of(coin=key_of()).group_id


POINTS = [point.hex() for point in key_of().points]
ZERO = "01" + "00" * 31

MISTAKES: list[tuple[str, Callable[[str], str], str]] = [
    (
        "another scheme",
        lambda text: text.replace("cks-ed25519-1", "cks-ed25519-9"),
        "coin.scheme: 'cks-ed25519-9' is not known; give 'cks-ed25519-1'",
    ),
    (
        "a threshold of t + 1",
        lambda text: text.replace("threshold = 3", "threshold = 2"),
        "coin: the points are not those of one polynomial of degree 1; restore the genesis from a copy",
    ),
    (
        "a threshold that nobody reaches",
        lambda text: text.replace("threshold = 3", "threshold = 5"),
        "coin: 5 shares of 4 can never make a coin; restore the genesis from a copy",
    ),
    (
        "a threshold below one",
        lambda text: text.replace("threshold = 3", "threshold = 0"),
        "coin: 0 shares of 4 can never make a coin; restore the genesis from a copy",
    ),
    (
        "a threshold that is no number",
        lambda text: text.replace("threshold = 3", 'threshold = "3"'),
        "coin.threshold: '3' is not a whole number; give how many shares make a coin, as a whole number",
    ),
    (
        "no threshold",
        lambda text: text.replace("threshold = 3\n", ""),
        "coin.threshold: the key is missing; give how many shares make a coin, as a whole number",
    ),
    (
        "a point of small order",
        lambda text: text.replace(POINTS[1], ZERO),
        "coin.points[1]: this is no point of the coin's group; restore the genesis from a copy",
    ),
    (
        "a point that is cut short",
        lambda text: text.replace(POINTS[2], POINTS[2][:-2]),
        f"coin.points[2]: '{POINTS[2][:56]}... is not a member's point of the coin key; give 32 bytes as 64 hex",
    ),
    (
        "two points exchanged",
        lambda text: text.replace(POINTS[1], "x").replace(POINTS[2], POINTS[1]).replace("x", POINTS[2], 1),
        "coin: the points are not those of one polynomial of degree 2; restore the genesis from a copy",
    ),
    (
        "a word too much",
        lambda text: text.replace("[coin]", "[coin]\nsecret = 1"),
        "coin.secret: no such key; known here: scheme, threshold, points",
    ),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_mistake_in_the_coin_key_is_told(change: Callable[[str], str], message: str) -> None:
    text = group_of(coin=key_of()).to_text()
    head, mark, tail = text.partition("[coin]")
    changed = head + change(mark + tail)
    assert changed != text
    with pytest.raises(ConfigurationError) as caught:
        Genesis.from_text(changed)
    assert str(caught.value).startswith(message)


def test_the_key_of_another_size_of_group_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"coin\.points: there are 7 points for 4 members"):
        group_of(coin=key_of(7, 5))
    for threshold in (1, 2, 4):
        with pytest.raises(
            ConfigurationError,
            match=rf"coin\.threshold: {threshold} shares would make a coin, and agreement needs coins of n - f - c = 3",
        ):
            group_of(coin=key_of(4, threshold))
    group_of(6, 1, 1, key_of(6, 4))


def test_a_protocol_that_tosses_coins_runs_no_group_without_a_key() -> None:
    group_of(coin=key_of()).check_protocol(COINS)
    group_of(coin=key_of()).check_protocol(RECORD)
    group_of().check_protocol(RECORD)
    with pytest.raises(
        ConfigurationError,
        match="coin: the protocol pbft tosses coins, and this group has no coin key; found the group with bftkit init",
    ):
        group_of().check_protocol(COINS)


def test_a_protocol_says_how_many_members_it_needs() -> None:
    """A group that satisfies rule 1 may still be too small for a protocol for which a crash is as bad as a lie."""
    group = group_of(6, 1, 1, key_of(6, 4))
    group.check_protocol(RECORD)
    with pytest.raises(ConfigurationError) as caught:
        group.check_protocol(COINS)
    assert str(caught.value) == (
        "byzantine, crash: 1 Byzantine and 1 crash faults need 7 members under pbft, for which a crash costs as much "
        "as a lie (n >= 3 (f + c) + 1); there are 6; add members, or lower them"
    )
    group_of(7, 1, 1, key_of(7, 5)).check_protocol(COINS)


# ------------------------------------------------------------------------------------------------- founding


@pytest.mark.parametrize(
    ("record", "n", "given", "expected"),
    [
        (COINS, 4, (None, None), (1, 0)),
        (COINS, 6, (None, 1), (0, 1)),
        (COINS, 7, (None, 1), (1, 1)),
        (COINS, 7, (None, None), (2, 0)),
        (COINS, 7, (1, None), (1, 0)),
        (COINS, 4, (None, 5), (0, 5)),
        (RECORD, 6, (None, 1), (1, 1)),
        (attrs.evolve(COINS, byzantine=False), 4, (None, None), (0, 1)),
        (attrs.evolve(COINS, byzantine=False), 5, (None, None), (0, 1)),
        (attrs.evolve(RECORD, byzantine=False), 5, (None, None), (0, 2)),
    ],
)
def test_faults_default_to_what_the_protocol_can_bear(
    record: ProtocolRecord, n: int, given: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    assert default_faults(record, n, *given) == expected


def test_a_key_is_dealt_where_coins_are_tossed_or_members_may_lie() -> None:
    members = ("m0", "m1", "m2", "m3")
    assert deal_coin(RECORD, members, 0, 1, SECRET) == (None, {})
    assert deal_coin(RECORD, members, 1, 0, SECRET)[0] == key_of(), "to leave a protocol that has stopped (rule 26)"
    assert deal_coin(COINS, members, 1, 1, SECRET) == (None, {}), "check_protocol will say why"
    assert deal_coin(COINS, members, -1, 0, SECRET) == (None, {})
    coin, shares = deal_coin(COINS, members, 1, 0, SECRET)
    assert coin is not None
    assert coin == key_of()
    assert tuple(map(public_point, shares.values())) == coin.points
    assert list(shares) == list(members)


# ------------------------------------------------------------------------------------------------- shares as files


def test_a_share_comes_back_from_its_text() -> None:
    share = CoinShare.of(7, deal(["m0"], 1, SECRET)[1]["m0"])
    assert CoinShare.from_text(share.to_text()) == share
    assert share.secret.hex() not in repr(share)
    assert repr(share.secret)[2:-1] not in repr(share)
    assert share.public == public_point(share.secret)


SHARE = CoinShare.of(0, deal(["m0", "m1"], 2, SECRET)[1]["m0"])
OTHER = CoinShare.of(0, deal(["m0", "m1"], 2, SECRET)[1]["m1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SHARE.to_text().replace(SHARE.public.hex(), OTHER.public.hex()), "public: this is not the public point"),
        (SHARE.to_text().replace(SHARE.secret.hex(), OTHER.secret.hex()), "public: this is not the public point"),
        (SHARE.to_text().replace(SHARE.secret.hex(), "00" * 32), "secret: this is not a share of a coin key"),
        (
            SHARE.to_text().replace(SHARE.secret.hex(), GROUP_ORDER.to_bytes(32, "little").hex()),
            "secret: this is not a share of a coin key",
        ),
        (SHARE.to_text().replace(SHARE.secret.hex(), SHARE.secret.hex()[:-1]), "secret: this is not a secret key"),
        (SHARE.to_text().replace("secret", "secrets"), "secret"),
        (SHARE.to_text().replace("epoch = 0", "epoch = -1"), "epoch: -1 is no epoch"),
        (SHARE.to_text().replace('"coin"', '"identity"'), "kind: the file holds a key of kind identity, not coin"),
        (SHARE.to_text().replace('"coin"', '"other"'), "kind: the file holds a key of kind unknown, not coin"),
        (SHARE.to_text().replace('kind = "coin"\n', ""), "kind: "),
        (SHARE.to_text().replace('"coin"', "7"), "kind: "),
        (KeyPair.of("operator", SECRET).to_text(), "kind: the file holds a key of kind operator, not coin"),
        ("not a file of keys", ": this is not a key file"),
    ],
)
def test_a_share_that_is_none_is_refused_without_showing_it(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CoinShare.from_text(text)
    assert str(caught.value).startswith(message)
    assert SHARE.secret.hex()[:16] not in str(caught.value)


def test_a_share_is_taken_for_no_other_key() -> None:
    with pytest.raises(ConfigurationError, match="kind: the file holds a key of kind coin, not identity"):
        KeyPair.from_text(SHARE.to_text(), "identity")


# ------------------------------------------------------------------------------------------------- folders


def with_coins(name: str) -> Plugin:
    plugin = load_protocol(name)
    return attrs.evolve(plugin, record=attrs.evolve(plugin.record, coins=True, crash_as_lie=True))


@pytest.fixture
def tossing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All protocols toss coins."""
    local = ("bftkit.client.local_founding", "bftkit.client.local_commands")
    for module in ("bftkit.cli.init", "bftkit.cli.config", "bftkit.node.assembly", *local):
        monkeypatch.setattr(f"{module}.load_protocol", with_coins)

    def named(name: str) -> ProtocolRecord:
        return with_coins(name).record

    monkeypatch.setattr("bftkit.cli.init.protocol_named", named)


@pytest.fixture
def founded(tmp_path: Path, capsys: pytest.CaptureFixture[str], tossing: None) -> Path:
    assert main(["init", str(tmp_path / "shop")]) == 0, capsys.readouterr().err
    capsys.readouterr()
    return tmp_path / "shop"


def test_init_deals_a_coin_key(founded: Path) -> None:
    genesis = read_genesis(founded / "genesis.toml")
    assert genesis.coin is not None
    assert genesis.coin.threshold == genesis.quorum.available == 3
    secrets: set[str] = set()
    for index, member in enumerate(genesis.roster.ids):
        path = founded / member / "keys" / "coin.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        share = read_coin_share(path)
        assert (share.epoch, share.public) == (0, genesis.coin.points[index])
        assert read_member(founded / member).coin == share
        secrets.add(share.secret.hex())
    assert len(secrets) == 4
    # SAFETY rule 20: a share stands in its own member's file and nowhere else.
    for path in sorted(path for path in founded.rglob("*") if path.is_file()):
        content = path.read_bytes()
        found = [secret for secret in secrets if secret.encode() in content or bytes.fromhex(secret) in content]
        assert len(found) == (path.name == "coin.key"), path


def test_two_groups_have_two_keys(tmp_path: Path, founded: Path) -> None:
    assert main(["init", str(tmp_path / "two")]) == 0
    one, two = read_genesis(founded / "genesis.toml").coin, read_genesis(tmp_path / "two" / "genesis.toml").coin
    assert one is not None
    assert two is not None
    assert not set(one.points) & set(two.points)


def test_init_without_coins_writes_no_share(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "shop"), "--protocol", "paxos", "--members", "3"]) == 0
    assert read_genesis(tmp_path / "shop" / "genesis.toml").coin is None
    assert not list((tmp_path / "shop").rglob("coin.key"))
    assert read_member(tmp_path / "shop" / "m0").coin is None


@pytest.mark.usefixtures("tossing")
def test_init_says_how_many_members_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--members", "6", "--byzantine", "1", "--crash", "1"]
    assert main(["init", str(tmp_path / "shop"), *arguments]) == ExitCode.USAGE
    assert "1 Byzantine and 1 crash faults need 7 members under pbft" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_node_tosses_with_its_own_share(founded: Path) -> None:
    """The parts that the members' folders give make one coin, and it is bound to the group (SAFETY rule 2)."""
    settings: list[ReplicaSettings] = []
    for member in ("m0", "m1", "m2", "m3"):
        folder = read_member(founded / member)
        assert folder.coin is not None
        settings.append(genesis_settings(folder.genesis, member, folder.epochs.signing_key(0), folder.coin.secret))
    parts = [each.coins for each in settings if each.coins is not None]
    assert len(parts) == 4
    shares = {f"m{index}": part.share(b"coin") for index, part in enumerate(parts)}
    assert all(part.verify(member, b"coin", share) for part in parts for member, share in shares.items())
    assert len({part.combine(b"coin", shares) for part in parts}) == 1
    with pytest.raises(ValueError, match="2 shares make no coin; 3 do"):
        parts[0].combine(b"coin", {member: shares[member] for member in ("m0", "m1")})
    node = assemble(read_member(founded / "m0")).node
    try:
        coins = node.replica.settings.coins
        assert isinstance(coins, Coins)
        group = read_genesis(founded / "genesis.toml").group_id
        assert (coins.group, coins.epoch, coins.opening) == (group, 0, group)
        assert coins.share(b"coin") == shares["m0"]
    finally:
        for opened in (node.hub, node.log, node.snapshots):
            opened.close()


def test_a_share_is_wanted_where_the_genesis_has_a_key() -> None:
    genesis = group_of(coin=key_of())
    with pytest.raises(ConfigurationError, match=r"keys\.coin: m0 has no share of the coin key"):
        genesis_settings(genesis, "m0", EPOCHS[0].signing_key(0))
    assert genesis_settings(group_of(), "m0", EPOCHS[0].signing_key(0)).coins is None


def _epoch_one(folder: Path) -> None:
    path = folder / "keys" / "coin.key"
    path.write_text(path.read_text().replace("epoch = 0", "epoch = 1"))


def _stranger(folder: Path) -> None:
    path = folder / "keys" / "coin.key"
    path.write_text(SHARE.to_text())


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    (
        "another member's share",
        lambda folder: shutil.copy(folder.parent / "m2/keys/coin.key", folder / "keys/coin.key"),
        "m1/keys/coin.key: this is the coin share of member m2, not of m1; put the coin share of m1 there",
    ),
    ("another group's share", _stranger, "m1/keys/coin.key: this is the coin share of nobody in this group, not of m1"),
    ("another epoch's share", _epoch_one, "m1/keys/coin.key: this share is for epoch 1, not for epoch 0"),
    ("no share", lambda folder: (folder / "keys/coin.key").unlink(), "m1/keys/coin.key: there is no such file"),
    (
        "a share that others can read",
        lambda folder: (folder / "keys/coin.key").chmod(0o644),
        "m1/keys/coin.key: others than its owner can reach this secret (mode 0644)",
    ),
    (
        "the identity in its place",
        lambda folder: shutil.copy(folder / "keys/identity.key", folder / "keys/coin.key"),
        "m1/keys/coin.key: kind: the file holds a key of kind identity, not coin",
    ),
    (
        "the share in the identity's place",
        lambda folder: shutil.copy(folder / "keys/coin.key", folder / "keys/identity.key"),
        "m1/keys/identity.key: kind: the file holds a key of kind coin, not identity",
    ),
]


@pytest.mark.parametrize(("break_it", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_config_check_finds_what_is_wrong_with_a_share(
    founded: Path, capsys: pytest.CaptureFixture[str], break_it: Callable[[Path], object], message: str
) -> None:
    assert main(["config", "check", str(founded)]) == 0
    break_it(founded / "m1")
    capsys.readouterr()
    assert main(["config", "check", str(founded), "--json"]) == 3
    captured = capsys.readouterr()
    problems = [json.loads(line) for line in captured.out.splitlines() if '"problem"' in line]
    assert len(problems) == 1
    assert message in captured.err
    with pytest.raises(ConfigurationError):
        read_member(founded / "m1")


def test_config_show_shows_the_points_and_no_share(founded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = read_member(founded / "m0")
    assert folder.coin is not None
    assert main(["config", "show", str(founded)]) == 0
    shown = capsys.readouterr().out
    assert folder.coin.public.hex() in shown
    assert folder.coin.secret.hex() not in shown


@pytest.mark.usefixtures("tossing")
def test_a_local_group_has_coins() -> None:
    with local_group_sync(KeyValueStore) as local:
        parts = [local.group.node(member).replica.settings.coins for member in local.group.members]
        shares = {f"m{index}": part.share(b"coin") for index, part in enumerate(parts) if part is not None}
        first = parts[0]
        assert first is not None
        assert first.threshold == 3
        assert all(first.verify(member, b"coin", share) for member, share in shares.items())
        assert len(first.combine(b"coin", shares)) == 32
    with local_group_sync(KeyValueStore, members=7) as local:
        part = local.group.node("m0").replica.settings.coins
        assert part is not None
        assert part.threshold == 5
