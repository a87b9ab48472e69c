"""A member's secrets: the keys that it signs with, its shares of coin keys, and how they are forgotten.

A key is of use to whoever steals it for as long as it is there. So the keys of an epoch that is over are erased, and
so are the shares of its coin (SAFETY rules 20 and 28): overwritten on the disk, and in no file that is written
afterwards. None of it is ever in the log, in a snapshot or in a trace.

**Order.** A key is erased once the hand-over that ended its epoch is the beginning of the log, durably, and never
before: a member whose log is in an epoch without a key for it could only be silent. `forget` changes what this process
has, at once; `settle` makes the disk follow, and may run in another thread. It can be cut off anywhere and be done
again: at every start it is.

**Overwriting.** A key file is written anew beside the old one, which gets a second name first. When the new one has
taken its place, the old one is overwritten with zeros under its second name and removed. At no moment is there no good
key file, or half a secret under its proper name, and whatever a crash leaves is overwritten at the next start. (File
systems that copy on writing, and disks that remap, may keep what was overwritten; against those only encryption of the
whole disk helps.)
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from bftkit.configuration.text import ConfigurationError
from bftkit.crypto.keys import EpochKeys
from bftkit.node.folders import MemberFolder, read_epoch_keys
from bftkit.storage.files import DiskFull, StorageFailed

NEW: Final = ".new"
OLD: Final = ".old"
NEXT: Final = ".next"
"""Where a member finds the epoch keys that an operators' command gives it (key rotation)."""
SECRETS_FOLDER: Final = "secrets"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""On file systems without second names, a crash at the worst moment leaves what it overwrites in free blocks."""

SecretName = tuple[int, bytes]
"""The epoch that a secret is for, and its name."""


class Vault(Protocol):
    """See the top of this file. Only `settle` and `keep` touch the disk; both may raise `DiskFull`, `StorageFailed`."""

    @property
    def identity(self) -> bytes:
        """This member's public identity key."""
        ...

    @property
    def coin(self) -> bytes | None:
        """This member's share of the coin key that was dealt at the founding, until it is erased."""
        ...

    def keys(self, root: bytes) -> EpochKeys | None:
        """The keys under this Merkle root, if this member has them."""
        ...

    def secrets(self) -> Mapping[SecretName, bytes]:
        """What was kept and is not forgotten."""
        ...

    def keep(self, epoch: int, name: bytes, secret: bytes) -> None:
        """Keep a secret, durable on return. The same name again replaces it."""
        ...

    def forget(
        self, epoch: int, coin_since: int, root: bytes | None, vain: Collection[SecretName] = frozenset()
    ) -> None:
        """This member is in this epoch, and its log says so durably.

        Keys of epochs before are forgotten, and secrets and shares of epochs before `coin_since`, when the present coin
        key was made. `root`: the member's own in the present roster; keys under another one are forgotten as well.
        So are these `vain` secrets: parts of coin keys that came to nothing.
        """
        ...

    def settle(self) -> None:
        """Make the disk forget what `forget` said. Again and again is as good as once."""
        ...


class FolderVault(Vault):
    """The vault of a member's folder."""

    def __init__(self, folder: MemberFolder) -> None:
        """Raises `StorageFailed` if the secrets cannot be read, `ConfigurationError` if keys could not be erased."""
        self._path = folder.epochs_path
        self._coin_path = folder.path / folder.settings.keys.coin
        self._secrets_path = folder.path / SECRETS_FOLDER
        self._identity = folder.identity.public
        self._epochs = folder.epochs
        self._next: EpochKeys | None = None
        self._on_disk = (folder.epochs.root, folder.epochs.first)
        self._content: tuple[bytes, int, bytes] | None = None
        """What the key file is to be: root, first epoch that is left, bytes. None: as it is."""
        self._coin = folder.coin.secret if folder.coin is not None else None
        for place in (self._path.parent, folder.path) if folder.genesis.schedule is not None else ():
            # Told at the start: at the first change it would be too late.
            if not os.access(place, os.W_OK | os.X_OK):
                raise ConfigurationError(
                    str(place), "this folder cannot be written, and old keys are to be erased", "let its member write"
                )
        self._secrets = self._read_secrets()
        self._disk = threading.Lock()

    @property
    def identity(self) -> bytes:
        return self._identity

    @property
    def coin(self) -> bytes | None:
        return self._coin

    def keys(self, root: bytes) -> EpochKeys | None:
        if self._epochs.root == root:
            return self._epochs
        if self._next is None or self._next.root != root:
            path = _beside(self._path, NEXT)
            if not path.exists():
                return None
            self._next = read_epoch_keys(path)
        return self._next if self._next.root == root else None

    def secrets(self) -> Mapping[SecretName, bytes]:
        return dict(self._secrets)

    def keep(self, epoch: int, name: bytes, secret: bytes) -> None:
        self._secrets[epoch, name] = secret
        with self._disk, _failing(f"keeping a secret in {self._secrets_path}"):
            if not self._secrets_path.is_dir():
                self._secrets_path.mkdir(mode=0o700)
                _sync_folder(self._secrets_path.parent)
            path = self._secret_path(epoch, name)
            _write(_beside(path, NEW), secret)
            os.replace(_beside(path, NEW), path)
            _sync_folder(self._secrets_path)

    def forget(
        self, epoch: int, coin_since: int, root: bytes | None, vain: Collection[SecretName] = frozenset()
    ) -> None:
        if root is not None and root != self._epochs.root:
            try:
                renewed = self.keys(root)
            except ConfigurationError:
                renewed = None  # the member could not take part with them, and has said so
            if renewed is not None:
                self._epochs, self._next = renewed, None
        erase_before(self._epochs, epoch)
        self._content = (self._epochs.root, self._epochs.first, self._epochs.to_bytes())
        if coin_since > 0:
            self._coin = None
        self._secrets = {
            name: secret for name, secret in self._secrets.items() if name[0] >= coin_since and name not in vain
        }

    def settle(self) -> None:
        with self._disk, _failing(f"erasing keys beside {self._path}"):
            self._wipe_leftovers()
            content = self._content
            if content is not None and content[:2] != self._on_disk:
                self._replace_keys(content[2])
                self._on_disk = content[:2]
            if self._next_is_in_use():
                _erase(_beside(self._path, NEXT))
            if self._coin is None:
                _erase(self._coin_path)
            for path in self._secret_files():
                if _secret_name(path) not in self._secrets:
                    _erase(path)

    def _next_is_in_use(self) -> bool:
        """Whether the keys that were to be the next ones have become the present ones."""
        path = _beside(self._path, NEXT)
        try:
            return path.exists() and read_epoch_keys(path).root == self._epochs.root
        except ConfigurationError:
            return False

    def _replace_keys(self, content: bytes) -> None:
        old, new = _beside(self._path, OLD), _beside(self._path, NEW)
        _write(new, content)
        with self._path.open("r+b") as held:
            try:
                os.link(self._path, old)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            os.replace(new, self._path)
            _sync_folder(self._path.parent)
            _overwrite(held)
        if old.exists():
            old.unlink()
            _sync_folder(self._path.parent)

    def _wipe_leftovers(self) -> None:
        """What a crash in the middle of writing or erasing has left."""
        old = _beside(self._path, OLD)
        if old.exists() and os.path.samefile(old, self._path):
            old.unlink()  # it is the file in use, still under two names
        for path in (self._path, _beside(self._path, NEXT), self._coin_path):
            _wipe(_beside(path, OLD))
            _wipe(_beside(path, NEW))
        for path in self._files():
            if path.suffix in (OLD, NEW):
                _wipe(path)

    def _secret_path(self, epoch: int, name: bytes) -> Path:
        return self._secrets_path / f"{epoch}-{name.hex()}"

    def _files(self) -> list[Path]:
        return sorted(self._secrets_path.iterdir()) if self._secrets_path.is_dir() else []

    def _secret_files(self) -> list[Path]:
        return [path for path in self._files() if path.suffix not in (OLD, NEW)]

    def _read_secrets(self) -> dict[SecretName, bytes]:
        with _failing(f"reading {self._secrets_path}"):
            return {_secret_name(path): path.read_bytes() for path in self._secret_files()}


class MemoryVault(Vault):
    """A vault in memory, for groups in one process and for tests. What it forgets is gone at once, whole."""

    def __init__(
        self,
        identity: bytes,
        epochs: EpochKeys,
        coin: bytes | None = None,
        *,
        before: Callable[[str], None] | None = None,
    ) -> None:
        """`before` is called before each change, with what it is; it may raise `StorageFailed`."""
        self.epochs = epochs
        self.before = before
        self._identity = identity
        self._coin = coin
        self._secrets: dict[SecretName, bytes] = {}
        self._wanted: tuple[int, int] = (0, 0)
        self._vain: Collection[SecretName] = frozenset()

    @property
    def identity(self) -> bytes:
        return self._identity

    @property
    def coin(self) -> bytes | None:
        return self._coin

    @coin.setter
    def coin(self, share: bytes | None) -> None:
        self._coin = share

    def keys(self, root: bytes) -> EpochKeys | None:
        return self.epochs if self.epochs.root == root else None

    def secrets(self) -> Mapping[SecretName, bytes]:
        return dict(self._secrets)

    def keep(self, epoch: int, name: bytes, secret: bytes) -> None:
        self._about_to("keep a secret")
        self._secrets[epoch, name] = secret

    def forget(
        self, epoch: int, coin_since: int, root: bytes | None, vain: Collection[SecretName] = frozenset()
    ) -> None:
        self._wanted = (epoch, coin_since)
        self._vain = vain

    def settle(self) -> None:
        epoch, coin_since = self._wanted
        if self.epochs.first < epoch:
            self._about_to("erase keys")
            renewed = EpochKeys.from_bytes(self.epochs.to_bytes())
            erase_before(renewed, epoch)
            self.epochs = renewed  # at once: another thread may be asking for a key
        if coin_since > 0 and (self._coin is not None or any(name[0] < coin_since for name in self._secrets)):
            self._about_to("erase secrets")
            self._coin = None
            self._secrets = {name: secret for name, secret in self._secrets.items() if name[0] >= coin_since}
        if any(name in self._secrets for name in self._vain):
            self._about_to("erase secrets")
            self._secrets = {name: secret for name, secret in self._secrets.items() if name not in self._vain}

    def restart(self) -> None:
        """Another process: it has what is on the disk, and knows nothing of what was to be forgotten."""
        self._wanted = (0, 0)
        self._vain = frozenset()

    def _about_to(self, operation: str) -> None:
        if self.before is not None:
            self.before(operation)


def erase_before(keys: EpochKeys, epoch: int) -> None:
    """Forget the keys of epochs before this one; the last key of all is kept, since a key file has one at least."""
    keys.erase_before(min(epoch, keys.count - 1))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _secret_name(path: Path) -> SecretName:
    epoch, _, name = path.name.partition("-")
    try:
        return int(epoch), bytes.fromhex(name)
    except ValueError:
        raise StorageFailed(f"{path} is no secret of bftkit") from None


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _erase(path: Path) -> None:
    """Take a file out of the way, so that nobody reads it half overwritten, and wipe it."""
    if path.exists():
        os.replace(path, _beside(path, OLD))
        _sync_folder(path.parent)
        _wipe(_beside(path, OLD))


def _wipe(path: Path) -> None:
    """Overwrite a file with zeros, and remove it. Nothing happens if it is not there."""
    try:
        with path.open("r+b") as file:
            _overwrite(file)
    except FileNotFoundError:
        return
    path.unlink()
    _sync_folder(path.parent)


def _overwrite(file: BinaryIO) -> None:
    file.write(bytes(os.fstat(file.fileno()).st_size))
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _failing(what: str) -> Generator[None]:
    """Turns an error of the system into one of ours."""
    try:
        yield
    except OSError as error:
        text = f"{what}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(text) from error
        raise StorageFailed(text) from error
