"""Who proposes what where nobody leads: shares, turns, rounds that are begun, batches that come back (ADR 0014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import attrs

from bftkit.channel.batches import StoredBatch
from bftkit.channel.bundles import CLOCK, OPEN, Bundle, make_batch, make_bundle, parse_bundle
from bftkit.channel.clients import FORWARD_BEATS
from bftkit.channel.frames import Status, pack_control
from bftkit.channel.interface import Clock, FromClient, Limits, ReplicaOut, ReplicaOutput, RoundEnd
from bftkit.channel.proposing import LATE_SLOTS, TURN_SLOTS
from bftkit.channel.replica import Replica
from bftkit.channel.watch import FRUITLESS_SLOTS, PATIENCE_BEATS
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Broadcast, Digest, DrawKey, MemberId, Out, Record, Send, Slot, TimerKey
from bftkit.core.ordering import (
    BatchWanted,
    Decided,
    LeaderChanged,
    Neglected,
    OrderingInput,
    OrderingMachine,
    OrderingOutput,
    Propose,
    Returned,
    Setup,
    Waiting,
)
from bftkit.core.state import Forkable
from bftkit.crypto.keys import SigningKey, verify_signature
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.world import Network, World
from tests.unit.round_table import Message, TableOut

TABLE = "tests.unit.round_table:PLUGIN"
N = 4


@attrs.define(eq=False)
class Scripted(Forkable):
    """A machine that does what the test says."""

    room: int = 8
    leader: MemberId | None = None
    view: int = 0
    highest_voted: Slot = 0
    heard: list[OrderingInput] = attrs.field(factory=list[OrderingInput])
    says: list[OrderingOutput] = attrs.field(factory=list[OrderingOutput])

    def on_input(self, value: OrderingInput, out: TableOut) -> None:
        self.heard.append(value)

    def on_timer(self, key: TimerKey, out: TableOut) -> None:
        for output in self.says:
            out.deliver(output)
        self.says = []

    def standing(self) -> Sequence[Record]:
        return ()

    def on_start(self, out: TableOut) -> None:
        """Nothing."""

    def on_message(self, sender: MemberId, message: Message, out: TableOut) -> None:
        """Nothing."""

    def on_draw(self, key: DrawKey, value: int, out: TableOut) -> None:
        """Nothing."""

    def on_restore(self, records: Sequence[Record], out: TableOut) -> None:
        """Nothing."""

    def on_stable(self, slot: Slot, digest: Digest, out: TableOut) -> None:
        """Nothing."""

    def on_stop(self, slot: Slot, out: TableOut) -> None:
        """Nothing."""


class Member:
    """A replica with such a machine, and what it did."""

    def __init__(self, me: MemberId = "m0", limits: Limits | None = None) -> None:
        settings = World(1, protocol=TABLE, members=N, clients=0).hosts[me].settings
        plugin = attrs.evolve(settings.plugin, create=self._create)
        settings = attrs.evolve(settings, plugin=plugin, limits=limits or Limits(), verify=verify_signature)
        self.group = settings.group
        self.replica = Replica(settings, KeyValueStore())
        self.sent: list[tuple[tuple[MemberId, ...], bytes]] = []
        self.do(lambda out: self.replica.on_input(Clock(1_700_000_000_000), out))
        self.do(self.replica.on_start)

    def _create(self, setup: Setup) -> OrderingMachine:
        self.machine = Scripted()
        return self.machine

    def do(self, call: Callable[[ReplicaOut], None]) -> None:
        """One call, and what it sends."""
        out: Out[bytes, ReplicaOutput] = Out()
        call(out)
        for effect in out.effects:
            if isinstance(effect, Send):
                self.sent.append((effect.to, effect.message))
            elif isinstance(effect, Broadcast):
                self.sent.append((self.replica.others, effect.message))

    def says(self, *outputs: OrderingOutput) -> None:
        """The protocol says this."""
        self.machine.says += outputs
        self.do(lambda out: self.replica.on_timer(("p", "now"), out))

    def ends_round(self) -> list[Digest]:
        """The names of the batches that are proposed when the round ends."""
        known = len(self.machine.heard)
        self.do(lambda out: self.replica.on_input(RoundEnd(), out))
        return [value.batch.digest for value in self.machine.heard[known:] if isinstance(value, Propose)]

    def proposes(self) -> list[list[Bundle]]:
        """What is in these batches; an empty list for the empty one."""
        return [self.inside(name) for name in self.ends_round()]

    def inside(self, name: Digest) -> list[Bundle]:
        """The bundles of a batch of ours, clock reports left out."""
        if name == NO_DIGEST:
            return []
        return [bundle for bundle in self.stored(name).bundles if bundle.kind != CLOCK]

    def stored(self, name: Digest) -> StoredBatch:
        stored = self.replica.batches.get(name)
        assert stored is not None
        return stored

    def beats(self, count: int = 1) -> None:
        for _ in range(count):
            self.do(lambda out: self.replica.on_timer(("beat",), out))

    def applies(self, slots: int) -> None:
        """So many slots are decided, as empty ones."""
        applied = self.replica.applied
        self.says(*[Decided(slot, NO_DIGEST) for slot in range(applied + 1, applied + slots + 1)])
        # Whatever another member says makes it execute what is decided.
        self.do(lambda out: self.replica.on_message("m1", pack_control(Status(0, 0, 0, 0)), out))
        assert self.replica.applied == applied + slots

    def decides(self, slot: Slot, name: Digest) -> None:
        """The protocol has decided this batch, whose bytes are here, for the next slot."""
        self.says(Decided(slot, name))
        self.do(lambda out: self.replica.on_message("m1", pack_control(Status(0, 0, 0, 0)), out))
        assert self.replica.applied == slot

    def takes(self, bundle: Bundle) -> None:
        """A client sends it here."""
        self.do(lambda out: self.replica.on_input(FromClient(bundle.client, b"\x02" + bundle.raw), out))
        assert (bundle.client, 0, 0) in self.replica.pool


def rank_of(member: Member, bundle: Bundle) -> int:
    """How many places after the member whose turn it is first this one stands."""
    return (member.replica.indices[member.replica.me] - member.replica.proposer.first(bundle)) % N


def bundles(member: Member, count: int, rank: int | None = None) -> list[Bundle]:
    """Openings of so many clients, all of which may be proposed so many members before this one."""
    found: list[Bundle] = []
    number = 0
    while len(found) < count:
        number += 1
        key = SigningKey(digest(b"client", number.to_bytes(8, "big")))
        raw = make_bundle(key, member.group, OPEN, 0, 0, 0, (bytes(16),))
        bundle = parse_bundle(raw, bytes_max=len(raw))
        if rank is None or rank_of(member, bundle) == rank:
            found.append(bundle)
    return found


# ------------------------------------------------------------------------------------------------- shares


def test_each_request_is_one_members_to_propose_at_once() -> None:
    members = [Member(f"m{index}") for index in range(N)]
    shares = [0] * N
    for bundle in bundles(members[0], 40):
        ranks = [rank_of(member, bundle) for member in members]
        assert sorted(ranks) == list(range(N)), "the members take turns, in the order of the roster"
        shares[ranks.index(0)] += 1
        for member in members:
            member.takes(bundle)
    assert min(shares) > 0
    proposed = [[bundle for batch in member.proposes() for bundle in batch] for member in members]
    assert [len(own) for own in proposed] == shares
    assert len({bundle.client for own in proposed for bundle in own}) == 40, "nothing is proposed twice"


def test_the_others_have_their_turns_when_so_many_slots_were_applied() -> None:
    """The last ones, from the (t + 1)st on, together: f + 1 correct members that hold a request all propose it."""
    for rank, turns in ((1, 1), (2, 2), (3, 2)):
        member = Member()
        (bundle,) = bundles(member, 1, rank)
        member.takes(bundle)
        member.applies(turns * TURN_SLOTS * N - 1)
        assert member.proposes() == []
        member.applies(1)
        assert member.proposes() == [[bundle]]


def test_rounds_under_way_when_a_request_comes_are_not_counted() -> None:
    """They cannot hold it any more."""
    member = Member()
    member.machine.highest_voted = 12
    (bundle,) = bundles(member, 1, 1)
    member.takes(bundle)
    member.applies(TURN_SLOTS * N + 11)
    assert member.proposes() == []
    member.applies(1)
    assert member.proposes() == [[bundle]]


def test_time_alone_gives_nobody_a_turn() -> None:
    """In a slow network everybody waits, and that is no reason to propose everything n times."""
    member = Member()
    (bundle,) = bundles(member, 1, 1)
    member.takes(bundle)
    for _ in range(200):
        member.beats()
        assert [batch for batch in member.proposes() if batch] == []


def test_under_overload_most_of_a_batch_is_the_members_own_share() -> None:
    member = Member(limits=Limits(batch_requests=8))
    late = bundles(member, 30, 1)
    for bundle in late:
        member.takes(bundle)
    member.applies(TURN_SLOTS * N)
    own = bundles(member, 30, 0)
    for bundle in own:
        member.takes(bundle)
    batches = member.proposes()
    assert batches
    for batch in batches:
        assert len([bundle for bundle in batch if bundle in late]) == 8 // N
        assert len(batch) == 8


def test_a_batch_with_room_for_one_is_the_members_own_share_every_other_time() -> None:
    """Else what others let pass would take every batch, and the member's own requests would wait for ever."""
    member = Member(limits=Limits(batch_requests=1))
    late = bundles(member, 30, 1)
    for bundle in late:
        member.takes(bundle)
    member.applies(TURN_SLOTS * N)
    own = bundles(member, 30, 0)
    for bundle in own:
        member.takes(bundle)
    batches = member.proposes()
    assert len(batches) > 4
    taken = [bundle in own for (bundle,) in batches]
    assert all(one or other for one, other in pairwise(taken)), taken
    assert not all(taken), "and what others let pass has its time, too"


def test_a_member_that_let_its_turn_pass_is_not_waited_for_again() -> None:
    member = Member()
    once, *again = bundles(member, 3, 1)
    member.takes(once)
    member.applies(TURN_SLOTS * N)
    assert member.proposes() == [[once]]
    member.takes(again[0])
    member.says(BatchWanted())
    assert member.proposes() == [[again[0]]], "it was that member's turn, and it is not awaited"
    member.applies(LATE_SLOTS * N + 1)
    member.takes(again[1])
    member.says(BatchWanted())
    assert member.proposes() == [[]], "after a while it gets another chance"


def test_who_is_skipped_makes_room_for_the_next_one_only() -> None:
    """The one before is late: so its turn passes to the next, and the turns of the others move up."""
    member = Member()
    far, near, other = *bundles(member, 2, 2), bundles(member, 1, 3)[0]
    member.takes(far)
    member.applies(2 * TURN_SLOTS * N)
    assert member.proposes() == [[far]], "two members let their turns pass"
    member.takes(near)
    member.takes(other)
    member.says(BatchWanted())
    assert member.proposes() == [[near]]
    member.applies(TURN_SLOTS * N - 1)
    member.says(BatchWanted())
    assert member.proposes() == [[]]
    member.applies(1)
    member.says(BatchWanted())
    assert member.proposes() == [[other]], "one of the three before it is awaited still"


def test_under_overload_nobody_is_taken_for_late() -> None:
    """Everything waits for long then, and to propose it twice would make it worse."""
    member = Member(limits=Limits(batch_requests=4))
    late, new = bundles(member, 2, 1)
    member.takes(late)
    member.applies(TURN_SLOTS * N)
    for bundle in bundles(member, 2, 0):
        member.takes(bundle)
    assert [len(batch) for batch in member.proposes()] == [3]
    member.takes(new)
    member.says(BatchWanted())
    assert member.proposes() == [[]]


def test_what_is_decided_meanwhile_is_not_proposed() -> None:
    member = Member()
    first, second = bundles(member, 2, 1)
    member.takes(first)
    member.takes(second)
    member.replica.pool.remove((first.client, 0, 0), 0, 0)
    member.applies(TURN_SLOTS * N)
    assert member.proposes() == [[second]]


# ------------------------------------------------------------------------------------------------- rounds


def test_whoever_has_the_turn_begins_a_round_at_once() -> None:
    member = Member()
    (bundle,) = bundles(member, 1, 0)
    member.takes(bundle)
    assert member.proposes() == [[bundle]]
    assert member.proposes() == []


def test_for_another_members_request_a_round_is_begun_after_a_beat_without_progress() -> None:
    member = Member()
    (bundle,) = bundles(member, 1, 3)
    member.takes(bundle)
    member.beats()
    assert member.proposes() == [], "whose turn it is comes first"
    member.beats()
    assert member.ends_round() == [NO_DIGEST]
    member.beats(5)
    assert member.ends_round() == [], "that round is under way"
    for _ in range(2 * TURN_SLOTS * N - 1):
        member.applies(1)
        assert member.ends_round() == [NO_DIGEST], "and then the next one at once"
    member.applies(1)
    assert member.proposes() == [[bundle]]


def test_where_rounds_go_on_nobody_needs_to_begin_any() -> None:
    member = Member()
    (bundle,) = bundles(member, 1, 3)
    member.takes(bundle)
    for _ in range(2 * TURN_SLOTS * N - 1):
        member.beats()
        member.applies(1)
        assert member.ends_round() == []


def test_an_idle_member_begins_nothing() -> None:
    member = Member()
    for _ in range(50):
        member.beats()
        assert member.ends_round() == []


def test_a_batch_that_is_wanted_is_given_even_if_it_is_empty() -> None:
    member = Member()
    member.says(BatchWanted(), BatchWanted())
    assert member.ends_round() == [NO_DIGEST, NO_DIGEST], "one for each round that began elsewhere"
    assert member.ends_round() == []
    (bundle,) = bundles(member, 1, 0)
    member.takes(bundle)
    member.says(BatchWanted())
    assert member.proposes() == [[bundle]]
    assert member.proposes() == [], "it was the one that was wanted"


def test_a_wanted_batch_waits_for_room() -> None:
    member = Member()
    member.machine.room = 0
    member.says(BatchWanted())
    assert member.ends_round() == []
    member.machine.room = 1
    assert member.ends_round() == [NO_DIGEST]


def test_a_batch_that_is_wanted_is_given_although_a_state_is_fetched_before_the_round_ends() -> None:
    """The protocol says it once, and others may not be able to do without this member's batch."""
    member = Member()
    member.says(BatchWanted())
    member.replica.proposer.on_jump()
    assert member.ends_round() == [NO_DIGEST]
    assert member.ends_round() == []


def test_a_batch_grows_while_another_of_this_member_is_under_way_unless_one_is_wanted() -> None:
    member = Member()
    first, second, third = bundles(member, 3, 0)
    member.takes(first)
    assert member.proposes() == [[first]]
    member.takes(second)
    assert member.proposes() == []
    member.takes(third)
    member.says(BatchWanted())
    assert member.proposes() == [[second, third]]


# ------------------------------------------------------------------------------------------------- returned


def test_what_is_returned_is_proposed_again_before_what_came_later() -> None:
    member = Member()
    first, second, later = bundles(member, 3, 0)
    member.takes(first)
    member.takes(second)
    (name,) = member.ends_round()
    member.takes(later)
    assert member.ends_round() == []
    member.says(Returned(name))
    assert member.proposes() == [[first, second, later]]


def test_what_others_had_decided_meanwhile_is_not_proposed_again() -> None:
    member = Member()
    first, second = bundles(member, 2, 0)
    member.takes(first)
    member.takes(second)
    (name,) = member.ends_round()
    member.replica.pool.remove((first.client, 0, 0), 0, 0)
    member.says(Returned(name))
    assert member.proposes() == [[second]]
    member.says(Returned(name))
    assert [batch for batch in member.proposes() if batch] == [[second]], "it is in flight again, in another batch"


def test_a_batch_of_which_nothing_is_heard_is_given_up_in_time() -> None:
    """As after a state transfer: the protocol cannot say any more what became of it."""
    member = Member()
    (bundle,) = bundles(member, 1, 0)
    member.takes(bundle)
    assert member.proposes() == [[bundle]]
    member.applies(TURN_SLOTS * N)
    member.beats()
    assert member.proposes() == []
    member.applies(1)
    member.beats()
    assert member.proposes() == [[bundle]]


# ------------------------------------------------------------------------------------------------- the rest


def test_everybody_puts_clock_reports_into_its_batches() -> None:
    """SAFETY rule 11."""
    member = Member()
    member.beats(5)
    (bundle,) = bundles(member, 1, 0)
    member.takes(bundle)
    (name,) = member.ends_round()
    assert [report.kind for report in member.stored(name).bundles] == [CLOCK, OPEN]


def test_members_that_hold_a_request_take_turns_at_telling_all_the_others() -> None:
    """It may have come to one of them only."""
    told: list[int] = []
    for rank in range(N):
        member = Member()
        (bundle,) = bundles(member, 1, rank)
        member.takes(bundle)
        assert not [frame for _, frame in member.sent if frame[1:] == bundle.raw], "not at once: clients tell all"
        for beat in range(1, FORWARD_BEATS * (N + 1)):
            member.sent.clear()
            member.beats()
            copies = [to for to, frame in member.sent if frame[1:] == bundle.raw]
            if copies:
                assert copies == [("m1", "m2", "m3")]
                told.append(beat)
    assert sorted(told) == [FORWARD_BEATS * turn for turn in range(1, N + 1)]


def test_nobody_is_blamed_for_passing_requests_over() -> None:
    member = Member()
    for bundle in bundles(member, 5, 3):
        member.takes(bundle)
    for _ in range(300):
        member.beats()
        member.says(LeaderChanged(member.machine.view, None))
        member.applies(1)
    assert not [value for value in member.machine.heard if isinstance(value, Neglected)]


def test_an_old_opening_of_a_client_takes_its_new_one_from_no_pool() -> None:
    """A leader may order what the client signed in an earlier life, again and again, and never its new opening."""
    member = Member()
    member.machine.leader = "m1"
    member.says(LeaderChanged(0, "m1"))
    key = SigningKey(digest(b"a client that was here before"))
    old, new = (
        parse_bundle(raw, bytes_max=len(raw))
        for raw in (make_bundle(key, member.group, OPEN, 0, 0, 0, (bytes((life,)) * 16,)) for life in (1, 2))
    )
    for slot in range(1, 60):
        raw = make_batch(slot, (old.raw,))
        member.replica.batches.restore(raw, slot)
        if slot == 1:
            member.decides(slot, digest(raw))
            assert key.public in member.replica.state.sessions.by_client
            member.takes(new)
        else:
            member.beats()
            member.decides(slot, digest(raw))
            assert member.replica.pool.holds(new)
    assert Neglected("m1") in member.machine.heard, "it passes over what waits"
    raw = make_batch(60, (new.raw,))
    member.replica.batches.restore(raw, 60)
    member.decides(60, digest(raw))
    assert len(member.replica.pool) == 0


def test_a_new_opening_of_a_client_takes_the_place_of_its_old_one_and_none_the_other_way() -> None:
    """Or a client that sends its leader other openings than the others made these take the leader for an unfair one."""
    member = Member()
    member.machine.leader = "m0"
    member.says(LeaderChanged(0, "m0"))
    key = SigningKey(digest(b"a client that begins anew"))
    first, second, forged = (
        parse_bundle(raw, bytes_max=len(raw))
        for raw in (make_bundle(key, member.group, OPEN, 0, 0, 0, (bytes((life,)) * 16,)) for life in (1, 2, 3))
    )
    member.takes(first)
    assert member.proposes() == [[first]]
    member.takes(second)
    member.takes(first)
    member.takes(parse_bundle(forged.raw[:-1] + b"?", bytes_max=len(forged.raw)))
    assert member.replica.pool.holds(second)
    assert (len(member.replica.pool), member.replica.pool.size) == (1, len(second.raw))
    (name,) = [stored.name for stored in map(member.stored, _proposed(member)) if first in stored.bundles]
    member.decides(1, name)
    assert member.proposes() == [[second]]


def test_a_client_that_begins_anew_all_the_time_does_not_hide_that_others_are_passed_over() -> None:
    """A leader that lies has such a client: what it replaces in the pool is nothing that the leader ordered."""
    member = Member()
    member.machine.leader = "m1"
    member.says(LeaderChanged(0, "m1"))
    for bundle in bundles(member, 1, 0):
        member.takes(bundle)
    key = SigningKey(digest(b"a client that begins anew"))
    for life in range(1, PATIENCE_BEATS + 3):
        raw = make_bundle(key, member.group, OPEN, 0, 0, 0, (bytes((life,)) * 16,))
        member.takes(parse_bundle(raw, bytes_max=len(raw)))
        member.beats()
        member.applies(2)
    assert FRUITLESS_SLOTS < member.replica.applied < 2 * member.replica.settings.window
    assert Neglected("m1") in member.machine.heard


def _proposed(member: Member) -> list[Digest]:
    return [value.batch.digest for value in member.machine.heard if isinstance(value, Propose)]


def test_between_two_leaders_nobody_proposes_and_nothing_is_put_aside() -> None:
    member = Member()
    first, second = bundles(member, 2, 3)
    member.takes(first)
    member.machine.leader = "m1"
    member.says(LeaderChanged(1, "m1"))
    assert not member.replica.proposer.everybody
    member.machine.leader, member.machine.room = None, 0
    member.says(LeaderChanged(2, None))
    member.takes(second)
    member.sent.clear()
    member.beats(2 * N * FORWARD_BEATS)
    assert member.ends_round() == []
    assert not [frame for _, frame in member.sent if frame[:1] == b"\x02" and frame[1] != CLOCK]
    member.machine.leader, member.machine.room = "m0", 8
    member.says(LeaderChanged(3, "m0"))
    assert member.proposes() == [[first, second]]


def test_the_protocol_hears_that_requests_wait_whoevers_turn_it_is() -> None:
    member = Member()
    member.takes(bundles(member, 1, 3)[0])
    member.ends_round()
    assert Waiting(True) in member.machine.heard


# ------------------------------------------------------------------------------------------------- whole groups


def world(seed: int, **more: Any) -> World:
    return World(seed, protocol=TABLE, members=N, **more)


def slots_waited(group: World, batches: int) -> int:
    """The most slots that any request waits, one asked for after the other."""
    client = group.actors["c0"]
    worst = 0
    for number in range(batches):
        before = group.replica("m0").applied
        client.put(b"k%d" % number)
        group.run_until(lambda: group.outstanding == 0, 20_000, "the answer")
        worst = max(worst, group.replica("m0").applied - before)
    return worst


def test_an_absent_member_delays_its_share_by_rounds_only() -> None:
    group = world(5, clients=1)
    group.run(300)
    quick = slots_waited(group, 12)
    assert quick <= 2 * (N - 1), "with all members there, a round or two"
    group.crash("m2")
    slow = slots_waited(group, 24)
    # The turn of the next member comes after 2n slots; the round that is under way then, and the one it is in.
    assert quick < slow <= TURN_SLOTS * N + 3 * (N - 1)
    group.finish()


def test_a_member_whose_offers_come_too_late_is_served_all_the_same() -> None:
    """Each of its batches is returned, again and again; then others propose what is in them."""
    group = world(7, clients=2, network=Network(delay_max=3))
    group.slow("m3", 40)
    group.load(60, keys=4, together=0.0)
    group.run(4000)
    assert group.replica("m3").counters.returned > 5
    assert group.outstanding == 0
    group.finish()


def test_nothing_is_lost_or_executed_twice_under_loss_and_crashes() -> None:
    for seed in range(6):
        group = world(seed, network=Network(loss=0.15, duplication=0.1))
        group.load(40, keys=3)
        group.run(400)
        group.crash("m1")
        group.run(1200)
        group.restart("m1")
        group.finish()


def test_a_request_that_reached_one_member_is_answered() -> None:
    """Its client can reach one only: the others are told, or it has its turn."""
    for member in ("m0", "m1", "m2", "m3"):
        group = world(3, clients=1)
        slots_waited(group, 1)
        group.run(500)
        for other in group.members:
            if other != member:
                group.cut("c0", other)
        assert slots_waited(group, 1) <= 2 * TURN_SLOTS * N + 3 * (N - 1)
