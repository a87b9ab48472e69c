"""One member of a randomized group, step by step, its peers played by the test (CRYPTO 2001, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Blame, Broadcast, Deliver, Effect, MemberId, Out, Persist, Send, SetTimer
from bftkit.core.ordering import (
    Available,
    Batch,
    BatchWanted,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    Propose,
    Refused,
    Returned,
    Setup,
    Waiting,
)
from bftkit.core.quorum import Quorum, QuorumError
from bftkit.core.state import fingerprint
from bftkit.sim.coins import fast_coins
from bftkit.sim.keyring import fast_keyrings
from bftkit_cks import lists
from bftkit_cks import messages as m
from bftkit_cks.machine import CksMachine
from bftkit_cks.record import RECORD

A, B, C, D = (digest(name) for name in (b"a", b"b", b"c", b"d"))
MEMBERS = ("m0", "m1", "m2", "m3")
QUORUM = Quorum(4, 1)
RINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), MEMBERS)
COINS = fast_coins(b"", bytes(32), 0, bytes(32), MEMBERS, QUORUM.available)


EMPTY: dict[MemberId, bytes] = dict.fromkeys(("m1", "m2", "m3"), NO_DIGEST)
"""A list of empty batches."""


def left(effects: Sequence[Effect[Any, Any]]) -> list[tuple[tuple[MemberId, ...] | None, Any]]:
    """The messages that left, each with its receivers; None: all."""
    found: list[tuple[tuple[MemberId, ...] | None, Any]] = []
    for effect in effects:
        match effect:
            case Send(to, message):
                found.append((to, message))
            case Broadcast(message):
                found.append((None, message))
            case _:
                pass
    return found


def sends(effects: Sequence[Effect[Any, Any]]) -> list[Any]:
    return [message for to, message in left(effects) if to is not None]


def broadcasts(effects: Sequence[Effect[Any, Any]]) -> list[Any]:
    return [message for to, message in left(effects) if to is None]


def setup_of(me: MemberId, **more: Any) -> Setup:
    settings: dict[str, Any] = {"window": 32, "coins": COINS[me], "parameters": {"pipeline": 2}, **more}
    return Setup(me, MEMBERS, QUORUM, RINGS[me], **settings)


class Play:
    """One machine; the test says what its peers say."""

    def __init__(self, me: MemberId = "m0", **more: Any) -> None:
        self.setup = setup_of(me, **more)
        self.machine = CksMachine.create(self.setup)
        self.records: list[bytes] = []
        self.do("on_start")

    def do(self, event: str, *values: Any) -> list[Any]:
        out: Out[Any, Any] = Out()
        getattr(self.machine, event)(*values, out)
        self.records.extend(effect.record for effect in out.effects if isinstance(effect, Persist))
        return out.effects

    def hear(self, sender: MemberId, message: Any) -> list[Any]:
        return self.do("on_message", sender, message)

    def give(self, value: Any) -> list[Any]:
        return self.do("on_input", value)

    def offer(self, number: int, sender: MemberId, name: bytes) -> list[Any]:
        """A peer's offer."""
        return self.hear(sender, m.Part(number, m.OFFER, MEMBERS.index(sender), cb.CODEC.encode(cb.Send(name))))

    def agree(self, number: int, names: dict[MemberId, bytes], sender: MemberId = "m3") -> list[Any]:
        """A peer proves what a round agreed on."""
        return self.hear(sender, m.Part(number, va.OUTCOME, 0, outcome(number, names)))


def final_of(number: int, sender: MemberId, name: bytes) -> bytes:
    """The proof of an offer, with the votes of the first three members."""
    senders = [cb.ConsistentBroadcast.create(setup_of(me), m.offer_id(number), sender, 32) for me in MEMBERS]
    own = senders[MEMBERS.index(sender)]
    out: Out[Any, Any] = Out()
    own.on_input(cb.Start(name), out)
    for me, machine in zip(MEMBERS, senders, strict=True):
        if machine is not own:
            echo: Out[Any, Any] = Out()
            machine.on_message(sender, cb.Send(name), echo)
            machine.on_input(cb.Approve(), echo)
            for message in sends(echo.effects):
                own.on_message(me, message, out)
    assert own.proof is not None
    return own.proof


def list_of(number: int, names: dict[MemberId, bytes]) -> bytes:
    return lists.make_list({MEMBERS.index(member): final_of(number, member, name) for member, name in names.items()})


def outcome(number: int, names: dict[MemberId, bytes]) -> bytes:
    """The proof that a round agreed on the offers of these members: all four run its agreement."""
    value = list_of(number, names)
    machines = {me: lists.agreement(setup_of(me), number) for me in MEMBERS}
    waiting: list[tuple[MemberId, MemberId, Any]] = []

    def step(me: MemberId, out: Out[Any, Any]) -> None:
        for to, message in left(out.effects):
            waiting.extend((me, other, message) for other in to or MEMBERS if other != me)

    for me in MEMBERS:
        out: Out[Any, Any] = Out()
        machines[me].on_input(va.Propose(value), out)
        step(me, out)
    while waiting:
        sender, receiver, message = waiting.pop(0)
        out = Out()
        machines[receiver].on_message(sender, message, out)
        step(receiver, out)
    result = machines["m0"].result
    assert result is not None
    assert result.value == value
    return result.proof


def outputs(effects: Sequence[Effect[Any, Any]]) -> list[Any]:
    found: list[Any] = []
    for effect in effects:
        match effect:
            case Deliver(output):
                found.append(output)
            case _:
                pass
    return found


def said(effects: Sequence[Effect[Any, Any]], kind: int = m.OFFER) -> list[Any]:
    """The messages of blocks of this kind that left."""
    return [message for _, message in left(effects) if isinstance(message, m.Part) and message.kind == kind]


def echoes(effects: Sequence[Effect[Any, Any]]) -> list[Any]:
    return [part for part in said(effects) if isinstance(cb.CODEC.decode(part.body), cb.Echo)]


# ------------------------------------------------------------------------------------------------- beginning


def test_it_starts_without_a_leader_and_with_room() -> None:
    machine = CksMachine.create(setup_of("m0"))
    out: Out[Any, Any] = Out()
    machine.on_start(out)
    assert outputs(out.effects) == [LeaderChanged(0, None)]
    assert machine.leader is None
    assert machine.room == 2, "as many as the parameter `pipeline` says"
    # Nobody to suspect: these say nothing to it.
    before = fingerprint(machine)
    for value in (Waiting(True), Neglected("m1")):
        machine.on_input(value, out)
    assert fingerprint(machine) == before


@pytest.mark.parametrize(("n", "f", "c"), [(6, 1, 1), (3, 0, 1), (5, 0, 2)])
def test_a_crash_costs_as_many_members_as_a_lie(n: int, f: int, c: int) -> None:
    members = tuple(f"m{index}" for index in range(n))
    with pytest.raises(QuorumError, match=rf"with {3 * (f + c) + 1} members; there are {n}"):
        CksMachine.create(Setup("m0", members, Quorum(n, f, c), RINGS["m0"]))


def test_set_ups_that_could_not_go_on_are_refused() -> None:
    with pytest.raises(ValueError, match="coin keys"):
        CksMachine.create(setup_of("m0", coins=None))
    weak = fast_coins(b"", bytes(32), 0, bytes(32), MEMBERS, QUORUM.weak)
    with pytest.raises(ValueError, match="threshold is 2, must be n − f − c = 3"):
        CksMachine.create(setup_of("m0", coins=weak["m0"]))
    with pytest.raises(ValueError, match="need a window of 4 slots"):
        CksMachine.create(setup_of("m0", window=3))


def test_slots_and_rounds() -> None:
    """Round r has the slots start + (r - 1)(n - f - c) + 1 to start + r(n - f - c)."""
    slots = m.Rounds(10, 3)
    assert [(slots.first(r), slots.last(r)) for r in (1, 2, 3)] == [(11, 13), (14, 16), (17, 19)]
    assert [slots.of(slot) for slot in range(11, 18)] == [1, 1, 1, 2, 2, 2, 3]
    assert [slots.complete(slot) for slot in range(9, 17)] == [0, 0, 0, 0, 1, 1, 1, 2]


# ------------------------------------------------------------------------------------------------- offers


def test_a_proposal_is_an_offer_to_all_with_its_bytes() -> None:
    play = Play()
    effects = play.give(Propose(Batch(A, 100)))
    persist, send = effects
    assert isinstance(persist, Persist)
    assert persist.slot == 3, "a record is kept as long as its round"
    assert send == Broadcast(m.Part(1, m.OFFER, 0, cb.CODEC.encode(cb.Send(A))), (A,))
    assert play.machine.room == 1
    assert said(play.give(Propose(Batch(B, 100))))[0].round == 2
    with pytest.raises(ValueError, match="no room"):
        play.give(Propose(Batch(C, 100)))


def test_no_echo_before_the_bytes_are_here() -> None:
    """SAFETY rules 3 and 4."""
    play = Play()
    effects = play.offer(1, "m1", A)
    assert Fetch(A, 3, ("m1",)) in outputs(effects)
    assert not echoes(effects)
    effects = play.give(Available(A))
    assert left(effects) == [(("m1",), echoes(effects)[0])]
    # The record first (SAFETY rule 5).
    assert isinstance(effects[0], Persist)


def test_the_empty_batch_is_echoed_at_once() -> None:
    play = Play()
    effects = play.offer(1, "m1", NO_DIGEST)
    assert len(echoes(effects)) == 1
    assert not [output for output in outputs(effects) if isinstance(output, Fetch)]


def test_a_batch_that_is_not_authentic_is_never_echoed() -> None:
    play = Play()
    play.offer(1, "m1", A)
    play.offer(1, "m2", A)
    effects = play.give(Refused(A))
    assert [effect.member for effect in effects if isinstance(effect, Blame)] == ["m1", "m2"]
    assert not echoes(effects)
    assert not echoes(play.offer(1, "m1", A))


def test_an_offer_that_is_no_digest_is_blamed() -> None:
    play = Play()
    effects = play.hear("m1", m.Part(1, m.OFFER, 1, cb.CODEC.encode(cb.Send(b"short"))))
    assert [effect.member for effect in effects if isinstance(effect, Blame)] == ["m1"]
    assert not echoes(effects)


def test_only_the_sender_offers_in_its_name() -> None:
    play = Play()
    effects = play.hear("m2", m.Part(1, m.OFFER, 1, cb.CODEC.encode(cb.Send(A))))
    assert [effect.member for effect in effects if isinstance(effect, Blame)] == ["m2"]
    for part in (
        m.Part(1, m.OFFER, 4, cb.CODEC.encode(cb.Send(A))),
        m.Part(1, m.OFFER, 1, b"\xff"),
        m.Part(1, 99, 0, b""),
        m.Part(1, va.OUTCOME, 0, b"nonsense"),
    ):
        effects = play.hear("m2", part)
        assert [effect.member for effect in effects if isinstance(effect, Blame)] == ["m2"], part


# ------------------------------------------------------------------------------------------------- idle members


def test_who_is_idle_is_asked_once_for_each_round_that_others_begin() -> None:
    """Idle members must not starve the others (CRYPTO 2001, section 6)."""
    play = Play()
    assert outputs(play.offer(1, "m1", NO_DIGEST)) == [BatchWanted()]
    assert outputs(play.offer(1, "m2", NO_DIGEST)) == []
    assert outputs(play.offer(2, "m2", NO_DIGEST)) == [BatchWanted()]
    # Beyond the pipeline it waits until this member has got there.
    assert outputs(play.offer(3, "m2", NO_DIGEST)) == []
    play.give(Propose(Batch(NO_DIGEST, 0)))
    play.give(Propose(Batch(A, 10)))
    assert BatchWanted() in outputs(play.agree(1, EMPTY))


def test_a_later_round_that_begins_asks_for_those_before_it() -> None:
    """Rounds are delivered in order, so each of them must be filled."""
    play = Play()
    assert outputs(play.offer(2, "m1", NO_DIGEST)) == [BatchWanted(), BatchWanted()]


def test_who_has_offered_is_not_asked() -> None:
    play = Play()
    play.give(Propose(Batch(A, 10)))
    assert outputs(play.offer(1, "m1", NO_DIGEST)) == []


# ------------------------------------------------------------------------------------------------- agreement


def test_with_enough_offers_their_list_is_proposed() -> None:
    """Step 2: n - f - c offers of different members; the first that were delivered, ascending by member."""
    play = Play()
    play.give(Propose(Batch(A, 10)))
    for sender in ("m3", "m1"):
        assert not said(play.hear(sender, offer_final(1, sender, NO_DIGEST)), va.PROPOSAL)
    effects = play.hear("m2", offer_final(1, "m2", NO_DIGEST))
    (proposal,) = said(effects, va.PROPOSAL)
    send = cb.CODEC.decode(proposal.body)
    assert isinstance(send, cb.Send)
    assert lists.valid_list(play.setup, 1, send.value)
    assert [listed.index for listed in lists.read_list(play.setup, 1, send.value)] == [1, 2, 3]


def offer_final(number: int, sender: MemberId, name: bytes) -> m.Part:
    return m.Part(number, m.OFFER, MEMBERS.index(sender), final_of(number, sender, name))


def test_the_agreed_batches_are_the_slots_in_the_order_of_the_roster() -> None:
    play = Play()
    effects = play.agree(1, {"m3": C, "m0": A, "m2": B})
    holders = tuple(member for member in MEMBERS[:3] if member != "m0")
    assert [output for output in outputs(effects) if isinstance(output, Fetch)] == [
        Fetch(A, 3, holders),
        Fetch(B, 3, holders),
        Fetch(C, 3, ("m1", "m3")),
    ]
    assert outputs(play.give(Available(B))) == [], "slot 1 is first"
    assert outputs(play.give(Available(A))) == [Decided(1, A), Decided(2, B)]
    assert outputs(play.give(Available(C))) == [Decided(3, C)]
    assert play.machine.view == 1


def test_rounds_are_delivered_in_order() -> None:
    play = Play()
    empty = EMPTY
    assert not [output for output in outputs(play.agree(2, empty)) if isinstance(output, Decided)]
    decided = [output for output in outputs(play.agree(1, empty)) if isinstance(output, Decided)]
    assert decided == [Decided(slot, NO_DIGEST) for slot in range(1, 7)]


def test_an_own_batch_that_was_left_out_is_returned() -> None:
    play = Play()
    play.give(Propose(Batch(A, 10)))
    play.give(Propose(Batch(B, 10)))
    assert Returned(A) in outputs(play.agree(1, {"m1": NO_DIGEST, "m2": NO_DIGEST, "m3": NO_DIGEST}))
    assert Returned(B) not in outputs(play.agree(2, {"m0": B, "m2": NO_DIGEST, "m3": NO_DIGEST}))


def test_what_was_agreed_is_told_to_all_once_and_written_down() -> None:
    """Whoever decides drops out of the round: the proof must reach those that still work on it."""
    play = Play()
    names = EMPTY
    effects = play.agree(1, names)
    assert [part.kind for part in broadcasts(effects)] == [va.OUTCOME]
    assert play.agree(1, names) == []
    again = Play()
    again.machine = CksMachine.create(again.setup)
    again.do("on_restore", play.records)
    effects = again.do("on_start")
    decided = [*outputs(effects), *outputs(again.do("on_input", Waiting(True)))]
    assert [output for output in decided if isinstance(output, Decided)] == [
        Decided(slot, NO_DIGEST) for slot in (1, 2, 3)
    ]


@pytest.mark.parametrize("change", ["short", "double", "order", "unproved", "other round", "long"])
def test_only_full_lists_of_proved_offers_are_valid(change: str) -> None:
    """The predicate of the agreement: a liar's list that is too short, or holds made-up offers, is nobody's."""
    offers = [lists.Offer(index, final_of(1, MEMBERS[index], NO_DIGEST)) for index in range(4)]
    good = offers[:3]
    assert lists.valid_list(setup_of("m0"), 1, lists.LISTS.encode(lists.OfferList(tuple(good))))
    match change:
        case "short":
            good = good[:2]
        case "double":
            good = [offers[0], offers[0], offers[1]]
        case "order":
            good = [offers[1], offers[0], offers[2]]
        case "unproved":
            good[1] = lists.Offer(1, offers[2].proof)
        case "other round":
            good[1] = lists.Offer(1, final_of(2, "m1", NO_DIGEST))
        case _:
            good = offers
    assert not lists.valid_list(setup_of("m0"), 1, lists.LISTS.encode(lists.OfferList(tuple(good))))


def test_the_longest_list_fits() -> None:
    value = list_of(1, {"m1": A, "m2": B, "m3": C})
    assert len(value) <= lists.list_bytes_max(setup_of("m0")) <= len(value) + 200


# ------------------------------------------------------------------------------------------------- by other ways


def test_learned_slots_are_delivered_and_the_round_is_still_taken_part_in() -> None:
    """Whoever told may be gone: the others need every correct member to come to the same end by themselves."""
    play = Play()
    learned = [outputs(play.give(Learned(slot, name))) for slot, name in ((2, B), (1, A), (3, C))]
    assert learned == [[], [Decided(1, A), Decided(2, B)], [Decided(3, C)]]
    effects = play.offer(1, "m1", NO_DIGEST)
    assert len(echoes(effects)) == 1
    assert cb.CODEC.decode(said(effects)[0].body) == cb.Send(NO_DIGEST), (
        "without an offer of its own it would starve them"
    )
    assert BatchWanted() not in outputs(effects)


def test_a_stable_checkpoint_skips_rounds_and_gives_batches_back() -> None:
    play = Play()
    play.give(Propose(Batch(A, 10)))
    play.give(Propose(Batch(B, 10)))
    effects = play.do("on_stable", 4, bytes(32))
    assert Returned(A) in outputs(effects)
    assert Returned(B) not in outputs(effects), "round 2 is not over: its slots are 4, 5 and 6"
    assert m.Status(1, 0, False) in broadcasts(effects)
    assert play.offer(1, "m1", NO_DIGEST) == []
    decided = outputs(play.agree(2, {"m0": B, "m1": NO_DIGEST, "m2": NO_DIGEST}))
    assert [output for output in decided if isinstance(output, Decided)] == [
        Decided(5, NO_DIGEST),
        Decided(6, NO_DIGEST),
    ]


def test_messages_that_come_too_early_are_asked_for_in_time() -> None:
    """No timer: the question is asked when this member gets to the rounds of which it passed something over."""
    play = Play()
    last = play.machine.limit
    effects = play.offer(last + 1, "m1", NO_DIGEST)
    assert effects == []
    assert last + 1 not in play.machine.rounds
    asked = play.do("on_stable", play.machine.slots.last(last - 1), bytes(32))  # (it asks because it jumped)
    assert broadcasts(asked) == [m.Status(last - 1, 0, False)]
    asked = play.agree(last, EMPTY)
    assert m.Status(last, last, False) in broadcasts(asked)


# ------------------------------------------------------------------------------------------------- the epoch's end


def test_after_a_stop_rounds_fill_up_to_the_boundary() -> None:
    """SAFETY rule 23: without being asked, and whatever the window says; nothing above it. They serve clients."""
    play = Play(window=4, parameters={"pipeline": 64})
    play.give(Propose(Batch(A, 10)))
    assert play.machine.room == 0, "the window ends in round 2"
    assert outputs(play.do("on_stop", 8)) == [BatchWanted(), BatchWanted()]
    assert play.machine.room == 2
    effects = [*play.give(Propose(Batch(B, 10))), *play.give(Propose(Batch(NO_DIGEST, 0)))]
    assert [(part.round, cb.CODEC.decode(part.body)) for part in said(effects)] == [
        (2, cb.Send(B)),
        (3, cb.Send(NO_DIGEST)),
    ]
    assert play.machine.room == 0
    assert play.offer(4, "m1", NO_DIGEST) == []
    empty = EMPTY
    decided = [output for number in (1, 2, 3) for output in outputs(play.agree(number, empty))]
    assert [output.slot for output in decided if isinstance(output, Decided)] == list(range(1, 9))
    assert play.machine.highest_voted == 8


def test_a_batch_above_the_boundary_is_given_back() -> None:
    play = Play(parameters={"pipeline": 3})
    for name in (A, B, C):
        play.give(Propose(Batch(name, 10)))
    assert outputs(play.do("on_stop", 5)) == [Returned(C)]
    play.agree(1, {"m0": A, "m1": NO_DIGEST, "m2": NO_DIGEST})
    # Slot 6 is void, and with it the batch that the round puts there.
    assert Returned(B) not in outputs(play.agree(2, {"m0": B, "m1": NO_DIGEST, "m2": NO_DIGEST}))
    other = Play("m3", parameters={"pipeline": 3})
    for name in (A, B):
        other.give(Propose(Batch(name, 10)))
    other.do("on_stop", 5)
    assert Returned(B) in outputs(other.agree(2, {"m1": NO_DIGEST, "m2": NO_DIGEST, "m3": B}, "m1"))


# ------------------------------------------------------------------------------------------------- asking again


def test_a_stuck_member_asks_and_gets_what_was_said() -> None:
    one, two = Play("m0"), Play("m1")
    one.give(Propose(Batch(NO_DIGEST, 0)))
    one.do("on_timer", ("status",))
    effects = one.do("on_timer", ("status",))
    (question,) = broadcasts(effects)
    assert question == m.Status(0, 0, False)
    assert SetTimer(("status",), RECORD.parameters["status_ticks"].default) in effects
    two.give(Propose(Batch(NO_DIGEST, 0)))
    answers = sends(two.hear("m0", question))
    assert [cb.CODEC.decode(part.body) for part in answers if isinstance(part, m.Part)] == [cb.Send(NO_DIGEST)]
    # m1 says where it stands, so that m0 repeats its own offer, and so gets the echo that was lost.
    (state,) = [answer for answer in answers if isinstance(answer, m.Status)]
    assert state.answer
    repeated = sends(one.hear("m1", state))
    assert repeated == [m.Part(1, m.OFFER, 0, cb.CODEC.encode(cb.Send(NO_DIGEST)))]


def test_a_laggard_gets_the_outcomes() -> None:
    play = Play()
    empty = EMPTY
    for number in (1, 2):
        play.agree(number, empty)
    sent = sends(play.hear("m2", m.Status(1, 1, False)))
    assert [(part.round, part.kind) for part in sent] == [(2, va.OUTCOME)]
    assert play.hear("m2", m.Status(2, 2, True)) == []


def test_asking_without_end_is_not_answered_without_end() -> None:
    play = Play()
    play.give(Propose(Batch(NO_DIGEST, 0)))
    answered = [bool(play.hear("m2", m.Status(0, 1, False))) for _ in range(200)]
    assert answered[0]
    assert not any(answered[100:])
    play.do("on_timer", ("status",))
    assert play.hear("m2", m.Status(0, 1, False))


# ------------------------------------------------------------------------------------------------- restarts


def test_a_restarted_member_makes_no_second_offer_and_no_second_echo() -> None:
    play = Play()
    play.give(Propose(Batch(A, 10)))
    first = echoes(play.offer(1, "m1", NO_DIGEST))
    again = Play()
    again.machine = CksMachine.create(again.setup)
    again.do("on_restore", play.records)
    effects = again.do("on_start")
    assert m.Status(0, 1, False) in broadcasts(effects)
    assert said(again.give(Propose(Batch(B, 10))))[0].round == 2
    assert echoes(again.offer(1, "m1", NO_DIGEST)) == first
    assert not echoes(again.offer(1, "m1", C))


def test_an_own_offer_that_was_forgotten_is_not_made_again() -> None:
    """SAFETY rule 16: the disk is older than what this member said. It makes no second offer when it hears of that."""
    play = Play()
    play.hear("m1", offer_final(1, "m0", A))
    assert said(play.give(Propose(Batch(B, 10))))[0].round == 2


def test_a_round_of_which_the_log_has_forgotten_a_part_is_over() -> None:
    """Segments of the log go from the oldest on, so that what is left of old rounds may begin anywhere."""
    play = Play()
    play.give(Propose(Batch(A, 10)))
    play.offer(1, "m1", NO_DIGEST)
    play.give(Propose(Batch(B, 10)))
    assert [m.RECORDS.decode(record).serial for record in play.records] == [0, 1, 0]
    again = CksMachine.create(play.setup)
    out: Out[Any, Any] = Out()
    again.on_restore(play.records[1:], out)
    assert sorted(again.rounds) == [2]


def test_a_fork_goes_its_own_way() -> None:
    play = Play()
    play.give(Propose(Batch(A, 10)))
    fork = play.machine.fork()
    assert fork.fingerprint() == play.machine.fingerprint()
    before = play.machine.fingerprint()
    out: Out[Any, Any] = Out()
    fork.on_message("m1", m.Part(1, m.OFFER, 1, cb.CODEC.encode(cb.Send(NO_DIGEST))), out)
    assert fork.fingerprint() != before
    assert play.machine.fingerprint() == before


def test_the_record_is_what_the_page_says() -> None:
    assert RECORD.coins
    assert RECORD.crash_as_lie
    assert RECORD.members_needed(1, 1) == 7
    assert attrs.asdict(RECORD.parameters["pipeline"])["minimum"] == 1
