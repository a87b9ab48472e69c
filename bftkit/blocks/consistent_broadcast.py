"""Verifiable consistent broadcast: one sender, one value, and a proof of it that convinces everybody.

In words:

- `Send(value)`: here is my value; I sent nobody another one. (The link says who speaks.)
- `Echo(vote)`: this is the first value that I had of this sender, and it may be echoed: its form is right, and I hold
  what it speaks of. My vote is a signature under (id, sender, digest of the value). Goes to the sender only.
- `Final(value, certificate)`: n - t members echoed this. Anybody can pass it on, and whoever reads it delivers.

*Consistency*: all correct members that deliver, deliver the same, since any two sets of n - t members share f + 1, so
a correct one, and that echoes only once. *Validity*: a correct sender's value is delivered, since n - t members are
correct and answer. If the sender is faulty, nobody need deliver. *Verifiability*: the `proof` that comes with a
delivery is the encoded `Final`; whoever is given it, on whatever way, delivers the same.

Source: Cachin, Kursawe, Petzold, Shoup, CRYPTO 2001, section 3.2 (verifiable consistent broadcast), after the echo
broadcast of Reiter (CCS 1994). Theirs has a threshold signature where this has a `Certifier`'s certificate.

A restarted member echoes what it echoed and nothing else: its vote is durable before it leaves (SAFETY rule 5), and
a vote shows by itself which value it is for.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Annotated, ClassVar, TypeAlias

import attrs

from bftkit.blocks.certificates import CERTIFICATE_FIELD, VOTE_FIELD, SignatureLists
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, Machine, MemberId, Out, Record, Transition
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import Blob, Codec, Member, WireError

PURPOSE: typing.Final = "consistent broadcast"
"""The purpose under which echoes are signed."""

VALUE_BYTES_MAX: typing.Final = 1 << 20
"""No value is longer. What is larger is broadcast by its digest, and its bytes go beside it (`carry`)."""

ID_BYTES_MAX: typing.Final = 128
"""The longest name of an instance."""

# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class Send:
    """The sender's value."""

    value: Annotated[bytes, Blob(VALUE_BYTES_MAX)]


@attrs.frozen
class Echo:
    """A member's vote for the value that the sender sent it."""

    vote: Annotated[bytes, VOTE_FIELD]


@attrs.frozen
class Final:
    """The value, and n - t members' votes for it."""

    value: Annotated[bytes, Blob(VALUE_BYTES_MAX)]
    certificate: Annotated[bytes, CERTIFICATE_FIELD]


Message: TypeAlias = Send | Echo | Final

CODEC: typing.Final = Codec[Message]("consistent broadcast", {1: Send, 2: Echo, 3: Final})
"""For messages and for records: the records are the `Send` or the `Echo` that this member said."""


@attrs.frozen
class EchoedTwice:
    """Two finals of one instance for two values: whoever voted in both echoed twice."""

    id: Annotated[bytes, Blob(ID_BYTES_MAX)]
    sender: Member
    first: Final
    second: Final


PROOFS: typing.Final = Codec[EchoedTwice]("consistent broadcast proof", {1: EchoedTwice})

# ------------------------------------------------------------------------------------------------- inputs, outputs


@attrs.frozen
class Start:
    """Broadcast this value: the sender only. `carry` names batches whose bytes go with the `Send`."""

    value: bytes
    carry: tuple[Digest, ...] = ()


@attrs.frozen
class Approve:
    """The answer to `Offered`, now or later: what the value speaks of is here, durably, and it may be echoed."""


@attrs.frozen
class Offered:
    """The sender's first `Send` came. Answer with `Approve`, or with nothing (SAFETY rule 3: bytes before votes)."""

    value: bytes


@attrs.frozen
class Delivered:
    """This is the sender's value; said once. `proof` makes anybody deliver it; see `check_proof`."""

    value: bytes
    proof: bytes


Input: TypeAlias = Start | Approve
Output: TypeAlias = Offered | Delivered

ROLES: typing.Final = (
    Transition("sender, idle", "Start: persist and send the value", "sender, sending"),
    Transition("sender, sending", "n - t valid echoes: send the final", "delivered"),
    Transition("receiver, waiting", "the first Send: offer it", "receiver, offered"),
    Transition("receiver, waiting", "a valid Final", "delivered"),
    Transition("receiver, offered", "Approve: persist the echo, send it", "receiver, echoed"),
    Transition("receiver, offered", "a valid Final", "delivered"),
    Transition("receiver, echoed", "a valid Final", "delivered"),
)
"""The roles, for the documentation."""


# ------------------------------------------------------------------------------------------------- the machine


@attrs.define
class ConsistentBroadcast(Forkable, Machine[Input, Message, Output]):
    """One member's part in one broadcast; see `create`."""

    setup: Setup = attrs.field(metadata=SHARED)
    id: bytes
    sender: MemberId
    value_max: int
    certifier: SignatureLists = attrs.field(metadata=SHARED)

    value: bytes | None = None
    """What the sender sent first, or what was delivered."""
    carry: tuple[Digest, ...] = ()
    echo: bytes | None = None
    """This member's vote. It is for `value`, once there is one: after a restart the vote may be all that is left."""
    votes: dict[MemberId, bytes] = attrs.field(factory=dict[MemberId, bytes])
    """At the sender: the valid votes that came, until there are enough."""
    refused: set[MemberId] = attrs.field(factory=set[MemberId])
    """Who sent a bad vote or a bad certificate. None of its is looked at any more, so a liar costs one check."""
    final: Final | None = None
    """What was delivered."""

    roles: ClassVar[tuple[Transition, ...]] = ROLES

    @classmethod
    def create(cls, setup: Setup, id: bytes, sender: MemberId, value_max: int) -> ConsistentBroadcast:  # noqa: A002
        """The instance `id` (up to 128 bytes) of this sender, for values of up to `value_max` bytes.

        Raises `ValueError` for a stranger as sender, or a bound out of range.
        """
        if sender not in setup.members:
            raise ValueError(f"{sender} is none of the members {', '.join(setup.members)}")
        if len(id) > ID_BYTES_MAX or not 0 <= value_max <= VALUE_BYTES_MAX:
            raise ValueError(f"an id of {len(id)} bytes or values of up to {value_max} bytes are too long")
        return cls(setup, id, sender, value_max, _certifier(setup))

    @property
    def proof(self) -> bytes | None:
        """The proof of what was delivered; None before."""
        return None if self.final is None else CODEC.encode(self.final)

    def said(self) -> tuple[Message, ...]:
        """What this member broadcast and a peer may have lost: the sender's `Final`, or else its `Send`."""
        if self.sender != self.setup.me or self.value is None:
            return ()
        return (Send(self.value) if self.final is None else self.final,)

    # ------------------------------------------------------------------------------------------- inputs

    def on_input(self, value: Input, out: Out[Message, Output]) -> None:
        """Raises `ValueError` for a `Start` at another member, or of a second value, and an `Approve` of nothing."""
        match value:
            case Start():
                self._on_start_input(value, out)
            case Approve():
                self._on_approve(out)

    def _on_start_input(self, start: Start, out: Out[Message, Output]) -> None:
        me = self.setup.me
        if self.sender != me:
            raise ValueError(f"{me} does not start the broadcast of {self.sender}")
        if len(start.value) > self.value_max:
            raise ValueError(f"a value of {len(start.value)} bytes is longer than {self.value_max}")
        if self.value is not None and self.value != start.value:
            raise ValueError(f"{me} broadcast another value in this instance")
        if self.final is not None:
            return
        if self.value is None:
            out.persist(CODEC.encode(Send(start.value)))
            self._take_own(start.value)
        self.carry = start.carry
        out.broadcast(Send(start.value), start.carry)
        self._combine(out)

    def _on_approve(self, out: Out[Message, Output]) -> None:
        if self.value is None or self.sender == self.setup.me:
            raise ValueError("nothing was offered that could be approved")
        # Once there is a final, nobody needs the echo.
        if self.final is None and self.echo is None:
            self.echo = self.certifier.sign(self._statement(self.value))
            echo = Echo(self.echo)
            out.persist(CODEC.encode(echo))
            out.send(self.sender, echo)

    # ------------------------------------------------------------------------------------------- messages

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, Output]) -> None:
        """See `Machine.on_message`."""
        match message:
            case Send():
                self.on_send(sender, message, out)
            case Echo():
                self.on_echo(sender, message, out)
            case Final():
                self.on_final(sender, message, out)

    def on_send(self, sender: MemberId, message: Send, out: Out[Message, Output]) -> None:
        """The first value of the sender is the one that may be echoed; the same again gets the same answer."""
        value = message.value
        if sender != self.sender:
            out.blame(sender, f"sent a value in the broadcast of {self.sender}")
        elif len(value) > self.value_max:
            out.blame(sender, f"sent a value of {len(value)} bytes, more than {self.value_max}")
        elif self.value is None:
            self._on_first_send(value, out)
        elif value != self.value:
            out.blame(sender, "sent two values in one broadcast")
        elif self.final is not None:
            # The sender asks again, so it lost its final, or what would have made it.
            out.send(sender, self.final)
        elif self.echo is not None:
            out.send(sender, Echo(self.echo))

    def _on_first_send(self, value: bytes, out: Out[Message, Output]) -> None:
        if self.echo is None:
            self.value = value
            out.deliver(Offered(value))
        # Before a restart this member echoed: this value, or another one, and then it must not echo this one.
        elif self.certifier.verify_vote(self.setup.me, self._statement(value), self.echo):
            self.value = value
            out.send(self.sender, Echo(self.echo))
        else:
            out.blame(self.sender, "sent two values in one broadcast")

    def on_echo(self, sender: MemberId, message: Echo, out: Out[Message, Output]) -> None:
        """The sender collects n - t votes: of each member the first, and none more of who sent a bad one."""
        if self.sender != self.setup.me:
            out.blame(sender, f"sent an echo of the broadcast of {self.sender}")
            return
        if self.value is None or self.final is not None or sender in self.votes or sender in self.refused:
            return
        if not self.certifier.verify_vote(sender, self._statement(self.value), message.vote):
            self.refused.add(sender)
            out.blame(sender, "sent an echo with a bad vote")
            return
        self.votes[sender] = message.vote
        self._combine(out)

    def on_final(self, sender: MemberId, message: Final, out: Out[Message, Output]) -> None:
        """Whoever sends it, a valid final delivers."""
        if sender in self.refused or (self.final is not None and message.value == self.final.value):
            return
        if not self.certifier.verify(self._statement(message.value), message.certificate):
            self.refused.add(sender)
            out.blame(sender, "sent a final with a bad certificate")
        elif self.final is None:
            self._deliver(message, out)
        else:
            self._on_second_final(self.final, message, out)

    def _on_second_final(self, first: Final, second: Final, out: Out[Message, Output]) -> None:
        """More than f members lie, and here is who."""
        a, b = sorted((first, second), key=lambda final: final.value)
        proof = PROOFS.encode(EchoedTwice(self.id, self.sender, a, b))
        both = set(self.certifier.signers(first.certificate)) & set(self.certifier.signers(second.certificate))
        for member in sorted(both):
            out.blame(member, "echoed two values of one broadcast", proof)

    # ------------------------------------------------------------------------------------------- restarts

    def on_restore(self, records: Sequence[Record], out: Out[Message, Output]) -> None:
        """What this member said before; `said` has it for those who lost it. In a group of one that is all it takes."""
        for record in records:
            match CODEC.decode(record):
                case Send(value):
                    assert self.sender == self.setup.me, "the record of another broadcast"
                    self._take_own(value)
                case Echo(vote):
                    self.echo = vote
                case Final():
                    raise AssertionError("no final is ever recorded")
        self._combine(out)

    # ------------------------------------------------------------------------------------------- parts

    def _statement(self, value: bytes) -> bytes:
        return statement(self.id, self.sender, value)

    def _take_own(self, value: bytes) -> None:
        """The sender's own value, and its own vote for it, which no `Echo` brings."""
        self.value = value
        self.votes[self.setup.me] = self.certifier.sign(self._statement(value))

    def _combine(self, out: Out[Message, Output]) -> None:
        if self.value is not None and len(self.votes) >= self.certifier.size:
            final = Final(self.value, self.certifier.combine(self._statement(self.value), self.votes))
            out.broadcast(final)
            self._deliver(final, out)

    def _deliver(self, final: Final, out: Out[Message, Output]) -> None:
        self.final = final
        self.value = final.value
        self.votes.clear()
        out.deliver(Delivered(final.value, CODEC.encode(final)))


# ------------------------------------------------------------------------------------------------- proofs


def check_proof(setup: Setup, id: bytes, sender: MemberId, proof: bytes) -> bytes | None:  # noqa: A002
    """The value that this proves to be the sender's in instance `id`; None for what is no proof of that.

    A pure function, for whoever judges a value that contains proofs (external validity).
    """
    key = ("consistent broadcast", id, sender, proof)
    known = setup.memo.recall(key)
    if known is not None:
        return known
    final = read_proof(proof)
    if final is None or not _certifier(setup).verify(statement(id, sender, final.value), final.certificate):
        return None
    setup.memo.keep(key, final.value)
    return final.value


def convicts(setup: Setup, member: MemberId, proof: bytes) -> bool:
    """Whether two finals prove, to anybody with the members' keys, that this member echoed two values."""
    try:
        twice = PROOFS.decode(proof)
    except WireError:
        return False
    certifier = _certifier(setup)
    return twice.first.value != twice.second.value and all(
        certifier.verify(statement(twice.id, twice.sender, final.value), final.certificate)
        and member in certifier.signers(final.certificate)
        for final in (twice.first, twice.second)
    )


def read_proof(proof: bytes) -> Final | None:
    """The message that a proof encodes, unchecked; None for other bytes."""
    try:
        message = CODEC.decode(proof)
    except WireError:
        return None
    return message if isinstance(message, Final) else None


def proof_signers(setup: Setup, proof: bytes) -> tuple[MemberId, ...]:
    """Who echoed, so who holds what the value speaks of, by a proof that was checked; () for other bytes."""
    final = read_proof(proof)
    return () if final is None else _certifier(setup).signers(final.certificate)


def _certifier(setup: Setup) -> SignatureLists:
    return SignatureLists.of(setup, PURPOSE, setup.quorum.available)


def statement(id: bytes, sender: MemberId, value: bytes) -> bytes:  # noqa: A002
    """What an echo signs. A fixed length, a length, a text and the rest: no two broadcasts share one."""
    name = sender.encode()
    return b"".join((digest(value), len(name).to_bytes(1, "big"), name, id))
