"""The coordinator protocol, one test for each claim of its story (SAFETY rule 24 above all).

These tests drive single machines by hand. `test_coordinator_world` runs whole groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Blame, Broadcast, Deliver, Digest, Effect, Out, Persist, Record, Send, Slot
from bftkit.core.ordering import (
    Available,
    Batch,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    OrderingMachine,
    Propose,
    Refused,
    Setup,
)
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit_coordinator.machine import RESEND_MAX, STATUS_TIMER, create
from bftkit_coordinator.messages import (
    APPEND_PURPOSE,
    CONFLICTS,
    Ack,
    Append,
    Commit,
    Entry,
    Message,
    Status,
    entry_statement,
)
from bftkit_coordinator.record import RECORD

A, B, C = (digest(name.encode()) for name in "abc")
KEYRINGS = fast_keyrings(b"test", bytes(32), 0, bytes(32), [f"m{index}" for index in range(7)])


def setup_of(me: str, n: int = 3, c: int = 1, **more: Any) -> Setup:
    """A set-up for one of n members that survive c crashes."""
    return Setup(me, tuple(f"m{index}" for index in range(n)), Quorum(n, 0, c), KEYRINGS[me], **more)


def step(machine: OrderingMachine, event: str, *values: Any) -> list[Effect[Any, Any]]:
    """The effects of one call."""
    out: Out[Any, Any] = Out()
    getattr(machine, event)(*values, out)
    return out.effects


def entry(slot: Slot, batch: Digest, signer: str = "m0") -> Entry:
    """An entry as the coordinator (or somebody else) signs it."""
    return Entry(slot, batch, KEYRINGS[signer].sign(APPEND_PURPOSE, entry_statement(slot, batch)))


def append(slot: Slot, batch: Digest, committed: Slot = 0) -> Append:
    """What a correct coordinator sends."""
    return Append(entry(slot, batch), committed)


def hear(machine: OrderingMachine, message: Message, sender: str = "m0") -> list[Effect[Any, Any]]:
    """The effects of a message."""
    return step(machine, "on_message", sender, message)


def decided(effects: list[Effect[Any, Any]]) -> list[tuple[Slot, Digest]]:
    """What was decided, in order."""
    return [
        (e.output.slot, e.output.digest) for e in effects if isinstance(e, Deliver) and isinstance(e.output, Decided)
    ]


def said(effects: list[Effect[Any, Any]]) -> list[Message]:
    """What was sent, to whomever."""
    return [e.message for e in effects if isinstance(e, Send | Broadcast)]


def records(effects: list[Effect[Any, Any]]) -> list[Record]:
    """What was written down."""
    return [e.record for e in effects if isinstance(e, Persist)]


def blames(effects: list[Effect[Any, Any]]) -> list[Blame]:
    """Who was blamed."""
    return [e for e in effects if isinstance(e, Blame)]


def follower_that_holds(*batches: Digest, **more: Any) -> OrderingMachine:
    """A follower m1 that holds these batches in slots 1, 2, …"""
    machine = create(setup_of("m1", **more))
    step(machine, "on_start")
    for slot, batch in enumerate(batches, 1):
        hear(machine, append(slot, batch))
        step(machine, "on_input", Available(batch))
    return machine


# ------------------------------------------------------------------------------- the coordinator


def test_a_slot_is_written_down_before_it_is_sent() -> None:
    """SAFETY rule 24: persist, then send, with the bytes beside it."""
    coordinator = create(setup_of("m0"))
    effects = step(coordinator, "on_input", Propose(Batch(A, 1)))
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Broadcast)
    assert effects[1] == Broadcast(append(1, A), carry=(A,))


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (5, 2), (7, 3)])
def test_a_slot_is_decided_when_c_others_hold_it_and_not_before(n: int, c: int) -> None:
    """SAFETY rule 24: c + 1 members hold it, the coordinator included."""
    coordinator = create(setup_of("m0", n, c))
    step(coordinator, "on_input", Propose(Batch(A, 1)))
    for index in range(1, c):
        for _ in range(3):  # the same member again counts once
            assert hear(coordinator, Ack(1), f"m{index}") == []
    effects = hear(coordinator, Ack(1), f"m{c}")
    assert said(effects) == [Commit(1)]  # at once, not with the next batch
    assert decided(effects) == [(1, A)]


def test_with_c_0_the_coordinator_alone_decides() -> None:
    coordinator = create(setup_of("m0", n=2, c=0))
    assert decided(step(coordinator, "on_input", Propose(Batch(A, 1)))) == [(1, A)]


def test_a_late_acknowledgement_of_less_takes_nothing_back() -> None:
    coordinator = create(setup_of("m0", 5, 2))
    for batch in (A, B):
        step(coordinator, "on_input", Propose(Batch(batch, 1)))
    hear(coordinator, Ack(2), "m1")
    hear(coordinator, Ack(1), "m1")  # overtaken on the way
    assert decided(hear(coordinator, Ack(2), "m2")) == [(1, A), (2, B)]


def test_room_is_bounded_by_the_pipeline_and_by_the_window() -> None:
    """SAFETY rule 18."""
    coordinator = create(setup_of("m0", window=4, parameters={"pipeline": 2}))
    assert coordinator.room == 2
    step(coordinator, "on_input", Propose(Batch(A, 1)))
    step(coordinator, "on_input", Propose(Batch(B, 1)))
    assert coordinator.room == 0
    with pytest.raises(ValueError, match="room"):
        step(coordinator, "on_input", Propose(Batch(C, 1)))
    hear(coordinator, Ack(2), "m1")
    assert coordinator.room == 2
    step(coordinator, "on_input", Propose(Batch(C, 1)))
    step(coordinator, "on_input", Propose(Batch(C, 1)))
    hear(coordinator, Ack(4), "m1")
    assert coordinator.room == 0  # nothing is open, but the window ends here
    step(coordinator, "on_stable", 2, bytes(32))
    assert coordinator.room == 2


def test_a_restarted_coordinator_never_gives_a_slot_away_twice() -> None:
    """SAFETY rule 24: what it persisted is sent again, as it was."""
    coordinator = create(setup_of("m0"))
    written = records(step(coordinator, "on_input", Propose(Batch(A, 1))))
    written += records(step(coordinator, "on_input", Propose(Batch(B, 1))))

    restarted = create(setup_of("m0"))
    step(restarted, "on_restore", written)
    assert decided(step(restarted, "on_start")) == []  # it cannot know yet who holds what
    assert said(hear(restarted, Status(0, 0), "m1")) == [append(1, A), append(2, B)]
    assert said(step(restarted, "on_input", Propose(Batch(C, 1)))) == [append(3, C)]
    assert decided(hear(restarted, Status(2, 0), "m2")) == [(1, A), (2, B)]


def test_a_status_is_answered_with_what_is_missed_and_not_with_more() -> None:
    coordinator = create(setup_of("m0", parameters={"pipeline": 100}))
    for _ in range(RESEND_MAX + 5):
        step(coordinator, "on_input", Propose(Batch(A, 1)))
    hear(coordinator, Ack(3), "m1")
    answer = said(hear(coordinator, Status(1, 0), "m2"))
    assert [m.entry.slot for m in answer if isinstance(m, Append)] == list(range(2, 2 + RESEND_MAX))
    assert answer[-1] == Commit(3)
    hear(coordinator, Ack(RESEND_MAX + 5), "m2")
    assert said(hear(coordinator, Status(RESEND_MAX + 5, RESEND_MAX + 5), "m2")) == []


def test_a_coordinator_that_forgot_what_it_sent_falls_silent() -> None:
    """SAFETY rule 16: a follower holds a slot that this disk does not know."""
    coordinator = create(setup_of("m0"))
    step(coordinator, "on_start")
    assert hear(coordinator, Status(7, 7), "m1") == []
    assert coordinator.room == 0
    assert said(step(coordinator, "on_stop", 16)) == []


def test_a_stop_is_filled_with_empty_batches_up_to_the_boundary() -> None:
    """SAFETY rule 23, also beyond the window."""
    coordinator = create(setup_of("m0", window=4))
    step(coordinator, "on_input", Propose(Batch(A, 1)))
    effects = step(coordinator, "on_stop", 6)
    assert said(effects) == [append(slot, NO_DIGEST) for slot in range(2, 7)]
    assert coordinator.room == 0
    assert [slot for slot, _ in decided(hear(coordinator, Ack(6), "m1"))] == [1, 2, 3, 4, 5, 6]


def test_nothing_above_the_boundary_is_decided() -> None:
    """SAFETY rule 23: slots above it are void, also if they were sent already."""
    coordinator = create(setup_of("m0"))
    for batch in (A, B, C):
        step(coordinator, "on_input", Propose(Batch(batch, 1)))
    step(coordinator, "on_stop", 2)
    assert decided(hear(coordinator, Ack(3), "m1")) == [(1, A), (2, B)]

    follower = follower_that_holds(A, B, C)
    step(follower, "on_stop", 2)
    assert decided(hear(follower, Commit(3))) == [(1, A), (2, B)]
    assert decided(step(follower, "on_input", Learned(3, C))) == []


# ------------------------------------------------------------------------------- followers


def test_a_follower_acknowledges_only_what_is_here_and_written_down() -> None:
    """SAFETY rules 3 and 5: bytes, then the record, then the vote."""
    follower = create(setup_of("m1"))
    effects = hear(follower, append(1, A))
    assert effects == [Deliver(Fetch(A, 1, ("m0",)))]
    effects = step(follower, "on_input", Available(A))
    assert [type(effect) for effect in effects] == [Persist, Send]
    assert said(effects) == [Ack(1)]


def test_a_batch_that_is_not_authentic_is_never_acknowledged() -> None:
    """SAFETY rule 4."""
    follower = create(setup_of("m1"))
    hear(follower, append(1, A))
    effects = step(follower, "on_input", Refused(A))
    assert [blame.member for blame in blames(effects)] == ["m0"]
    assert said(effects) == []
    assert follower.highest_voted == 0
    # Said again, it is the same fault, not another one; until a checkpoint forgets it.
    hear(follower, append(1, A))
    assert blames(step(follower, "on_input", Refused(A))) == []
    step(follower, "on_stable", 8, B)
    hear(follower, append(9, A))
    assert len(blames(step(follower, "on_input", Refused(A)))) == 1


def test_slots_above_a_gap_are_kept_and_acknowledged_when_it_closes() -> None:
    follower = create(setup_of("m1"))
    hear(follower, append(2, NO_DIGEST))
    assert said(hear(follower, append(3, NO_DIGEST))) == []
    assert follower.highest_voted == 3
    assert said(hear(follower, append(1, NO_DIGEST))) == [Ack(3)]


def test_a_follower_delivers_what_is_decided_and_here() -> None:
    follower = follower_that_holds(A, B)
    assert decided(hear(follower, Commit(1))) == [(1, A)]
    effects = hear(follower, append(3, C, committed=3))
    assert decided(effects) == [(2, B)]
    assert decided(step(follower, "on_input", Available(C))) == [(3, C)]


def test_the_empty_batch_needs_no_fetching() -> None:
    follower = create(setup_of("m1"))
    assert said(hear(follower, append(1, NO_DIGEST))) == [Ack(1)]


def test_if_the_coordinator_does_not_give_the_bytes_others_are_asked() -> None:
    follower = create(setup_of("m1"))
    hear(follower, append(1, A))
    assert hear(follower, append(1, A)) == [Deliver(Fetch(A, 1, ("m0", "m2")))]


def test_one_batch_in_two_slots_is_held_in_both() -> None:
    follower = create(setup_of("m1"))
    hear(follower, append(1, A))
    hear(follower, append(2, A))
    assert said(step(follower, "on_input", Available(A))) == [Ack(2)]


def test_a_follower_says_again_and_again_where_it_stands() -> None:
    """Retransmission relies on nothing but this."""
    follower = create(setup_of("m1", parameters={"status_ticks": 50}))
    first = step(follower, "on_start")
    assert said(first) == [Status(0, 0)]
    hear(follower, append(1, NO_DIGEST, committed=1))
    again = step(follower, "on_timer", STATUS_TIMER)
    assert said(again) == [Status(1, 1)]
    assert [getattr(effect, "ticks", None) for effect in again] == [None, 50]


def test_a_follower_takes_nothing_beyond_its_window() -> None:
    """SAFETY rule 18: whatever the coordinator sends, memory stays bounded."""
    follower = create(setup_of("m1", window=8))
    before = follower.fingerprint()
    for slot in range(9, 1000):
        assert hear(follower, append(slot, A)) == []
    assert follower.fingerprint() == before


def test_what_a_checkpoint_covers_is_forgotten() -> None:
    """Entries stay for one checkpoint more, so that a follower that lags a little is still served."""
    coordinator = create(setup_of("m0", parameters={"pipeline": 100}))
    for _ in range(24):
        step(coordinator, "on_input", Propose(Batch(A, 1)))
    hear(coordinator, Ack(24), "m1")
    step(coordinator, "on_stable", 8, bytes(32))
    step(coordinator, "on_stable", 16, bytes(32))
    slots = [m.entry.slot for m in said(hear(coordinator, Status(0, 0), "m2")) if isinstance(m, Append)]
    assert slots == list(range(9, 25))


def test_a_transferred_state_moves_a_laggard_on() -> None:
    follower = create(setup_of("m1"))
    hear(follower, append(17, A))
    step(follower, "on_stable", 16, bytes(32))
    assert said(step(follower, "on_input", Available(A))) == [Ack(17)]
    assert decided(hear(follower, Commit(17))) == [(17, A)]


def test_a_learned_slot_is_delivered_but_not_acknowledged() -> None:
    """The entry is not on this disk: to count this member as a holder would be a lie."""
    follower = create(setup_of("m1"))
    effects = step(follower, "on_input", Learned(1, A))
    assert decided(effects) == [(1, A)]
    assert said(effects) == []
    assert decided(step(follower, "on_input", Learned(3, C))) == []
    assert decided(step(follower, "on_input", Learned(2, B))) == [(2, B), (3, C)]
    assert said(step(follower, "on_timer", STATUS_TIMER)) == [Status(held=0, delivered=3)]


def test_two_batches_for_one_slot_are_evidence_that_anybody_can_check() -> None:
    """SAFETY rules 6 and 24."""
    follower = follower_that_holds(A)
    (blame,) = blames(hear(follower, append(1, B)))
    assert blame.member == "m0"
    conflict = CONFLICTS.decode(blame.proof)
    keyring = KEYRINGS["m2"]
    assert conflict.first.slot == conflict.second.slot
    assert {conflict.first.digest, conflict.second.digest} == {A, B}
    for signed in (conflict.first, conflict.second):
        assert keyring.verify("m0", APPEND_PURPOSE, signed.statement, signed.signature)
    assert decided(hear(follower, Commit(1))) == [(1, A)]


def test_an_entry_without_the_coordinators_signature_is_refused() -> None:
    follower = create(setup_of("m1"))
    effects = hear(follower, Append(entry(1, A, signer="m2"), 0))
    assert [(blame.member, blame.proof) for blame in blames(effects)] == [("m0", b"")]
    assert follower.highest_voted == 0


def test_only_the_coordinator_is_heard() -> None:
    follower = create(setup_of("m1"))
    assert [blame.member for blame in blames(hear(follower, append(1, NO_DIGEST, committed=1), "m2"))] == ["m2"]
    assert follower.highest_voted == 0
    coordinator = create(setup_of("m0"))
    assert [blame.member for blame in blames(hear(coordinator, Commit(9), "m1"))] == ["m1"]


# ------------------------------------------------------------------------------- set-up


def test_everybody_knows_the_leader_from_the_start() -> None:
    for me in ("m0", "m1", "m2"):
        machine = create(setup_of(me, parameters={"coordinator": 2}))
        assert machine.leader == "m2"
        assert Deliver(LeaderChanged(0, "m2")) in step(machine, "on_start")
        assert (machine.room > 0) == (me == "m2")


def test_a_set_up_that_cannot_work_is_refused() -> None:
    members = ("m0", "m1", "m2", "m3")
    with pytest.raises(ValueError, match="f is 1, must be 0"):
        create(Setup("m0", members, Quorum(4, 1), KEYRINGS["m0"]))
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        create(setup_of("m0", parameters={"coordinator": 3}))


def test_a_proposal_to_a_follower_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="room is 0"):
        step(create(setup_of("m1")), "on_input", Propose(Batch(A, 1)))


def test_a_later_epoch_starts_where_the_last_one_ended() -> None:
    coordinator = create(setup_of("m0", start=40))
    assert said(step(coordinator, "on_input", Propose(Batch(A, 1)))) == [Append(entry(41, A), 40)]
    assert decided(hear(coordinator, Ack(41), "m1")) == [(41, A)]


def test_the_manual_shows_the_parameters() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "protocols" / "coordinator.md").read_text()
    for name, parameter in sorted(RECORD.parameters.items()):
        assert f"| `{name}` | {parameter.default} |" in manual
