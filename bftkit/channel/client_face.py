"""A client machine's face: what it is given, what goes in, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import attrs

from bftkit.core.machine import Digest, MemberId, Out, Slot
from bftkit.core.quorum import Quorum
from bftkit.crypto.keys import SigningKey, verify_signature
from bftkit.membership.chain import HandOver, Place, TrustedPoint, Verifiers
from bftkit.membership.commands import SignedCommand

RETRY_TICKS: Final = 50
"""How often the client looks for what is late."""
PATIENCE_TICKS: Final = 300
"""After so long without an answer a bundle goes to every member; doubled each time."""
PATIENCE_TICKS_MAX: Final = 4000
NUMBERS: Final = 1 << 20
"""The time of a client's start, in ms, times this is above the numbers of all questions of its earlier lives."""

# ------------------------------------------------------------------------------------------------ inputs


@attrs.frozen
class Submit:
    """Order and execute these operations; they get consecutive sequence numbers from `ClientMachine.next_number`."""

    operations: Sequence[bytes]
    now_ms: int = 0
    """The client's wall clock in ms since 1970, from which deadlines are counted; 0: it has none, and no deadlines."""
    deadline_ms: int = 0
    """They may be executed so long from now, and not later. The group's own deadline counts if it is shorter, or if
    this is 0."""


@attrs.frozen
class AskRead:
    """Answer this operation without ordering it, if the members agree. `token` comes back with the answer."""

    token: int
    operation: bytes
    consistency: str = ""
    """``strong``, or ``best-effort``: what one member knows is enough. "": as the group's needs say."""


@attrs.frozen
class SendNow:
    """Everything that was ready has been handed in: form bundles and send them."""


@attrs.frozen
class Order:
    """Bring this operators' command to all members, and say what becomes of it (`CommandState`) until that is final."""

    signed: SignedCommand


@attrs.frozen
class Enough:
    """Do not ask for the command of this name any more. What was sent is sent."""

    name: Digest


@attrs.frozen
class AskHistory:
    """Fetch and check the whole chain of hand-overs (`History`), from the founding on."""


@attrs.frozen
class HaltNow:
    """Stop for good, for this reason: the driver knows of two histories (SAFETY rule 28)."""

    reason: str


ClientInput: TypeAlias = Submit | AskRead | SendNow | Order | Enough | AskHistory | HaltNow

# ------------------------------------------------------------------------------------------------ outputs


@attrs.frozen
class Executed:
    """The operations from number `first` on were executed in `slot`; (status, result) of each."""

    first: int
    slot: Slot
    results: list[tuple[int, bytes]]


@attrs.frozen
class NotExecuted:
    """These operations were not executed and never will be; or (`unknown`) nobody can say any more."""

    first: int
    count: int
    reason: str
    unknown: bool = False


@attrs.frozen
class ReadDone:
    """The answer to `AskRead`: status `OK` or `FAILED`, and the bytes."""

    token: int
    status: int
    result: bytes
    member: MemberId | None = None
    """Who alone said so, if the read was a best-effort one; None: enough members agree."""
    slot: Slot = 0
    """Whose state after this slot that is, in that member's words."""


@attrs.frozen
class MemberStatus:
    """A member's answer about itself (JSON text)."""

    member: MemberId
    text: str
    number: int
    """Of the question that it answers: see `ClientMachine.status_number`."""


@attrs.frozen
class Moved:
    """The client is in a later epoch now: have links with these members and no others, and keep the newest links."""

    place: Place
    link: bytes
    """The hand-over that leads there."""
    chain: tuple[bytes, ...]
    """The newest hand-overs, that one last: to be kept durably, and given back as `ClientSettings.chain`. None where
    the client has not come to the hand-over that it trusts: it may have been led astray."""


@attrs.frozen
class LinkRefused:
    """This member showed a hand-over that does not hold, and why."""

    member: MemberId
    reason: str


@attrs.frozen
class Stopped:
    """The group showed two histories. Nothing is sent or believed any more; this comes again for every later wish."""

    reason: str


@attrs.frozen
class CommandState:
    """What became of an operators' command, as far as it is known now."""

    name: Digest
    state: int
    """One of the states of a command in `frames`, which f + 1 members agree on at least; `UNKNOWN_COMMAND` if none."""
    text: str
    """What those members say to it; "" if they say different things."""
    by: tuple[MemberId, ...]
    """Who says so; nobody if it follows from the chain of hand-overs."""
    answers: Mapping[MemberId, tuple[int, str]] = attrs.field(factory=dict[MemberId, tuple[int, str]], hash=False)
    """State and text of every single member that answered, for people to look at: one alone may lie."""
    final: bool = False
    """Whether that is the end of it: done, or refused by n - f - c members, or its epoch is over."""


@attrs.frozen
class History:
    """The answer to `AskHistory`: all hand-overs since the founding, each checked."""

    links: tuple[HandOver, ...]


ClientOutput: TypeAlias = (
    Executed | NotExecuted | ReadDone | MemberStatus | Moved | LinkRefused | Stopped | CommandState | History
)

ClientOut: TypeAlias = Out[bytes, ClientOutput]

# ------------------------------------------------------------------------------------------------ settings


class VerifierProtocol(Protocol):
    """The half of a `bftkit.crypto.keys.Keyring` that a client has."""

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether that member made this signature."""
        ...


@attrs.frozen
class ClientSettings:
    """What a client knows of its group: the newest configuration that it has verified."""

    group: bytes
    members: tuple[MemberId, ...]
    quorum: Quorum
    key: SigningKey = attrs.field(repr=False)
    keyring: VerifierProtocol
    """Checks members' signatures of this epoch."""
    started_ms: int
    """The client's clock when it started; must be higher than at its last start with the same key."""
    epoch: int = 0
    asked_before: int = 0
    """Its questions get numbers above this one, and none that one of its earlier lives with the same key had: members
    that were busy may answer a life that is over, and whoever has its key now gets the answer."""
    operation_bytes_max: int = 1 << 20
    bundle_bytes_max: int = 2 << 20
    bundle_requests_max: int = 1024
    session_window: int = 16_384
    place: Place | None = None
    """Where the client is in the chain of hand-overs; epoch, members, quorum and keyring follow from it.
    None: this group's configuration never changes."""
    founding: Place | None = None
    """Where the chain begins, if that is known and is not `place`."""
    chain: tuple[HandOver, ...] = attrs.field(default=(), repr=False)
    """The newest hand-overs before `place`, one after the other, as `Moved` told them in an earlier life."""
    trusted: TrustedPoint | None = None
    """A recent hand-over that the caller knows from elsewhere: nobody is believed before the epoch that it began."""
    verifiers: Verifiers | None = attrs.field(default=None, repr=False)
    """Needed with a place."""
    verify: Callable[[bytes, bytes, bytes], bool] = attrs.field(default=verify_signature, repr=False)
    """Whether (public key, message, signature) fit."""

    def at(self, place: Place) -> ClientSettings:
        """The same in another place of the chain."""
        configuration = place.configuration
        assert self.verifiers is not None, "a client that follows the chain needs verifiers"
        return attrs.evolve(
            self,
            members=configuration.members,
            quorum=configuration.quorum,
            keyring=self.verifiers(configuration, place.opening),
            epoch=configuration.epoch,
            place=place,
        )
