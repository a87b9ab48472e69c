"""From one epoch to the next: how an epoch ends at a member, and how the next one begins there.

**Ending.** When the epoch's last slot is executed (a committed change fixed it, or a forced ending did), the member
hashes its state, signs the `Ending` and tells everybody; a quorum's signatures make the hand-over. Slots above the
last one are void, whatever the protocol says of them (SAFETY rule 23).

**Crossing.** The hand-over is a certified checkpoint. Its state is made durable *before* this member goes on: from
then on the log begins with the hand-over, and the old protocol's records may go. A member that crashes before is still
in the old epoch and comes to the same ending; after, it is in the new one and has the state it begins with.

**Beginning.** The protocol of the new epoch starts at once, but nothing is executed before q' of the new members have
signed that they hold the state durably (rule 26; see `beginning`). What waits in the pool is proposed anew; sessions
are state, so each request executes once.

**Following.** Whoever hears of a later epoch asks for the chain of hand-overs and fetches the newest state; the chain
itself is in `lineage`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.beginning import Beginning
from bftkit.channel.checkpoints import Stable
from bftkit.channel.frames import (
    ChainLinks,
    ChainRequest,
    CheckpointProof,
    EndingVote,
    Holding,
    pack_answer,
    pack_control,
)
from bftkit.channel.interface import Entered, Linked, Neighbours, ReplicaOut, ToClient
from bftkit.channel.lineage import Lineage
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import (
    HANDOVER_PURPOSE,
    Ending,
    HandOver,
    Place,
)
from bftkit.membership.commands import SignedCommand
from bftkit.membership.epochs import Configuration, Schedule
from bftkit.membership.roster import RosterEntry

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

REPEAT_BEATS: Final = 3
"""What others may have missed is said again every so many beats."""
EARLY_FRAMES: Final = 256
EARLY_BYTES: Final = 4 << 20
"""So much of each member waits here that came before this member entered its epoch (FAULTS 29)."""
CLIENTS_MAX: Final = 65536
"""So many clients' links are remembered, to prove the new epoch's key over them."""


@attrs.frozen
class Last:
    """How the present epoch ends, as this member knows it."""

    slot: Slot
    """The epoch's last slot."""
    next: Configuration
    schedule: Schedule
    signed: SignedCommand
    selection: bytes


@attrs.define
class _Early:
    frames: deque[bytes] = attrs.field(factory=deque[bytes])
    size: int = 0


class Succession:
    """The part of a replica that goes from epoch to epoch."""

    def __init__(self, replica: Replica, place: Place) -> None:
        self._replica = replica
        self.place = place
        self.lineage = Lineage(replica, place)
        self.last: Last | None = None
        self.ending: Ending | None = None
        """The end as this member came to it, signed as soon as it may be."""
        self.votes: dict[MemberId, tuple[bytes, bytes]] = {}
        """Statement and signature of everybody's newest vote on the ending."""
        self.beginning = Beginning(replica, self)
        self.crossing: HandOver | None = None
        """The hand-over whose state is being saved."""
        self.bindings: dict[bytes, bytes] = {}
        """The links of clients, to be proved with the keys of the next epoch."""
        self._early: dict[MemberId, _Early] = {}

    # ------------------------------------------------------------------------------------------ what others see

    @property
    def configuration(self) -> Configuration:
        """The present configuration."""
        return self.place.configuration

    @property
    def links(self) -> dict[int, HandOver]:
        """See `Lineage.links`."""
        return self.lineage.links

    @property
    def ahead(self) -> list[HandOver]:
        """See `Lineage.ahead`."""
        return self.lineage.ahead

    @property
    def active(self) -> bool:
        """See `Beginning.active`."""
        return self.beginning.active

    @property
    def holders(self) -> Mapping[MemberId, bytes]:
        """See `Beginning.holders`."""
        return self.beginning.holders

    @property
    def opened_by(self) -> HandOver | None:
        """The hand-over that opened the present epoch; None in epoch 0."""
        return self.links.get(self.configuration.epoch - 1)

    @property
    def end(self) -> Slot | None:
        """The epoch's last slot, if it is known."""
        if self.last is not None:
            return self.last.slot
        if self.ahead:
            return self.ahead[0].ending.slot  # and the state that is here may be of a later epoch already
        replica = self._replica
        state, forced = replica.state.reconfiguring, replica.wedge.continuation
        planned = state.boundary if state is not None and state.boundary else None
        if forced is None:
            return planned
        return forced.end if planned is None else min(planned, forced.end)

    @property
    def at_end(self) -> bool:
        """Whether the epoch's last slot is executed."""
        end = self.end
        return end is not None and self._replica.applied >= end

    def joining(self) -> tuple[RosterEntry, ...]:
        """Members of the next epoch that are none of this one."""
        state = self._replica.state.reconfiguring
        if state is None or state.pending is None:
            return ()
        here = set(self.configuration.members)
        return tuple(entry for entry in state.pending.next.roster.entries if entry.id not in here)

    def later(self) -> tuple[RosterEntry, ...]:
        """Members of the epoch that the links ahead lead to: of those that are members here, none may be left."""
        return self.lineage.ahead_place.configuration.roster.entries if self.ahead else ()

    def observers(self) -> tuple[MemberId, ...]:
        """Who is no member, and is told what it needs to follow the group; or can tell us."""
        here = self._replica.indices
        told = (*self.joining(), *self.beginning.leaving, *self.later())
        others = {entry.id: None for entry in told if entry.id not in here}
        return tuple(name for name in others if name != self._replica.me)

    def is_known(self, sender: MemberId) -> bool:
        """Whether this is a member, or one that is joining or leaving."""
        return sender in self._replica.indices or sender in self.observers()

    def tell_neighbours(self, out: ReplicaOut) -> None:
        """Whom to have links with, to the node."""
        here = self.configuration.roster.entries
        entries = {entry.id: entry for entry in (*self.beginning.leaving, *self.joining(), *here, *self.later())}
        out.deliver(Neighbours(tuple(entries[name] for name in sorted(entries))))

    def everyone(self, frame: bytes, out: ReplicaOut) -> None:
        """Tell all members, and those that follow."""
        out.broadcast(frame)
        observers = self.observers()
        if observers:
            out.send(observers, frame)

    # ------------------------------------------------------------------------------------------ the end

    def on_executed(self, slot: Slot, out: ReplicaOut) -> None:
        """A slot was executed: is it the epoch's last one?"""
        state = self._replica.state.reconfiguring
        if self.last is None and state is not None and state.pending is not None and state.boundary == slot:
            pending = state.pending
            self.conclude(Last(slot, pending.next, pending.schedule, pending.signed, pending.selection), out)

    def conclude(self, last: Last, out: ReplicaOut) -> None:
        """The epoch's last slot is executed here; what is left is to sign it."""
        replica = self._replica
        self.last = last
        ready, stable = replica.checkpoints.ready.get(last.slot), replica.checkpoints.at(last.slot)
        if ready is not None:
            self.on_hashed(last.slot, ready[0], out)
        elif stable is not None:
            self.on_hashed(last.slot, stable.root, out)
        else:
            replica.executing.hash_now(last.slot)

    def on_hashed(self, slot: Slot, root: Digest, out: ReplicaOut) -> bool:
        """The state after this slot is hashed; says whether that was the epoch's last one."""
        last = self.last
        if last is None or slot != last.slot:
            if self.ahead and self.ahead[0].ending.slot == slot:
                self.lineage.approach(out)
                return True
            return False
        ending = Ending(self.configuration.epoch, slot, root, last.next.digest, last.signed.name)
        self.ending = ending
        self.sign(out)
        self.try_cross(out)
        return True

    def sign(self, out: ReplicaOut) -> None:
        """Sign the ending, if it is known and this member may.

        One that has left the protocol signs only what the bedrock decided, though it be the same (SAFETY rule 21).
        """
        replica, ending = self._replica, self.ending
        if ending is None or replica.passive or replica.stopped is not None or replica.me in self.votes:
            return
        if replica.wedged and replica.wedge.continuation is None:
            return
        body = ending.encode()
        replica.settling.note_voted(ending.slot, out)
        signature = replica.settings.keyring.sign(HANDOVER_PURPOSE, body)
        self.votes[replica.me] = (body, signature)
        self.everyone(pack_control(EndingVote(body, signature)), out)

    def _on_ending_vote(self, sender: MemberId, vote: EndingVote, out: ReplicaOut) -> None:
        replica = self._replica
        ending = Ending.decode(vote.body)
        if ending.epoch < self.configuration.epoch:
            self.lineage.send(sender, ending.epoch, out)
            return
        if ending.epoch > self.configuration.epoch or sender not in replica.indices:
            return
        if not replica.settings.keyring.verify(sender, HANDOVER_PURPOSE, vote.body, vote.signature):
            raise WireError("a vote on the epoch's ending with a bad signature")
        self.votes[sender] = (vote.body, vote.signature)
        self.try_cross(out)

    def try_cross(self, out: ReplicaOut) -> None:
        """With a quorum's signatures under this member's own ending, it crosses."""
        replica = self._replica
        if self.ending is None or self.crossing is not None:
            return
        mine = self.ending.encode()
        votes = {member: signature for member, (body, signature) in self.votes.items() if body == mine}
        last = self.last
        assert last is not None
        if len(votes) < replica.quorum.certificate:
            self._look_for_divergence(mine, out)
            return
        certificate = Certificate.of(mine, votes)
        link = HandOver(certificate, last.next.encode(), last.signed.encode(), last.selection)
        self.cross(link, out)

    def _look_for_divergence(self, mine: bytes, out: ReplicaOut) -> None:
        """SAFETY rule 14, for the last slot."""
        counts: dict[bytes, int] = {}
        for body, _ in self.votes.values():
            counts[body] = counts.get(body, 0) + 1
        replica = self._replica
        missing = replica.quorum.n - len(self.votes)
        if counts and max(counts.values()) + missing < replica.quorum.certificate and mine in counts:
            replica.halt(f"the members differ about the end of epoch {self.configuration.epoch}", out)

    # ------------------------------------------------------------------------------------------ crossing

    def on_fetched(self, slot: Slot) -> bool:
        """The state after this slot was fetched; says whether it leads into another epoch."""
        leads = [link for link in self.ahead if link.ending.slot <= slot]
        if not leads:
            return False
        self.crossing = leads[-1]
        return True

    def cross(self, link: HandOver, out: ReplicaOut) -> None:
        """The hand-over is here, and so is its state: make that durable."""
        replica = self._replica
        self.crossing = link
        replica.preparing.may_enter(link, out)  # what is still to be kept for that is kept while the state is saved
        ready = replica.checkpoints.ready.get(link.ending.slot)
        if replica.checkpoints.stable == link.ending.slot:
            # A forced ending may fall on a checkpoint: from now on it is the hand-over that proves this state, since
            # nobody checks signatures of an epoch before any more.
            replica.checkpoints.certify(link.ending.slot, link.certificate)
            if link.ending.slot in replica.settling.saved:
                self.on_saved(link.ending.slot, out)
            return
        assert ready is not None
        root, hashed = ready
        assert root == link.ending.root
        stable = Stable(link.ending.slot, root, link.certificate, tuple(hashed.leaves), hashed.view)
        replica.settling.settle(stable, out, tell=False)

    def on_saved(self, slot: Slot, out: ReplicaOut) -> bool:
        """A checkpoint is durable here; says whether this member entered a new epoch by it."""
        link = self.crossing
        if link is None or slot < link.ending.slot:
            return False
        if not self._replica.preparing.may_enter(link, out):
            return False
        self._enter(link, out)
        return True

    def reached(self, ending: Ending, certificate: Certificate) -> bool:
        """After a restart: the state that this ending is about is durable here, and the log knows nothing of it.

        Says whether this member can go on from there: it knows the hand-over, or comes to the same ending itself.
        """
        replica = self._replica
        for link in self.ahead:
            if link.ending == ending:
                self.crossing = link
                return True
        here, keyring = self.configuration, replica.settings.keyring
        if ending.epoch != here.epoch:
            return False
        if not certificate.valid(keyring, HANDOVER_PURPOSE, here.quorum.certificate):
            raise WireError("the saved end of the epoch is not signed by a quorum")
        self.votes = {vote.member: (certificate.body, vote.signature) for vote in certificate.votes}
        return True

    def resume(self, out: ReplicaOut) -> None:
        """After a restart: the epoch's last slot may have been executed before it."""
        if self.crossing is not None:
            self.try_enter(out)
        else:
            self.on_executed(self._replica.applied, out)

    def try_enter(self, out: ReplicaOut) -> None:
        """Something came that this member may have waited for."""
        replica = self._replica
        if self.crossing is not None and replica.settling.saved:
            self.on_saved(replica.settling.saved[-1], out)

    def _enter(self, link: HandOver, out: ReplicaOut) -> None:
        """The next epoch begins here."""
        replica = self._replica
        state = replica.state.reconfiguring
        assert state is not None
        before = self.configuration
        place = Place(link.next, link.ending.opening)
        # A state that was fetched may have been proved as a checkpoint of the epoch before, as in `cross`.
        replica.checkpoints.certify(link.ending.slot, link.certificate)
        self.lineage.cross(link, place)
        self.beginning.enter(before, place.configuration)
        self.crossing = self.last = self.ending = None
        self.votes = {}
        self.place = place
        if state.configuration.epoch == link.ending.epoch:
            state.enter(place, link.signed, link.ending.slot, replica.state.clock.now_ms)
        if not replica.entering.enter(before, place, link, out):
            return
        early, self._early = self._early, {}
        out.deliver(Linked(link.ending.epoch, link.encode()))
        out.deliver(Entered(place, link.encode()))
        self.tell_neighbours(out)
        self.begin(out)
        for sender in sorted(early):
            for frame in early[sender].frames:
                replica.on_message(sender, frame, out)

    def begin(self, out: ReplicaOut) -> None:
        """In a new epoch, or up again in one: say what is held here, and prove clients' links with its key."""
        self.beginning.begin(out)
        self._prove_links(out)

    def _prove_links(self, out: ReplicaOut) -> None:
        """Clients' links are proved with the epoch's key, so that replies over them count (SAFETY rule 8)."""
        replica = self._replica
        if replica.passive:
            return
        for client, binding in self.bindings.items():
            signature = replica.settings.keyring.sign(frames.LINK_PURPOSE, binding)
            out.deliver(ToClient(client, pack_answer(frames.LinkProof(self.configuration.epoch, signature))))

    def on_client_link(self, client: bytes, binding: bytes, out: ReplicaOut) -> None:
        """A client's link came up."""
        replica = self._replica
        self.bindings.pop(client, None)
        if len(self.bindings) >= CLIENTS_MAX:
            del self.bindings[next(iter(self.bindings))]
        self.bindings[client] = binding
        if not replica.passive:
            signature = replica.settings.keyring.sign(frames.LINK_PURPOSE, binding)
            out.deliver(ToClient(client, pack_answer(frames.LinkProof(self.configuration.epoch, signature))))

    # ------------------------------------------------------------------------------------------ the chain

    def on_control(self, sender: MemberId, message: frames.Control, out: ReplicaOut) -> bool:
        """A message between epochs; says whether it was one."""
        match message:
            case EndingVote():
                self._on_ending_vote(sender, message, out)
            case Holding():
                self.beginning.on_holding(sender, message, out)
            case ChainRequest(epoch):
                self.lineage.send(sender, epoch, out)
            case ChainLinks(links):
                self.lineage.on_links(links, out)
            case _:
                return False
        return True

    def on_other_epoch(self, sender: MemberId, epoch: int, frame: bytes, out: ReplicaOut) -> None:
        """A frame of another epoch: early ones wait, late ones are of no use to anybody."""
        here = self.configuration.epoch
        if epoch < here:
            self.lineage.send(sender, epoch, out)
            return
        self.lineage.ask(sender, out)
        if epoch != here + 1:
            return
        early = self._early.setdefault(sender, _Early())
        early.frames.append(frame)
        early.size += len(frame)
        while len(early.frames) > EARLY_FRAMES or early.size > EARLY_BYTES:
            early.size -= len(early.frames.popleft())

    def on_status(self, sender: MemberId, epoch: int, out: ReplicaOut) -> None:
        """Another member is in this epoch."""
        if epoch < self.configuration.epoch:
            self.lineage.send(sender, epoch, out)
            newest = self._replica.newest_proof()
            if newest is not None:
                # Of the epoch whose keys it was signed with: one that halted at the crossing is still in that one.
                out.send(sender, pack_control(CheckpointProof(self._replica.settings.epoch, newest)))
        elif epoch > self.lineage.ahead_place.configuration.epoch:
            self.lineage.ask(sender, out)

    # ------------------------------------------------------------------------------------------ again and again

    def on_beat(self, out: ReplicaOut) -> None:
        """Say again what may have been lost."""
        replica = self._replica
        self.lineage.on_beat()
        if replica.beat % REPEAT_BEATS:
            return
        if self.crossing is not None:
            crossing, here = self.crossing.ending.epoch, self.place
            self.try_enter(out)
            if self.place is here and self.ahead and self.ahead[-1].ending.epoch > crossing:
                # The group is further by now, and nobody keeps what would let this member in there.
                self.crossing = None
                self.lineage.fetch_newest(out)
            return
        mine = self.votes.get(replica.me)
        if mine is not None:
            self.everyone(pack_control(EndingVote(*mine)), out)
        self.beginning.on_beat(out)
        if self.ahead:
            self.lineage.approach(out)

    def restore(self, packed: Sequence[bytes], newest: HandOver | None) -> None:
        """After a restart: what is known of the chain. Raises `WireError` if it is not a chain."""
        self.lineage.restore(self.place, packed, newest)
        if newest is not None:
            # The log's own newest link is the member's own word: it crossed there.
            self.place = Place(newest.next, newest.ending.opening)
            before = self.lineage.begin_of(newest.ending.epoch)
            if before is not None:
                self.beginning.enter(before.configuration, newest.next)
