"""Reliable broadcast: if one correct member delivers, all do, and the same, although the sender may lie.

In words:

- `Send(value)`: here is my value. (It counts as the sender's echo, too.)
- `Echo(d)`: the first value that I had of the sender has digest d, and I hold its bytes, durably.
- `Ready(d)`: q members echoed d, or f + 1 are ready for d: no correct member will ever be ready for anything else.
- `Ask(d)`: n - t members are ready for d, and I lack its bytes. You said that you hold them.
- `Answer(value)`: here they are.

No message is signed: the link says who speaks, and nothing here must convince a third.

Source: Bracha, Information and Computation 75 (1987), section 3, with the numbers of a group in which f members lie and
c more only crash (t = f + c), and by digest, so that a long value crosses each link from its sender once.

*Why q echoes.* Two sets of q share a correct member, which echoes once: no two correct members are ready for different
values on the ground of echoes, so the first correct one that is ready fixes d for all.

*Why n - t readys deliver.* More would wait for the faulty. Of n - t at least f + c + 1 do not lie; c of these may have
crashed while they spoke, so that f + 1 are left which everybody hears.

*Why f + 1 readys amplify.* That is what is left; waiting for t + 1 would be for ever if c of them are gone. And one of
f + 1 does not lie, so it has q echoes behind it.

*Why f + c + 1 echoers are asked.* Of so many that said they hold the bytes one neither lied nor goes away, so it
answers, and no timer is needed. Of the q echoers behind the first correct ready, at least so many do not lie.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, TypeAlias

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Digest, Machine, MemberId, Out, Record, Transition
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import Blob, Codec, Digest32

VALUE_BYTES_MAX: typing.Final = 8 << 20
"""No value is longer: a link carries frames of 16 MiB."""

ANSWERS_MAX: typing.Final = 32
"""So often one member is answered. Lost answers are few; without a bound, a liar's 34 bytes would cost a value each."""

# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class Send:
    """The sender's value."""

    value: Annotated[bytes, Blob(VALUE_BYTES_MAX)]


@attrs.frozen
class Echo:
    """The first value that this member had of the sender, by its digest; its bytes are here, durably."""

    digest: Digest32


@attrs.frozen
class Ready:
    """No correct member will be ready for another value than this."""

    digest: Digest32


@attrs.frozen
class Ask:
    """This member could deliver the value if it had its bytes."""

    digest: Digest32


@attrs.frozen
class Answer:
    """The bytes that were asked for."""

    value: Annotated[bytes, Blob(VALUE_BYTES_MAX)]


Message: TypeAlias = Send | Echo | Ready | Ask | Answer

CODEC: typing.Final = Codec[Message]("reliable broadcast", {1: Send, 2: Echo, 3: Ready, 4: Ask, 5: Answer})
"""For messages and for records. As a record, `Send` says: I echoed this value, and here are the bytes."""

# ------------------------------------------------------------------------------------------------- inputs, outputs


@attrs.frozen
class Start:
    """Broadcast this value: the sender only."""

    value: bytes


@attrs.frozen
class Delivered:
    """This is the value; said once, and sooner or later by every correct member."""

    value: bytes


Input: TypeAlias = Start
Output: TypeAlias = Delivered

PHASES: typing.Final = (
    Transition("waiting", "Start, or the first Send: persist the value, echo it", "echoed"),
    Transition("waiting", "f + 1 readys: persist, be ready", "ready"),
    Transition("echoed", "q echoes, or f + 1 readys: persist, be ready", "ready"),
    Transition("ready", "n - t readys, the bytes are here", "delivered"),
    Transition("ready", "n - t readys, the bytes are not here: ask f + c + 1 echoers", "asking"),
    Transition("asking", "an Answer with this digest, or the Send", "delivered"),
)
"""The phases, for the documentation."""


# ------------------------------------------------------------------------------------------------- the machine


@attrs.define
class ReliableBroadcast(Forkable, Machine[Input, Message, Output]):
    """One member's part in one broadcast; see `create`. At most two values are held, whatever liars send."""

    setup: Setup = attrs.field(metadata=SHARED)
    id: bytes
    """Which broadcast this is, for people; the parent keeps the messages of two broadcasts apart."""
    sender: MemberId
    value_max: int

    value: bytes | None = None
    """The first value of the sender: the one that was echoed."""
    fetched: tuple[Digest, bytes] | None = None
    """What was asked for and came."""
    echoes: dict[MemberId, Digest] = attrs.field(factory=dict[MemberId, Digest])
    """What each member echoed first, this one included."""
    readys: dict[MemberId, Digest] = attrs.field(factory=dict[MemberId, Digest])
    wanted: Digest | None = None
    """What n - t members are ready for while its bytes are missing."""
    asked: set[MemberId] = attrs.field(factory=set[MemberId])
    misled: set[MemberId] = attrs.field(factory=set[MemberId])
    """Whose answer had another digest. No further answer is hashed."""
    answered: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """How often each member was answered."""
    delivered: bool = False

    phases: ClassVar[tuple[Transition, ...]] = PHASES

    @classmethod
    def create(cls, setup: Setup, id: bytes, sender: MemberId, value_max: int) -> ReliableBroadcast:  # noqa: A002
        """The broadcast `id` of this sender, for values of up to `value_max` bytes.

        Raises `ValueError` for a stranger as sender, or a bound out of range.
        """
        if sender not in setup.members:
            raise ValueError(f"{sender} is none of the members {', '.join(setup.members)}")
        if not 0 <= value_max <= VALUE_BYTES_MAX:
            raise ValueError(f"values of up to {value_max} bytes are too long")
        return cls(setup, id, sender, value_max)

    def said(self) -> tuple[Message, ...]:
        """What this member broadcast, or asks for, and a peer may have lost."""
        me = self.setup.me
        messages: list[Message] = []
        if self.value is not None:
            messages.append(Send(self.value) if self.sender == me else Echo(self.echoes[me]))
        if me in self.readys:
            messages.append(Ready(self.readys[me]))
        if self.wanted is not None:
            messages.append(Ask(self.wanted))
        return tuple(messages)

    # ------------------------------------------------------------------------------------------- inputs

    def on_input(self, value: Input, out: Out[Message, Output]) -> None:
        """Raises `ValueError` for a `Start` at another member than the sender, or of a second value."""
        me = self.setup.me
        if self.sender != me:
            raise ValueError(f"{me} does not start the broadcast of {self.sender}")
        if len(value.value) > self.value_max:
            raise ValueError(f"a value of {len(value.value)} bytes is longer than {self.value_max}")
        if self.value is not None and self.value != value.value:
            raise ValueError(f"{me} broadcast another value in this instance")
        if self.value is None:
            out.persist(CODEC.encode(Send(value.value)))
            self._hold(value.value)
        out.broadcast(Send(value.value))
        self._go_on(digest(value.value), out)

    # ------------------------------------------------------------------------------------------- messages

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, Output]) -> None:
        """See `Machine.on_message`."""
        match message:
            case Send(value):
                self.on_send(sender, value, out)
            case Echo(name):
                self.on_echo(sender, name, out)
            case Ready(name):
                self.on_ready(sender, name, out)
            case Ask(name):
                self.on_ask(sender, name, out)
            case Answer(value):
                self.on_answer(sender, value, out)

    def on_send(self, sender: MemberId, value: bytes, out: Out[Message, Output]) -> None:
        """Section 3, step 1: echo the first value that the sender sent."""
        if sender != self.sender:
            out.blame(sender, f"sent a value in the broadcast of {self.sender}")
        elif len(value) > self.value_max:
            out.blame(sender, f"sent a value of {len(value)} bytes, more than {self.value_max}")
        elif self.value is None:
            # Bytes before votes (SAFETY rule 3): whoever hears the echo may ask for them, after a restart, too.
            out.persist(CODEC.encode(Send(value)))
            self._hold(value)
            out.broadcast(Echo(self.echoes[self.setup.me]))
            self._count_echo(sender, self.echoes[self.setup.me], out)
        elif value != self.value:
            out.blame(sender, "sent two values in one broadcast")
        else:
            # After a restart the value is here, and the sender's echo, which comes with it, is not.
            self._count_echo(sender, self.echoes[self.setup.me], out)

    def on_echo(self, sender: MemberId, name: Digest, out: Out[Message, Output]) -> None:
        """Section 3, step 2: each member's first echo counts."""
        self._count_echo(sender, name, out)

    def on_ready(self, sender: MemberId, name: Digest, out: Out[Message, Output]) -> None:
        """Section 3, step 3: each member's first ready counts."""
        if self._first(self.readys, sender, name, "was ready for two values of one broadcast", out):
            self.readys[sender] = name
            self._go_on(name, out)

    def on_ask(self, sender: MemberId, name: Digest, out: Out[Message, Output]) -> None:
        """Who asks is answered if the bytes are here; else its `Ask` comes again when it says all again."""
        value = self._held(name)
        count = self.answered.get(sender, 0)
        if value is not None and count < ANSWERS_MAX:
            self.answered[sender] = count + 1
            out.send(sender, Answer(value))

    def on_answer(self, sender: MemberId, value: bytes, out: Out[Message, Output]) -> None:
        """Bytes are what their digest says, whoever sends them."""
        if self.wanted is None or sender in self.misled:
            return
        if digest(value) != self.wanted:
            self.misled.add(sender)
            out.blame(sender, "answered with other bytes than were asked for")
            return
        self.fetched = (self.wanted, value)
        self._go_on(self.wanted, out)

    # ------------------------------------------------------------------------------------------- restarts

    def on_restore(self, records: Sequence[Record], out: Out[Message, Output]) -> None:
        """What this member said before; `said` has it for those who lost it. In a group of one that is all it takes."""
        for record in records:
            match CODEC.decode(record):
                case Send(value):
                    self._hold(value)
                case Ready(name):
                    self.readys[self.setup.me] = name
                case other:
                    raise AssertionError(f"{type(other).__name__} is never recorded")
        if self.setup.quorum.n == 1 and self.value is not None:
            self._go_on(self.echoes[self.setup.me], out)

    # ------------------------------------------------------------------------------------------- parts

    def _hold(self, value: bytes) -> None:
        """This member's echo, before it is sent."""
        self.value = value
        self.echoes[self.setup.me] = digest(value)

    def _held(self, name: Digest) -> bytes | None:
        """The bytes with this digest, if they are here."""
        if self.value is not None and self.echoes[self.setup.me] == name:
            return self.value
        if self.fetched is not None and self.fetched[0] == name:
            return self.fetched[1]
        return None

    def _count_echo(self, sender: MemberId, name: Digest, out: Out[Message, Output]) -> None:
        if self._first(self.echoes, sender, name, "echoed two values of one broadcast", out):
            self.echoes[sender] = name
            self._go_on(name, out)

    def _first(
        self, table: Mapping[MemberId, Digest], sender: MemberId, name: Digest, fault: str, out: Out[Message, Output]
    ) -> bool:
        """Whether this is the first that the member says of this kind. Another one for another value is a lie."""
        if table.get(sender, name) != name:
            out.blame(sender, fault)
        return sender not in table

    def _go_on(self, name: Digest, out: Out[Message, Output]) -> None:
        """After a new echo or ready for this digest, or its bytes: whatever is due now."""
        quorum = self.setup.quorum
        me = self.setup.me
        if me not in self.readys and (
            _count(self.echoes, name) >= quorum.certificate or _count(self.readys, name) >= quorum.weak
        ):
            self.readys[me] = name
            out.persist(CODEC.encode(Ready(name)))
            out.broadcast(Ready(name))
        if self.delivered or _count(self.readys, name) < quorum.available:
            return
        value = self._held(name)
        if value is None:
            self._ask(name, out)
            return
        self.delivered = True
        self.wanted = None
        out.deliver(Delivered(value))

    def _ask(self, name: Digest, out: Out[Message, Output]) -> None:
        """Ask those who echoed it, until f + c + 1 were asked."""
        self.wanted = name
        room = self.setup.quorum.durable - len(self.asked)
        holders = [member for member in self.setup.members if self.echoes.get(member) == name]
        new = [member for member in holders if member not in self.asked][: max(0, room)]
        self.asked.update(new)
        out.send(new, Ask(name))


def _count(table: Mapping[MemberId, Digest], name: Digest) -> int:
    return sum([item == name for item in table.values()])
