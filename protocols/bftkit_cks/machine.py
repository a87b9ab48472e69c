"""The machine: rounds side by side, and the one order of slots that comes out of them.

It walks rounds from the lowest that is not delivered. In each of the next `pipeline` rounds this member may offer one
batch. A round that somebody else began gets an offer, too, be it the empty one: n − f − c offers make a round, so who
is idle must not starve the others (CRYPTO 2001, section 6). What the rounds agree on is delivered round by round, slot
by slot.

No decision waits for a clock. There is one timer, and it only repeats what was said, for links that lose messages: see
`exchange`.

What lies where, in slots::

    start ≤ stable ≤ delivered            rounds that end at or below `stable` are forgotten
    offers up to delivered + pipeline rounds, stable + window slots, the epoch's end
    messages up to stable + 2 windows, since others may be ahead by what this member has not heard of yet
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

import attrs

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.core.digest import DIGEST_SIZE, NO_DIGEST
from bftkit.core.machine import Digest, DrawKey, MemberId, Persist, Record, Slot, TimerKey, Transition
from bftkit.core.machine import Out as AnyOut
from bftkit.core.ordering import (
    Available,
    BatchWanted,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    OrderingInput,
    Propose,
    Refused,
    Returned,
    Setup,
    Waiting,
)
from bftkit.core.quorum import QuorumError
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import WireError

from . import exchange, lists, restart
from . import messages as m
from .exchange import Exchange
from .record import RECORD
from .rounds import PHASES, Out, Round, carried, holders_but

WINDOWS: Final = 2
"""So many windows above the stable slot messages are taken."""


@attrs.define(eq=False)
class CksMachine(Forkable):
    """One member of one epoch. See the top of this file."""

    round_phases: ClassVar[tuple[Transition, ...]] = PHASES

    setup: Setup = attrs.field(metadata=SHARED)
    slots: m.Rounds
    index: int
    """This member's place in the roster."""
    rounds: dict[int, Round] = attrs.field(factory=dict[int, Round])
    """By number; none that ends at or below `stable`."""
    delivered: Slot = 0
    stable: Slot = 0
    boundary: Slot | None = None
    """The epoch's last slot, once it is known."""
    begun: int = 0
    """The highest round of which any message came."""
    highest: int = 0
    """The highest round in which this member offered."""
    voted: int = 0
    """The highest round in which this member helped to decide."""
    learned: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    """Above `delivered`: decided slots of which the channel told."""
    here: dict[Digest, int] = attrs.field(factory=dict[Digest, int])
    """Batches whose bytes are here, each with the highest round that it was wanted for."""
    wanted: dict[Digest, list[tuple[int, int]]] = attrs.field(factory=dict[Digest, list[tuple[int, int]]])
    """Batches whose bytes are asked for, with the offers (round, index) that wait for them."""
    exchange: Exchange = attrs.field(factory=Exchange)
    restoring: bool = False
    """While the records are read: what follows from them is said in `restart.resume`."""

    @classmethod
    def create(cls, setup: Setup) -> CksMachine:
        """The machine for this member. Raises `ValueError` for a set-up with which it could not go on."""
        quorum = setup.quorum
        needed = RECORD.members_needed(quorum.f, quorum.c)
        if quorum.n < needed:
            raise QuorumError(
                f"cks survives f = {quorum.f} liars and c = {quorum.c} crashes with {needed} members; "
                f"there are {quorum.n}"
            )
        if setup.coins is None:
            raise ValueError("cks tosses coins: the group needs coin keys")
        if setup.coins.threshold != quorum.available:
            raise ValueError(f"the coins' threshold is {setup.coins.threshold}, must be n − f − c = {quorum.available}")
        if lists.list_bytes_max(setup) > cb.VALUE_BYTES_MAX:
            raise ValueError(f"the offers of {quorum.available} members with their proofs do not fit into one proposal")
        if 2 * (quorum.available - 1) > setup.window:
            # Else the round in which the next checkpoint lies could reach above the window, and would never begin.
            raise ValueError(f"rounds of {quorum.available} slots need a window of {2 * (quorum.available - 1)} slots")
        return cls(
            setup,
            m.Rounds(setup.start, quorum.available),
            setup.members.index(setup.me),
            delivered=setup.start,
            stable=setup.start,
        )

    # ------------------------------------------------------------------------------------------ what it shows

    @property
    def room(self) -> int:
        """Rounds in which this member may still offer a batch."""
        return sum(1 for _ in self._offerable())

    @property
    def leader(self) -> MemberId | None:
        """Nobody: everybody proposes."""
        return None

    @property
    def view(self) -> int:
        """The last round that was delivered as a whole."""
        return self.slots.complete(self.delivered)

    @property
    def highest_voted(self) -> Slot:
        """The last slot of the highest round that this member may have helped to decide (SAFETY rule 13)."""
        voted = max(self.delivered, self.slots.last(self.voted))
        return voted if self.boundary is None else min(voted, self.boundary)

    def standing(self) -> Sequence[Record]:
        """Every record is about one round."""
        return ()

    # ------------------------------------------------------------------------------------------ events

    def on_start(self, out: Out) -> None:
        """Say that nobody leads, and, after a restart, where this member stands."""
        out.deliver(LeaderChanged(0, None))
        exchange.arm(self, out)
        restart.resume(self, out)

    def on_restore(self, records: Sequence[Record], out: Out) -> None:
        """See `restart`."""
        restart.restore(self, records, out)

    def on_draw(self, key: DrawKey, value: int, out: Out) -> None:
        """Nothing is drawn: chance comes from the coins."""

    def on_timer(self, key: TimerKey, out: Out) -> None:
        """Look whether something was lost."""
        exchange.due(self, out)

    def on_input(self, value: OrderingInput, out: Out) -> None:
        """See `bftkit.core.ordering`."""
        match value:
            case Propose(batch):
                number = next(self._offerable(), None)
                if number is None:
                    raise ValueError("there is no room for a proposal: ask `room` first")
                self._offer(number, batch.digest, out)
            case Available(digest):
                self._on_bytes(digest, out)
            case Refused(digest):
                for number, index in self.wanted.pop(digest, []):
                    fault = f"it offered a batch with a request that is not authentic in round {number}"
                    out.blame(self.setup.members[index], fault)
            case Learned(slot, digest):
                if slot > self.delivered:
                    self.learned[slot] = digest
            case Waiting() | Neglected():
                pass  # nobody leads, so there is nobody to give up
        self._go_on(out)

    def on_message(self, sender: MemberId, message: m.Message, out: Out) -> None:
        """A peer's message."""
        match message:
            case m.Part():
                self._on_part(sender, message, out)
            case m.Status():
                exchange.on_status(self, sender, message, out)
        self._go_on(out)

    def on_stable(self, slot: Slot, digest: Digest, out: Out) -> None:
        """Rounds at or below `slot` are over, whether they were decided here or came with a state transfer."""
        if slot <= self.stable:
            return
        jumped = slot > self.delivered
        self.stable = slot
        self.delivered = max(self.delivered, slot)
        over = self.slots.complete(slot)
        for number in sorted(number for number in self.rounds if number <= over):
            state = self.rounds.pop(number)
            if not state.agreed:
                self._give_back(state, out)
        self.learned = {at: learned for at, learned in self.learned.items() if at > slot}
        self.here = {known: last for known, last in self.here.items() if last > over}
        for wanted in list(self.wanted):
            self.wanted[wanted] = [offer for offer in self.wanted[wanted] if offer[0] > over]
            if not self.wanted[wanted]:
                del self.wanted[wanted]
        if jumped:
            exchange.ask(self, out)
        self._go_on(out)

    def on_stop(self, slot: Slot, out: Out) -> None:
        """Fill up to the boundary with what there is, window or not; above it nothing counts (SAFETY rule 23).

        Rounds take long: clients are served in those that are left.
        """
        self.boundary = slot
        end = self.slots.of(slot)
        for number in sorted(number for number in self.rounds if number > end):
            self._give_back(self.rounds.pop(number), out)
        for wanted in list(self.wanted):
            self.wanted[wanted] = [offer for offer in self.wanted[wanted] if offer[0] <= end]
            if not self.wanted[wanted]:
                del self.wanted[wanted]
        self._go_on(out)

    # ------------------------------------------------------------------------------------------ rounds

    @property
    def limit(self) -> int:
        """The highest round of which messages are taken."""
        if self.boundary is not None:
            return self.slots.of(self.boundary)
        return self.slots.complete(self.stable + WINDOWS * self.setup.window)

    def _take(self, number: int) -> Round | None:
        """The round of a peer's message; None if it is over, or further ahead than this member looks."""
        if number > self.limit:
            if self.boundary is None:
                self.exchange.missed(number)
            return None
        if number <= self.slots.complete(self.stable):
            return None
        self.begun = max(self.begun, number)
        return self.round(number)

    def round(self, number: int) -> Round:
        """The round, begun here if it was not."""
        state = self.rounds.get(number)
        if state is None:
            state = self.rounds[number] = Round(number)
        return state

    def _offerable(self) -> Iterator[int]:
        """The rounds in which this member may offer now, ascending."""
        complete = self.slots.complete(self.delivered)
        last = complete + self.setup.parameter(RECORD, "pipeline")
        if self.boundary is not None:
            last = min(last, self.slots.of(self.boundary))
        else:
            last = min(last, self.slots.complete(self.stable + self.setup.window))
        for number in range(max(self.highest, complete) + 1, last + 1):
            state = self.rounds.get(number)
            if state is None or not state.agreed:
                yield number

    def _on_part(self, sender: MemberId, part: m.Part, out: Out) -> None:
        state = self._take(part.round)
        if state is None or state.agreed:
            return
        if self.slots.last(part.round) <= self.delivered and state.offered is None:
            # The channel told us what was decided here. Whoever still works on it needs us all the same: what is
            # offered now makes no difference to anybody.
            self._offer(part.round, NO_DIGEST, out)
        try:
            if part.kind == m.OFFER:
                if part.index >= len(self.setup.members):
                    raise WireError(f"an offer of member {part.index}: there is none")
                message = cb.CODEC.decode(part.body)
                child: AnyOut[cb.Message, cb.Output] = AnyOut()
                state.offer(self.setup, part.index).on_message(sender, message, child)
                self.adopt_offer(state, part.index, child, out)
            else:
                inner: AnyOut[va.Part, va.Agreed] = AnyOut()
                state.agree(self.setup).on_message(sender, va.Part(part.kind, part.index, part.body), inner)
                self.adopt_agreement(state, inner, out)
        except WireError as error:
            out.blame(sender, f"refused: {error}")

    # ------------------------------------------------------------------------------------------ offers

    def _offer(self, number: int, digest: Digest, out: Out) -> None:
        """Offer a batch, the empty one too, to everybody. Its bytes are here (see `Propose`)."""
        state = self.round(number)
        assert state.offered is None, "a correct member offers once a round"
        state.offered = digest
        self.highest = max(self.highest, number)
        if digest != NO_DIGEST:
            self.here[digest] = max(number, self.here.get(digest, 0))
        child: AnyOut[cb.Message, cb.Output] = AnyOut()
        state.offer(self.setup, self.index).on_input(cb.Start(digest, carried(digest)), child)
        self.adopt_offer(state, self.index, child, out)

    def adopt_offer(self, state: Round, index: int, child: AnyOut[cb.Message, cb.Output], out: Out) -> None:
        """Take what an offer's broadcast wants as ours."""
        number = state.number
        outputs = out.adopt(
            number,
            child,
            lambda message: m.Part(number, m.OFFER, index, cb.CODEC.encode(message)),
            lambda record: state.record(m.OFFER, index, record),
            self.slots.last(number),
        )
        for output in outputs:
            match output:
                case cb.Offered(value):
                    self._on_offered(state, index, value, out)
                case cb.Delivered(value, proof):
                    state.proofs[index] = proof
                    if index == self.index and state.offered is None:
                        # An offer of our own that this disk does not know of (SAFETY rule 16): it is the one.
                        state.offered = value
                        self.highest = max(self.highest, number)
                    self._propose(state, out)

    def _on_offered(self, state: Round, index: int, digest: bytes, out: Out) -> None:
        """Bytes before votes: an offer is echoed when its batch is here (SAFETY rules 3 and 4)."""
        sender = self.setup.members[index]
        if len(digest) != DIGEST_SIZE:
            out.blame(sender, f"its offer of round {state.number} is no digest")
        elif digest == NO_DIGEST:
            self._approve(state, index, out)
        else:
            # Asked even if the bytes are here: they must be kept until this round is settled.
            self.wanted.setdefault(digest, []).append((state.number, index))
            out.deliver(Fetch(digest, self.slots.last(state.number), holders_but(self.setup.me, (sender,))))

    def _approve(self, state: Round, index: int, out: Out) -> None:
        child: AnyOut[cb.Message, cb.Output] = AnyOut()
        state.offer(self.setup, index).on_input(cb.Approve(), child)
        self.adopt_offer(state, index, child, out)

    def _on_bytes(self, digest: Digest, out: Out) -> None:
        waiting = self.wanted.pop(digest, [])
        last = max((number for number, _ in waiting), default=self.slots.complete(self.delivered) + 1)
        self.here[digest] = max(last, self.here.get(digest, 0))
        for number, index in waiting:
            state = self.rounds.get(number)
            if state is not None and not state.agreed:
                self._approve(state, index, out)

    # ------------------------------------------------------------------------------------------ agreement

    def _propose(self, state: Round, out: Out) -> None:
        """With n − f − c offers delivered, propose their list. (CRYPTO 2001, section 6, step 2)"""
        if state.proposed or len(state.proofs) < self.slots.width:
            return
        state.proposed = True
        value = lists.make_list(dict(list(state.proofs.items())[: self.slots.width]))
        child: AnyOut[va.Part, va.Agreed] = AnyOut()
        state.agree(self.setup).on_input(va.Propose(value), child)
        self.adopt_agreement(state, child, out)

    def adopt_agreement(self, state: Round, child: AnyOut[va.Part, va.Agreed], out: Out) -> None:
        """Take what a round's agreement wants as ours."""
        number = state.number
        outputs = out.adopt(
            number,
            child,
            lambda part: m.Part(number, part.kind, part.index, part.body),
            lambda record: state.record(m.AGREEMENT, 0, record),
            self.slots.last(number),
        )
        if number > self.voted and any(isinstance(effect, Persist) for effect in child.effects):
            self.note_vote(state)
        for output in outputs:
            if not state.agreed:
                self._settle(state, output.value, output.proof, out)

    def note_vote(self, state: Round) -> None:
        """Whether this member voted for a decision of the round; a strong read waits for it then."""
        strongest = state.agreement.strongest() if state.agreement is not None else None
        if strongest is not None and strongest.value:
            self.voted = max(self.voted, state.number)

    def _settle(self, state: Round, value: bytes, proof: bytes, out: Out) -> None:
        """The round is agreed on. The proof went to everybody, so that nobody needs this member in it any more."""
        state.settle(self.setup, value, proof)
        self.voted = max(self.voted, state.number)
        if self.restoring:
            return
        self.fetch(state, out)
        if not self._kept(state):
            self._give_back(state, out)
        self._deliver(out)

    def fetch(self, state: Round, out: Out) -> None:
        """Ask for the agreed batches that may not be here until the round is delivered."""
        first = self.slots.first(state.number)
        for slot, listed in enumerate(state.batches, start=first):
            digest = listed.digest
            if slot <= self.delivered or digest == NO_DIGEST or self.here.get(digest, 0) >= state.number:
                continue
            # Its voters hold the bytes, a correct one that is up among them.
            holders = holders_but(self.setup.me, listed.holders)
            self.wanted.setdefault(digest, []).append((state.number, listed.index))
            out.deliver(Fetch(digest, self.slots.last(state.number), holders))

    def _kept(self, state: Round) -> bool:
        """Whether this member's own batch is among those that the round puts before the epoch's end."""
        first = self.slots.first(state.number)
        return any(
            listed.digest == state.offered and (self.boundary is None or slot <= self.boundary)
            for slot, listed in enumerate(state.batches, start=first)
        )

    def _give_back(self, state: Round, out: Out) -> None:
        """The round is over without this member's own batch."""
        if state.offered not in (None, NO_DIGEST):
            assert state.offered is not None
            out.deliver(Returned(state.offered))

    # ------------------------------------------------------------------------------------------ going on

    def _go_on(self, out: Out) -> None:
        """What follows from any event: deliver, take part in what others began, ask for what was passed over."""
        self._deliver(out)
        # Up to the epoch's end all rounds are wanted, else those that others have begun and this member did not.
        if self.boundary is not None or self.begun > self.highest:
            for number in self._offerable():
                if self.boundary is None and number > self.begun:
                    break
                state = self.round(number)
                if not state.asked:
                    state.asked = True
                    out.deliver(BatchWanted())
        if self.exchange.is_due(self.view + 1):
            exchange.ask(self, out)

    def _deliver(self, out: Out) -> None:
        """The decided slots that are next, while their bytes are here."""
        while self.boundary is None or self.delivered < self.boundary:
            slot = self.delivered + 1
            number = self.slots.of(slot)
            state = self.rounds.get(number)
            digest = self.learned.pop(slot, None)
            if digest is None:
                if state is None or not state.agreed:
                    return
                digest = state.batches[slot - self.slots.first(number)].digest
                if digest != NO_DIGEST and digest not in self.here:
                    return
            self.delivered = slot
            out.deliver(Decided(slot, digest))
            if slot == self.slots.last(number) and state is not None and not state.agreed and state.offered is None:
                self._offer(number, NO_DIGEST, out)  # as in `_on_part`
