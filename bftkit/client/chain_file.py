"""A client's memory between two lives: the newest hand-overs that it followed (SAFETY rule 28).

A client that starts again goes on where it was, and never from an epoch before that: the keys of epochs that are over
may have been stolen since. The file is written whole, beside the one that is there, and put in its place when it is
durable; several clients may share a folder, and whoever was there later wins. A file that is damaged is not passed
over in silence, since that would be a way back.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import attrs

from bftkit.channel.client_chain import KEPT_BYTES, KEPT_LINKS
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import DIGEST_SIZE, digest
from bftkit.core.wire import Blob, Codec, Digest32, Many, WireError
from bftkit.crypto.keys import verify_signature
from bftkit.membership.chain import LINK_BYTES_MAX, ChainError, HandOver, Place, contradict, follow
from bftkit.membership.genesis import Genesis
from bftkit.membership.verifiers import founding_place, roster_verifier

CHAIN_FILE: Final = "chain.bin"
_MAGIC: Final = b"bftkit client's chain 1\n"
_BYTES_MAX: Final = max(KEPT_BYTES, LINK_BYTES_MAX) + (1 << 16)
_ADVICE: Final = (
    "restore it from a copy; or, if you are sure that no member of an epoch that is over was broken into, remove it, "
    "and the client follows the chain from the genesis once more"
)


@attrs.frozen
class _Stored:
    group: Digest32
    links: Annotated[tuple[bytes, ...], Many(Blob(LINK_BYTES_MAX), KEPT_LINKS)]


_CODEC: Final = Codec[_Stored]("client's chain", {1: _Stored}, bytes_max=_BYTES_MAX)


class ChainFile:
    """The newest hand-overs, in a client's folder."""

    def __init__(self, folder: Path, genesis: Genesis) -> None:
        """Nothing is read or written yet."""
        self.path = folder / CHAIN_FILE
        self._genesis = genesis

    def read(self) -> tuple[HandOver, ...]:
        """The hand-overs, one after the other; none if there is no file. Raises `ConfigurationError`."""
        group = self._genesis.group_id
        try:
            if self.path.stat().st_size > _BYTES_MAX:
                raise WireError("it is far too large")
            data = self.path.read_bytes()
            body, check = data[len(_MAGIC) : -DIGEST_SIZE], data[-DIGEST_SIZE:]
            if not data.startswith(_MAGIC) or digest(_MAGIC, body) != check:
                raise WireError("it is damaged")
            stored = _CODEC.decode(body)
            links = tuple(HandOver.decode(raw) for raw in stored.links)
            if stored.group != group or not links:
                raise WireError("it is another group's")
            self._check(links)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(
                str(self.path), f"cannot be read: {error.strerror or type(error).__name__}", "mend its permissions"
            ) from None
        except (WireError, ChainError) as error:
            wrong = f"the client's newest hand-over cannot be read from this file: {error}"
            raise ConfigurationError(str(self.path), wrong, _ADVICE) from None
        return links

    def _check(self, links: Sequence[HandOver]) -> None:
        """Raises `ChainError` unless each leads to the next; the first one was checked when it was written."""
        place, rest = founding_place(self._genesis), links
        if links[0].ending.epoch != 0:
            place, rest = place_after(links[0]), links[1:]
        group = self._genesis.group_id
        for link in rest:
            place = follow(group, place, link, roster_verifier(group), verify_signature)

    def keep(self, chain: Sequence[bytes]) -> str | None:
        """Make these hand-overs durable, unless later ones are there; the reason to stop if those contradict.

        Raises `ConfigurationError` if that cannot be done: a client that forgets where it was could be led back.
        """
        links = [HandOver.decode(raw) for raw in chain]
        try:
            with self._alone():
                there = self.read()
                for one in there:
                    for other in links:
                        if contradict(one, other):
                            epoch = one.ending.epoch
                            return (
                                f"epoch {epoch} has two hand-overs to epoch {epoch + 1}: one is in {self.path}, and "
                                "the members show another one. Nobody can say which history is the group's"
                            )
                if not there or there[-1].ending.epoch < links[-1].ending.epoch:
                    self._write(chain)
        except OSError as error:
            wrong = f"the newest hand-over cannot be kept: {error.strerror or type(error).__name__}"
            raise ConfigurationError(str(self.path), wrong, "let the client write to its folder") from None
        return None

    def _write(self, chain: Sequence[bytes]) -> None:
        body = _CODEC.encode(_Stored(self._genesis.group_id, tuple(chain)))
        beside = self.path.with_suffix(".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + body + digest(_MAGIC, body))
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, self.path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One client at a time compares and writes."""
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def place_after(link: HandOver) -> Place:
    """Where a hand-over leads that was checked before."""
    return Place(link.next, link.ending.opening)
