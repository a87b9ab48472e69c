"""A member's keychain and its vault: what it signs with in which epoch, why it cannot take part, and what is erased."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.channel.interface import ReplicaSettings
from bftkit.channel.spectator import Spectator
from bftkit.configuration.keyfiles import CoinShare, KeyPair
from bftkit.configuration.policy import Mode, Policy
from bftkit.configuration.settings import MemberSettings
from bftkit.configuration.text import ConfigurationError
from bftkit.core.ordering import Setup
from bftkit.crypto.keys import Ed25519Keyring, EpochKeys, SigningKey
from bftkit.crypto.threshold import CoinPublics, Coins, deal
from bftkit.membership.card import MemberCard
from bftkit.membership.chain import Place
from bftkit.membership.commands import PLANNED, Change, Command
from bftkit.membership.epochs import Configuration, extended, following
from bftkit.membership.genesis import Genesis
from bftkit.membership.roster import Roster
from bftkit.node.assembly import genesis_settings
from bftkit.node.folders import MemberFolder, read_epoch_keys
from bftkit.node.keychain import MemberKeychain
from bftkit.node.recovery import newest_link
from bftkit.node.vault import FolderVault, MemoryVault
from bftkit.storage.files import DiskFull, StorageFailed

MEMBERS = ("m0", "m1", "m2", "m3")
COUNT = 8
OPERATOR = SigningKey(b"O" * 32)


def epochs_of(member: str, count: int = COUNT) -> EpochKeys:
    """The keys of this member, the same each time."""
    return EpochKeys.generate([f"{member}/{epoch}".encode().ljust(32, b".") for epoch in range(count)])


def identity_of(member: str) -> KeyPair:
    """Its identity."""
    return KeyPair.of("identity", member.encode().ljust(32, b"i"))


def card_of(member: str) -> MemberCard:
    """What the others know of it."""
    epochs = epochs_of(member)
    return MemberCard(member, identity_of(member).public, epochs.root, (f"memory://{member}",), epochs.publics)


POINTS, SHARES = deal(MEMBERS, 3, b"D" * 32)
COIN = CoinPublics(3, tuple(POINTS.values()))


def genesis_of(protocol: str = "pbft", *, coin: CoinPublics | None = COIN) -> Genesis:
    """Four members that allow for one liar."""
    return Genesis(
        name="shop",
        protocol=protocol,
        f=1,
        c=0,
        roster=Roster(tuple(card_of(member).entry for member in MEMBERS)),
        operators=(OPERATOR.public,),
        operator_threshold=1,
        service="a:B",
        nonce=bytes(16),
        coin=coin,
        schedule={member: epochs_of(member).publics for member in MEMBERS},
    )


GENESIS = genesis_of()
GROUP = GENESIS.group_id
FIRST = Configuration.first(GENESIS)


def changed(**fields: Any) -> Change:
    """A change of the first configuration."""
    return attrs.evolve(FIRST.change(), **fields)


def next_by(change: Change, coin: CoinPublics | None = None) -> Configuration:
    """The configuration of epoch 1 by this change."""
    command = Command(GROUP, 0, PLANNED, 0, False, change, bytes(16))
    assert GENESIS.schedule is not None
    return attrs.evolve(following(FIRST, command, extended(GENESIS.schedule, command)), coin=coin)


def vault_of(member: str = "m0", coin: bytes | None = None) -> MemoryVault:
    """A vault in memory."""
    return MemoryVault(identity_of(member).public, epochs_of(member), coin)


def keychain_of(member: str = "m0", vault: MemoryVault | None = None) -> MemberKeychain:
    """The keychain of this member."""
    return MemberKeychain(GROUP, member, vault if vault is not None else vault_of(member, SHARES.get(member)))


def base_of(keychain: MemberKeychain, member: str = "m0") -> ReplicaSettings:
    """The settings of epoch 0."""
    return genesis_settings(GENESIS, member, keychain.key(FIRST), SHARES.get(member), keychain)


# ------------------------------------------------------------------------------------------------- the keychain


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Policy("unheard-of", (Mode("pbft"),)), "no policy named 'unheard-of'"),
        (Policy("steady", (Mode("pbft"),), parameters={"patience": 0}), "policy.parameters.patience"),
    ],
)
def test_who_does_not_have_the_policy_stays_out_of_its_epochs(policy: Policy, text: str) -> None:
    keychain = keychain_of()
    with pytest.raises(ConfigurationError, match=text):
        keychain.enter(base_of(keychain), Place(next_by(changed(policy=policy), COIN), GROUP), None)
    founded = attrs.evolve(GENESIS, policy=policy)
    with pytest.raises(ConfigurationError, match=text):
        genesis_settings(founded, "m0", None, None, keychain)


def test_the_settings_of_an_epoch_are_made_of_its_configuration() -> None:
    keychain = keychain_of()
    base = base_of(keychain)
    assert base.place == Place(FIRST, GROUP)
    there = next_by(changed(protocol="paxos", parameters={"patience": 7}, f=0, c=1, checkpoint_interval=16, window=64))
    place = Place(there, b"p" * 32)
    settings = keychain.enter(base, place, None)
    assert (settings.epoch, settings.plugin.record.name, settings.parameters) == (1, "paxos", {"patience": 7})
    assert (settings.checkpoint_interval, settings.window, settings.quorum.certificate) == (16, 64, 3)
    assert settings.clock_key.public == epochs_of("m0").public(1) == there.roster.entry("m0").epoch_key
    assert settings.member_keys[settings.clock_key.public] == "m0"
    assert isinstance(settings.keyring, Ed25519Keyring)
    assert (settings.keyring.epoch, settings.keyring.opening) == (1, b"p" * 32)
    assert (settings.limits, settings.group, settings.place) == (base.limits, GROUP, place)


def test_signatures_of_one_epoch_count_in_no_other() -> None:
    keychain = keychain_of()
    base = base_of(keychain)
    there = next_by(changed(f=0, c=1, protocol="paxos"))
    signature = keychain.enter(base, Place(there, b"p" * 32), None).keyring.sign("vote", b"yes")
    other = keychain_of("m1")
    assert other.verifier(there, b"p" * 32).verify("m0", "vote", b"yes", signature)
    assert not other.verifier(there, b"q" * 32).verify("m0", "vote", b"yes", signature)
    assert not other.verifier(FIRST, GROUP).verify("m0", "vote", b"yes", signature)
    ready = keychain.preparing(there, b"n" * 32).sign("ready", b"n" * 32)
    assert other.preparing(there, b"n" * 32).verify("m0", "ready", b"n" * 32, ready)
    assert not other.preparing(there, b"o" * 32).verify("m0", "ready", b"n" * 32, ready)


def test_a_member_without_a_key_checks_and_never_signs() -> None:
    vault = vault_of(coin=SHARES["m0"])
    vault.forget(2, 2, None)
    vault.settle()
    keychain = keychain_of(vault=vault)
    assert keychain.key(FIRST) is None
    settings = genesis_settings(GENESIS, "m0", None, None, keychain)
    assert settings.coins is None
    with pytest.raises(AssertionError, match="no key in epoch 0"):
        settings.keyring.sign("vote", b"yes")
    with pytest.raises(AssertionError, match="signs nothing"):
        settings.clock_key.sign(b"now")
    vote = keychain_of("m1").enter(base_of(keychain_of("m1"), "m1"), Place(FIRST, GROUP), None).keyring.sign("a", b"b")
    assert settings.keyring.verify("m1", "a", b"b", vote)
    machine = settings.plugin.create(Setup("m0", MEMBERS, settings.quorum, settings.keyring))
    assert isinstance(machine, Spectator)


def test_why_a_member_cannot_take_part() -> None:
    keychain = keychain_of()
    assert keychain.why_not(FIRST) is None
    assert keychain.why_not(next_by(changed(protocol="cks"))) is None, "its coin key is made after this was asked"

    def reason(**fields: Any) -> str:
        return keychain.why_not(next_by(changed(**fields))) or ""

    assert "no protocol named 'raft'" in reason(protocol="raft")
    assert "survives crashes only" in reason(protocol="paxos")
    assert "no such parameter" in reason(parameters={"speed": 3})
    assert "parameters.patience: 0 is out of range" in reason(protocol="paxos", f=0, c=1, parameters={"patience": 0})
    # What concerns others is no reason of ours.
    assert keychain_of("m4", vault_of("m4")).why_not(FIRST) is None


def test_a_member_says_which_of_its_keys_are_missing() -> None:
    there = next_by(changed(f=0, c=1, protocol="paxos"))
    strange = MemoryVault(identity_of("m0").public, epochs_of("m9"))
    assert "are not in this member's folder" in str(keychain_of(vault=strange).why_not(there))
    strange = MemoryVault(identity_of("m9").public, epochs_of("m0"))
    assert "identity that the roster names for m0" in str(keychain_of(vault=strange).why_not(there))
    vault = vault_of()
    vault.forget(2, 2, None)
    vault.settle()
    assert "key of epoch 1 is erased; the first that is left is that of epoch 2" in str(
        keychain_of(vault=vault).why_not(there)
    )


def test_a_share_is_found_by_its_point_and_a_coin_protocol_needs_it() -> None:
    there = next_by(changed(protocol="cks"), COIN)
    place = Place(there, b"p" * 32)
    keychain = keychain_of()
    for share in (None, SHARES["m0"], SHARES["m1"]):
        coins = keychain.enter(base_of(keychain), place, share).coins
        assert isinstance(coins, Coins)
        assert (coins.epoch, coins.opening) == (1, b"p" * 32)
    without = keychain_of(vault=vault_of())
    with pytest.raises(ConfigurationError, match=r"keys\.coin: m0 has no share of the coin key of epoch 1"):
        without.enter(base_of(keychain), place, None)
    with pytest.raises(ConfigurationError, match="this group has no coin key"):
        keychain.enter(base_of(keychain), Place(attrs.evolve(there, coin=None), b"p" * 32), None)
    quiet = attrs.evolve(there, protocol="pbft", parameters={})
    assert without.enter(base_of(keychain), Place(quiet, b"p" * 32), None).coins is None


def test_without_the_annex_a_group_cannot_be_changed() -> None:
    bare = attrs.evolve(GENESIS, schedule=None)
    assert bare == GENESIS
    assert bare.group_id == GENESIS.group_id
    settings = genesis_settings(bare, "m0", epochs_of("m0").signing_key(0), SHARES["m0"], keychain_of())
    assert (settings.place, settings.keychain, settings.schedule) == (None, None, {})


def test_a_log_without_a_hand_over_is_in_epoch_0() -> None:
    assert newest_link([b"\x01vote", b"\x04own"]) is None


# ------------------------------------------------------------------------------------------------- the annex


def test_the_annex_survives_as_text_and_is_no_part_of_the_bytes() -> None:
    text = GENESIS.to_text()
    again = Genesis.from_text(text)
    assert again.schedule == GENESIS.schedule
    assert Genesis.decode(GENESIS.encode()).schedule is None
    assert Genesis.decode(GENESIS.encode()) == GENESIS


SPOILT: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text.replace("\nm3 = ", "\nm9 = "), r"epoch_keys\.m9: there is no such member"),
    (lambda text: text[: text.rindex("m3 = ")], r"epoch_keys\.m3: the member's keys are missing"),
    (lambda text: text.replace("\nm3 = ", '\nm3 = "?"\n#'), r"epoch_keys\.m3: '\?' is not base64"),
    (lambda text: text.replace("\nm3 = ", '\nm3 = "AAAA"\n#'), "3 bytes are no whole number of public keys"),
    (lambda text: text.replace("\nm3 = ", "\nm3 = 7\n#"), r"epoch_keys"),
    (
        lambda text: text.replace("\nm3 = ", "\nx = ").replace("\nm2 = ", "\nm3 = ").replace("\nx = ", "\nm2 = "),
        "not the keys that the epoch_root of m2 commits it to",
    ),
]


@pytest.mark.parametrize(("change", "reason"), SPOILT)
def test_an_annex_that_does_not_prove_itself_is_refused(change: Callable[[str], str], reason: str) -> None:
    text = GENESIS.to_text()
    spoilt = text[: text.index("[epoch_keys]")] + change(text[text.index("[epoch_keys]") :])
    assert spoilt != text
    with pytest.raises(ConfigurationError, match=reason):
        Genesis.from_text(spoilt)


# ------------------------------------------------------------------------------------------------- cards


def test_a_card_says_all_that_a_command_needs() -> None:
    card = attrs.evolve(card_of("m4"), group=GROUP)
    assert MemberCard.from_text(card.to_text()) == card
    change = changed(members=(*FIRST.seats(), card.seat()))
    there = next_by(change)
    assert there.roster.entry("m4").epoch_key == epochs_of("m4").public(1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("epoch_count = 8", "epoch_count = 7", "8 epoch keys, not 7"),
        ('epoch_keys = "', 'epoch_keys = "AAAA', "no whole number of public keys"),
        (card_of("m4").epoch_root.hex(), card_of("m3").epoch_root.hex(), "not the keys that the epoch_root of m4"),
        ('"memory://m4"', "", "give 1 to 16"),
        ("identity", "identify", "did you mean 'identity'"),
    ],
)
def test_a_card_that_was_spoilt_is_refused(old: str, new: str, reason: str) -> None:
    text = card_of("m4").to_text()
    assert old in text
    with pytest.raises(ConfigurationError, match=reason):
        MemberCard.from_text(text.replace(old, new, 1))


# ------------------------------------------------------------------------------------------------- the vault


@pytest.fixture
def folder(tmp_path: Path) -> MemberFolder:
    """A member's folder with its keys."""
    (tmp_path / "keys").mkdir()
    settings = MemberSettings(id="m0", service="a:B", listen="tcp://127.0.0.1:1")
    write(tmp_path / "keys" / "epochs.key", epochs_of("m0").to_bytes())
    coin = CoinShare.of(0, SHARES["m0"])
    write(tmp_path / "keys" / "coin.key", coin.to_text().encode())
    return MemberFolder(tmp_path, settings, GENESIS, identity_of("m0"), epochs_of("m0"), coin)


def write(path: Path, content: bytes) -> None:
    """A secret file."""
    path.write_bytes(content)
    path.chmod(0o600)


def opened_again(folder: MemberFolder) -> tuple[MemberFolder, FolderVault]:
    """The folder and its vault after a restart."""
    coin_path = folder.path / "keys" / "coin.key"
    coin = CoinShare.from_text(coin_path.read_text()) if coin_path.exists() else None
    again = attrs.evolve(folder, epochs=read_epoch_keys(folder.epochs_path), coin=coin)
    return again, FolderVault(again)


def everything(path: Path) -> bytes:
    """The bytes of all files."""
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def seed(epoch: int, member: str = "m0") -> bytes:
    """A secret."""
    return f"{member}/{epoch}".encode().ljust(32, b".")


def test_old_keys_and_shares_are_in_no_file_any_more(folder: MemberFolder) -> None:
    vault = FolderVault(folder)
    vault.keep(1, b"share", b"of epoch 1")
    vault.keep(3, b"share", b"of epoch 3")
    vault.forget(3, 3, None)
    assert vault.coin is None
    vault.settle()
    left = everything(folder.path)
    assert [seed(epoch) in left for epoch in range(5)] == [False, False, False, True, True]
    assert SHARES["m0"].hex().encode() not in left
    assert (b"of epoch 1" in left, b"of epoch 3" in left) == (False, True)
    again, opened = opened_again(folder)
    assert (again.epochs.first, again.epochs.publics) == (3, epochs_of("m0").publics)
    assert dict(opened.secrets()) == {(3, b"share"): b"of epoch 3"}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.path.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert stat.S_IMODE((folder.path / "secrets").stat().st_mode) == 0o700


def test_a_share_that_the_present_coin_key_still_needs_is_kept(folder: MemberFolder) -> None:
    """A forced change keeps the coin key."""
    vault = FolderVault(folder)
    vault.keep(1, b"share", b"of epoch 1")
    vault.forget(2, 0, None)
    vault.settle()
    again, opened = opened_again(folder)
    assert again.epochs.first == 2
    assert opened.coin == SHARES["m0"]
    assert dict(opened.secrets()) == {(1, b"share"): b"of epoch 1"}


def test_parts_of_a_key_that_came_to_nothing_are_in_no_file_any_more(folder: MemberFolder) -> None:
    """Though they are of an epoch since which the present key is in use."""
    vault = FolderVault(folder)
    vault.keep(1, b"part", b"of the key in use")
    vault.keep(2, b"part", b"of a key in vain")
    vault.forget(2, 1, None, {(2, b"part")})
    vault.settle()
    left = everything(folder.path)
    assert (b"of the key in use" in left, b"of a key in vain" in left) == (True, False)
    assert dict(opened_again(folder)[1].secrets()) == {(1, b"part"): b"of the key in use"}


class Crash(BaseException):
    """The process is gone."""


LAST = 40
"""More than there are system calls in one `settle`."""
CALLS = ("link", "replace", "fsync", "open", "unlink")


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[str]]:
    """Ends the process before the system call with this number; what was called."""

    def arm(number: int | None) -> list[str]:
        called: list[str] = []

        def wrapped(name: str, real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                called.append(name)
                if number is not None and len(called) >= number:
                    raise Crash
                return real(*arguments, **options)

            return call

        for name in CALLS:
            real = REAL[name]
            monkeypatch.setattr(os, name, wrapped(name, real) if number != 0 else real)
        return called

    return arm


REAL: dict[str, Callable[..., object]] = {name: getattr(os, name) for name in CALLS}


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_a_crash_anywhere_leaves_good_keys_and_the_next_start_erases_the_rest(
    folder: MemberFolder, crash_at: Callable[[int | None], list[str]], number: int
) -> None:
    vault = FolderVault(folder)
    vault.keep(1, b"share", b"of epoch 1")
    called = crash_at(number)
    crashed = False
    try:
        vault.forget(2, 2, None)
        vault.settle()
    except Crash:
        crashed = True
    crash_at(0)
    again, opened = opened_again(folder)
    assert again.epochs.first in (0, 2)
    assert again.epochs.signing_key(2).public == epochs_of("m0").public(2)
    opened.forget(2, 2, None)
    opened.settle()
    left = everything(folder.path)
    assert not any(secret in left for secret in (seed(0), seed(1), b"of epoch 1", SHARES["m0"].hex().encode()))
    assert sorted(path.name for path in (folder.path / "keys").iterdir()) == ["epochs.key"]
    assert crashed == (number <= len(called))
    if number == LAST:
        assert not crashed, "more numbers are needed to try all calls"
        assert {"link", "replace", "fsync", "unlink"} <= set(called)


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_a_crash_anywhere_while_new_keys_take_their_place_leaves_one_of_the_two(
    folder: MemberFolder, crash_at: Callable[[int | None], list[str]], number: int
) -> None:
    renewed = epochs_of("m9")
    write(folder.epochs_path.with_name("epochs.key.next"), renewed.to_bytes())
    vault = FolderVault(folder)
    called = crash_at(number)
    with contextlib.suppress(Crash):
        vault.forget(2, 2, renewed.root)
        vault.settle()
    crash_at(0)
    _, opened = opened_again(folder)
    keys = opened.keys(renewed.root)
    assert keys is not None
    assert keys.signing_key(2).public == renewed.public(2)
    opened.forget(2, 2, renewed.root)
    opened.settle()
    left = everything(folder.path)
    assert not any(seed(epoch, member) in left for member, epoch in (("m0", 0), ("m0", 7), ("m9", 0), ("m9", 1)))
    assert sorted(path.name for path in (folder.path / "keys").iterdir()) == ["epochs.key"]
    if number == LAST:
        assert len(called) < LAST, "more numbers are needed to try all calls"


def test_keys_are_erased_where_a_file_has_one_name_only(folder: MemberFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every file system has hard links."""

    def link(old: object, new: object) -> None:
        raise OSError(1, "not here")

    monkeypatch.setattr(os, "link", link)
    vault = FolderVault(folder)
    with folder.epochs_path.open("rb") as before:
        vault.forget(2, 2, None)
        vault.settle()
        assert set(before.read()) == {0}, "what lay there is overwritten"
    assert read_epoch_keys(folder.epochs_path).first == 2
    assert sorted(path.name for path in (folder.path / "keys").iterdir()) == ["epochs.key"]


def test_what_was_a_key_file_is_overwritten(folder: MemberFolder) -> None:
    vault = FolderVault(folder)
    with folder.epochs_path.open("rb") as keys, (folder.path / "keys" / "coin.key").open("rb") as coin:
        vault.forget(2, 2, None)
        vault.settle()
        assert set(keys.read()) == set(coin.read()) == {0}


def test_keys_that_could_not_be_erased_are_told_at_the_start(
    folder: MemberFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def access(path: Path, mode: int) -> bool:
        return path.name != "keys"

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(ConfigurationError, match="keys: this folder cannot be written, and old keys are to be erased"):
        FolderVault(folder)


def test_new_keys_that_a_command_names_take_the_place_of_the_old(folder: MemberFolder) -> None:
    """Key rotation: the new file lies beside the old one until the roster has its root."""
    renewed = epochs_of("m9")
    write(folder.epochs_path.with_name("epochs.key.next"), renewed.to_bytes())
    vault = FolderVault(folder)
    keys = vault.keys(renewed.root)
    assert keys is not None
    assert keys.publics == renewed.publics
    assert vault.keys(epochs_of("m8").root) is None
    vault.forget(4, 4, renewed.root)
    vault.settle()
    again, _ = opened_again(folder)
    assert (again.epochs.root, again.epochs.first) == (renewed.root, 4)
    assert sorted(path.name for path in (folder.path / "keys").iterdir()) == ["epochs.key"]
    left = everything(folder.path)
    assert not any(seed(epoch, member) in left for member, epoch in (("m0", 7), ("m9", 3)))


def test_a_full_or_broken_disk_is_told_apart(folder: MemberFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = FolderVault(folder)
    vault.forget(1, 0, None)

    def failing(number: int) -> Callable[..., None]:
        def fsync(descriptor: int) -> None:
            raise OSError(number, "no")

        return fsync

    monkeypatch.setattr(os, "fsync", failing(28))
    with pytest.raises(DiskFull):
        vault.settle()
    monkeypatch.setattr(os, "fsync", failing(5))
    with pytest.raises(StorageFailed):
        vault.settle()
    monkeypatch.undo()
    vault.settle()
    assert read_epoch_keys(folder.epochs_path).first == 1
