"""Open this file first: what a machine is, and everything that it can ask of the world.

A *machine* is a deterministic, sans-I/O state machine. Messages, timers and draws come in through the `on_...`
methods; what the machine wants from the world it writes into the `Out` that it was handed. It has no clock, no
randomness, no I/O, no threads, no global state, and it walks nothing in an undefined order. So the same object
runs in a real node, in the simulated world and under the exhaustive checker, and every run can be replayed.

Time is counted in *ticks*; a node lets one tick last one millisecond.

Effects keep their order, and one rule ties them together (SAFETY rule 5): what a `persist` records is durable
before any *later* send of the same machine leaves, and before any reply that a later `deliver` causes.

Three kinds of failure have three forms: a peer's fault is a `blame` (data), a caller's mistake is an exception
with a clear text, our own broken invariant is an `assert` beside the line that relies on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

import attrs

MemberId: TypeAlias = str
"""A member's short id, such as ``m0``."""

Slot: TypeAlias = int
"""A position in the one total order, counted from 1 through all epochs. 0 means "before the first"."""

Epoch: TypeAlias = int
Digest: TypeAlias = bytes
Record: TypeAlias = bytes
"""What a machine made durable, as bytes; it gets the same bytes back in `on_restore`."""

TimerKey: TypeAlias = tuple[str | int | bytes, ...]
DrawKey: TypeAlias = tuple[str | int | bytes, ...]

STANDING: Slot = 0
"""The slot of a record that concerns no slot in particular (a view number); see `Out.persist`."""

M = TypeVar("M")
O = TypeVar("O")  # noqa: E741 - the letter is the interface's own
CM = TypeVar("CM")
CO = TypeVar("CO")
I_contra = TypeVar("I_contra", contravariant=True)


# ------------------------------------------------------------------------------------------------- effects


@attrs.frozen
class Send(Generic[M]):
    """Send a message to the named members (never to oneself). `carry` names batches whose bytes go with it."""

    to: tuple[MemberId, ...]
    message: M
    carry: tuple[Digest, ...] = ()


@attrs.frozen
class Broadcast(Generic[M]):
    """Send a message to every *other* member of the group. A machine counts its own vote itself."""

    message: M
    carry: tuple[Digest, ...] = ()


@attrs.frozen
class Deliver(Generic[O]):
    """Hand an output to whoever runs this machine."""

    output: O


@attrs.frozen
class Blame:
    """A peer broke the protocol. `proof` is signed, locally complete bytes, or empty: then it is only counted."""

    member: MemberId
    fault: str
    proof: bytes = b""


@attrs.frozen
class SetTimer:
    """Call `on_timer(key)` after so many ticks. A timer that is set again starts anew."""

    key: TimerKey
    ticks: int


@attrs.frozen
class CancelTimer:
    """Forget the timer, if it is set."""

    key: TimerKey


@attrs.frozen
class Draw:
    """Call `on_draw(key, value)` with a value drawn uniformly from range(choices)."""

    key: DrawKey
    choices: int


@attrs.frozen
class DrawSecret:
    """As `Draw`, for 32 secret bytes that enter neither log nor trace (SAFETY rule 20)."""

    key: DrawKey


@attrs.frozen
class Persist:
    """Make a record durable. See `Out.persist`."""

    record: Record
    slot: Slot


Effect: TypeAlias = Send[M] | Broadcast[M] | Deliver[O] | Blame | SetTimer | CancelTimer | Draw | DrawSecret | Persist


class Out(Generic[M, O]):
    """One step's effects, in the order in which the machine asked for them."""

    __slots__ = ("effects",)

    def __init__(self) -> None:
        self.effects: list[Effect[M, O]] = []

    def send(self, to: MemberId | Sequence[MemberId], message: M, carry: tuple[Digest, ...] = ()) -> None:
        """Send to one member or to several; see `Send`."""
        receivers = (to,) if isinstance(to, str) else tuple(to)
        if receivers:
            self.effects.append(Send(receivers, message, carry))

    def broadcast(self, message: M, carry: tuple[Digest, ...] = ()) -> None:
        """Send to every other member; see `Broadcast`."""
        self.effects.append(Broadcast(message, carry))

    def deliver(self, output: O) -> None:
        """Hand an output to whoever runs this machine."""
        self.effects.append(Deliver(output))

    def blame(self, member: MemberId, fault: str, proof: bytes = b"") -> None:
        """Say that a peer broke the protocol; with `proof` it becomes evidence (SAFETY rule 6)."""
        self.effects.append(Blame(member, fault, proof))

    def set_timer(self, key: TimerKey, ticks: int) -> None:
        """Ask for `on_timer(key)` in `ticks` ticks; replaces a timer of the same key."""
        assert ticks > 0
        self.effects.append(SetTimer(key, ticks))

    def cancel_timer(self, key: TimerKey) -> None:
        """Forget the timer, if it is set."""
        self.effects.append(CancelTimer(key))

    def draw(self, key: DrawKey, choices: int) -> None:
        """Ask for `on_draw(key, value)`, value uniform in range(choices)."""
        assert choices > 0
        self.effects.append(Draw(key, choices))

    def draw_secret(self, key: DrawKey) -> None:
        """Ask for 32 secret bytes; they come by the interpreter's own path and are never traced."""
        self.effects.append(DrawSecret(key))

    def persist(self, record: Record, slot: Slot = STANDING) -> None:
        """Make `record` durable before any later send leaves (SAFETY rule 5).

        `slot` says what the record is about: it may be forgotten once a stable checkpoint covers that slot. A
        record with slot `STANDING` never expires by itself; the machine repeats what still matters of those in
        `standing()` whenever the log starts a new segment, and older ones are forgotten then.
        """
        self.effects.append(Persist(record, slot))

    def adopt(
        self,
        tag: str | int | bytes,
        child: Out[CM, CO],
        wrap: Callable[[CM], M],
        wrap_record: Callable[[Record], Record] | None = None,
        slot: Slot | None = None,
    ) -> list[CO]:
        """Take a child machine's effects as ours, in order; return its outputs, which are the parent's to act on.

        Messages are wrapped, timer and draw keys get `tag` in front (the parent strips it before it calls the
        child), records are wrapped by `wrap_record` and concern `slot`, where these are given.
        """
        outputs: list[CO] = []
        for effect in child.effects:
            match effect:
                case Send(to, message, carry):
                    self.effects.append(Send(to, wrap(message), carry))
                case Broadcast(message, carry):
                    self.effects.append(Broadcast(wrap(message), carry))
                case Deliver(output):
                    outputs.append(output)
                case SetTimer(key, ticks):
                    self.effects.append(SetTimer((tag, *key), ticks))
                case CancelTimer(key):
                    self.effects.append(CancelTimer((tag, *key)))
                case Draw(key, choices):
                    self.effects.append(Draw((tag, *key), choices))
                case DrawSecret(key):
                    self.effects.append(DrawSecret((tag, *key)))
                case Persist(record, about):
                    wrapped = wrap_record(record) if wrap_record else record
                    self.effects.append(Persist(wrapped, about if slot is None else slot))
                case Blame():
                    self.effects.append(effect)
        return outputs


# ------------------------------------------------------------------------------------------------- machines


class Machine(Protocol[I_contra, M, O]):
    """A deterministic state machine: inputs `I`, messages `M`, outputs `O`. See the top of this file.

    Every method has this empty body to inherit: a machine need not speak of events that mean nothing to it.
    """

    # So that an attrs machine has no __dict__, in which attributes that are no fields could hide from `fork`.
    __slots__ = ()

    def on_start(self, out: Out[M, O]) -> None:
        """Called once, before anything else except `on_restore`."""
        return

    def on_input(self, value: I_contra, out: Out[M, O]) -> None:
        """Whoever runs the machine wants something of it."""
        return

    def on_message(self, sender: MemberId, message: M, out: Out[M, O]) -> None:
        """A message came over an authenticated link from `sender`; its content may be a lie."""
        return

    def on_timer(self, key: TimerKey, out: Out[M, O]) -> None:
        """The timer that was set under `key` is due."""
        return

    def on_draw(self, key: DrawKey, value: int, out: Out[M, O]) -> None:
        """The value that was asked for under `key`."""
        return

    def on_restore(self, records: Sequence[Record], out: Out[M, O]) -> None:
        """After a restart, before `on_start`: everything this machine persisted and may still need, in order."""
        return

    def on_stable(self, slot: Slot, digest: Digest, out: Out[M, O]) -> None:
        """A checkpoint at `slot` is stable: what lies at or below it is settled and can be forgotten."""
        return

    def on_stop(self, slot: Slot, out: Out[M, O]) -> None:
        """The epoch ends with `slot`: nothing above it may be decided by this instance (SAFETY rule 23)."""
        return


@attrs.frozen
class Transition:
    """One row of a machine's table of roles or phases, from which the documentation draws its diagrams."""

    source: str
    event: str
    target: str
