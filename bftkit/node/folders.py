"""The folders of members and clients: what lies where, read whole and checked against each other.

    m0/member.toml            settings of this machine
    m0/genesis.toml           the group, the same file everywhere
    m0/keys/identity.key      mode 0600
    m0/keys/epochs.key        mode 0600
    m0/keys/coin.key          mode 0600, if the genesis has a coin key
    m0/history.bin            the group's hand-overs, if its operators gave them to a member that joins
    m0/secrets/               what it keeps of the making of coin keys, mode 0600
    m0/data/log/              what the member promised
    m0/data/snapshots/        the checkpoints it has taken

    client/client.toml, genesis.toml, client.key
    client/chain.bin          the newest hand-overs that the client followed, once there are any

A member's log is made when its folder is, and never again: a member that finds none knows that it has forgotten its
votes (SAFETY rule 16). What is erased in time, and how, is told in `vault`. Every mistake is a `ConfigurationError`
that names the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import attrs

from bftkit.configuration.keyfiles import CoinShare, KeyKind, KeyPair
from bftkit.configuration.settings import ClientSettings, MemberSettings
from bftkit.configuration.text import ConfigurationError
from bftkit.crypto.keys import EpochKeys
from bftkit.membership.chain import HandOver
from bftkit.membership.genesis import Genesis
from bftkit.membership.history_file import HISTORY_FILE, history_from_bytes
from bftkit.membership.roster import RosterEntry

T = TypeVar("T")

MEMBER_FILE: Final = "member.toml"
CLIENT_FILE: Final = "client.toml"
GENESIS_FILE: Final = "genesis.toml"
CARD_FILE: Final = "card.toml"
"""What an operator must know of a member that joins; see `bftkit.membership.card`."""

FILE_BYTES_MAX: Final = 64 << 20
"""A configuration file is no larger; what is, is something else."""


@attrs.frozen
class MemberFolder:
    """A member's folder, read and found consistent."""

    path: Path
    settings: MemberSettings
    genesis: Genesis
    identity: KeyPair
    epochs: EpochKeys
    coin: CoinShare | None = None
    """The member's share of the coin key, if the genesis has one."""
    history: tuple[HandOver, ...] = ()
    """What operators told a member that joins of the group's hand-overs, verified."""

    @property
    def entry(self) -> RosterEntry:
        """This member in the genesis's roster. Raises `KeyError` for one that came later."""
        return self.genesis.roster.entry(self.settings.id)

    @property
    def epochs_path(self) -> Path:
        """The file of the epoch keys, to be overwritten when one is erased."""
        return self.path / self.settings.keys.epochs

    @property
    def log(self) -> Path:
        """The folder of the log."""
        return self.path / self.settings.data / "log"

    @property
    def snapshots(self) -> Path:
        """The folder of the snapshots."""
        return self.path / self.settings.data / "snapshots"


@attrs.frozen
class ClientFolder:
    """A client's folder, read and found consistent."""

    path: Path
    settings: ClientSettings
    genesis: Genesis
    key: KeyPair


MAKERS: Final = {
    MEMBER_FILE: " of a member's folder, or make one with bftkit init",
    CLIENT_FILE: " of a client's folder, as bftkit init made it",
    GENESIS_FILE: ", or found a group with bftkit init",
}
"""What to do about a file that is missing, by its name."""


def read_genesis(path: Path) -> Genesis:
    """The genesis in a file. Raises `ConfigurationError`."""
    return _parsed(path, Genesis.from_text)


def read_settings(folder: Path) -> MemberSettings:
    """A member's settings alone. Raises `ConfigurationError`."""
    return _parsed(folder / MEMBER_FILE, MemberSettings.from_text)


def read_member(folder: Path) -> MemberFolder:
    """A member's folder, with its keys checked against the genesis. Raises `ConfigurationError`."""
    settings = read_settings(folder)
    genesis = read_genesis(folder / settings.genesis)
    try:
        settings.check_against(genesis)
    except ConfigurationError as error:
        raise error.inside(str(folder / MEMBER_FILE)) from None
    identity = read_key(folder / settings.keys.identity, "identity")
    epochs = read_epoch_keys(folder / settings.keys.epochs)
    coin = _dealt_share(folder / settings.keys.coin, settings, epochs) if genesis.coin is not None else None
    path = folder / HISTORY_FILE
    history = read_history(path, genesis) if path.exists() else ()
    found = MemberFolder(folder, settings, genesis, identity, epochs, coin, history)
    _check_keys(found)
    _check_coin(found)
    return found


def read_history(path: Path, genesis: Genesis) -> tuple[HandOver, ...]:
    """A group's hand-overs in a file, verified from its genesis on. Raises `ConfigurationError`."""
    data = _read(path)
    try:
        return history_from_bytes(genesis, data)
    except ConfigurationError as error:
        raise error.inside(str(path)) from None


def read_client(folder: Path) -> ClientFolder:
    """A client's folder. Raises `ConfigurationError`."""
    settings = _parsed(folder / CLIENT_FILE, ClientSettings.from_text)
    genesis = read_genesis(folder / settings.genesis)
    key = read_key(folder / settings.key, "client")
    if genesis.client_policy == "listed" and key.public not in genesis.clients:
        raise ConfigurationError(
            str(folder / settings.key),
            f"the group takes operations from listed clients only, and {key.public.hex()} is not listed",
            "take a listed client's key, or found a group whose genesis lists this one",
        )
    return ClientFolder(folder, settings, genesis, key)


def read_key(path: Path, kind: KeyKind) -> KeyPair:
    """One secret key. Raises `ConfigurationError`, also if others than its owner may read the file."""
    _check_secret(path)
    return _parsed(path, lambda text: KeyPair.from_text(text, kind))


def read_epoch_keys(path: Path) -> EpochKeys:
    """A member's epoch keys. Raises `ConfigurationError`, also if others than its owner may read the file."""
    _check_secret(path)
    data = _read(path)
    try:
        return EpochKeys.from_bytes(data)
    except ValueError as error:
        raise ConfigurationError(str(path), str(error), "give the right path, or restore the file") from None


def read_coin_share(path: Path) -> CoinShare:
    """A member's share of a coin key. Raises `ConfigurationError`, also if others than its owner may read the file."""
    _check_secret(path)
    return _parsed(path, CoinShare.from_text)


def write_file(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a new file, durably. Raises `FileExistsError`; a secret must never replace another by mistake."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(descriptor)


def _dealt_share(path: Path, settings: MemberSettings, epochs: EpochKeys) -> CoinShare | None:
    """The share that was dealt at the founding: members that came later have none, and in time it is erased."""
    if not path.exists() and (settings.joins or epochs.first > 0):
        return None
    return read_coin_share(path)


def _check_keys(folder: MemberFolder) -> None:
    if folder.settings.joins:
        return  # an operators' command says what its keys are to be
    entry, roster = folder.entry, folder.genesis.roster
    if folder.identity.public != entry.identity:
        other = roster.identity_of(folder.identity.public)
        whose = f"member {other}" if other else "nobody in this group"
        raise ConfigurationError(
            str(folder.path / folder.settings.keys.identity),
            f"this is the key of {whose}, not of {entry.id}",
            f"put the identity key of {entry.id} there",
        )
    epochs = folder.epochs
    if epochs.first > 0:
        return  # these may be newer keys, which an operators' command has given it
    if epochs.count != entry.epoch_count or epochs.root != entry.epoch_root:
        raise ConfigurationError(
            str(folder.epochs_path),
            f"these are not the epoch keys that the genesis commits {entry.id} to",
            f"put the epoch keys of {entry.id} there",
        )


def _check_coin(folder: MemberFolder) -> None:
    share, coin = folder.coin, folder.genesis.coin
    if share is None or coin is None or folder.settings.joins:
        return
    where, me = str(folder.path / folder.settings.keys.coin), folder.settings.id
    if share.epoch != 0:
        raise ConfigurationError(
            where, f"this share is for epoch {share.epoch}, not for epoch 0", f"put the share of {me} for epoch 0 there"
        )
    owners = dict(zip(coin.points, folder.genesis.roster.ids, strict=True))
    owner = owners.get(share.public)
    if owner != me:
        whose = f"member {owner}" if owner else "nobody in this group"
        raise ConfigurationError(
            where, f"this is the coin share of {whose}, not of {me}", f"put the coin share of {me} there"
        )


def _parsed(path: Path, parse: Callable[[str], T]) -> T:
    data = _read(path)
    try:
        return parse(data.decode())
    except ConfigurationError as error:
        raise error.inside(str(path)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(str(path), "the file is not UTF-8 text", "give the path of the right file") from None


def _check_secret(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # reading it will say better what is wrong
    if mode & 0o077:
        raise ConfigurationError(
            str(path), f"others than its owner can reach this secret (mode {mode:04o})", f"chmod 600 {path}"
        )


def _read(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigurationError(str(path), "the file is far too large", "give the path of the right file")
        return path.read_bytes()
    except FileNotFoundError:
        advice = f"give the right path{MAKERS.get(path.name, '')}"
        raise ConfigurationError(str(path), "there is no such file", advice) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(str(path), f"cannot be read: {reason}", "mend its path or its permissions") from None
