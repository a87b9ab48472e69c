"""A coin key that the members make themselves: everybody gets its share of one key, whatever f members do.

*Liveness*, *consistency* and *secrecy* as the module's text claims them; *evidence* is what anybody can check;
*restarts* never make a member contradict itself (SAFETY rule 16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import attrs
import pytest

from bftkit.core.digest import digest
from bftkit.core.machine import MemberId, Out, Send
from bftkit.core.ordering import Setup
from bftkit.core.trace import describe
from bftkit.core.wire import WireError
from bftkit.crypto.dkg import Dealing, evaluate, row_share
from bftkit.crypto.keys import Ed25519Keyring, Ed25519Verifier, SigningKey
from bftkit.crypto.threshold import is_scalar, scalar
from bftkit.membership.chain import only_verifies
from bftkit.membership.keymaking import (
    Again,
    Begin,
    Completed,
    KeepSecret,
    KeyMaking,
    Output,
    Ready,
    SecretKept,
    Selected,
    check_evidence,
    check_selection,
)
from bftkit.membership.keymaking_messages import (
    COMMITMENT_PURPOSE,
    EVIDENCE,
    PART_PURPOSE,
    AskPoint,
    BadPart,
    Complete,
    Deal,
    Held,
    Message,
    Point,
    Selection,
    Sharing,
    TwoCommitments,
)
from tests.unit.key_world import EPOCH, GROUP, NAME, OPENING, KeyWorld, check_coins, coins_of_world, silent

GROUPS = [(1, 0, 0), (3, 0, 1), (4, 1, 0), (5, 1, 0), (6, 1, 1), (7, 2, 0)]


def other_number(data: bytes, index: int = 0) -> bytes:
    """Scalars one behind the other, of which one is one more."""
    start = 32 * index
    value = int.from_bytes(data[start : start + 32], "little")
    return data[:start] + scalar(value + 1) + data[start + 32 :]


def signed_again(world: KeyWorld, dealer: MemberId, receiver: MemberId, deal: Deal) -> Deal:
    """What a liar deals, with its own good signatures."""
    judge, ring = world.machines[dealer].judge, world.rings[dealer]
    name = judge.shape.commitment_digest(deal.commitment)
    about = judge.about_part(dealer, name, judge.place(receiver), deal.row, deal.column)
    promise = ring.sign(COMMITMENT_PURPOSE, judge.about(dealer, name))
    return attrs.evolve(deal, promise=promise, signature=ring.sign(PART_PURPOSE, about))


def second_dealing(world: KeyWorld, dealer: MemberId, receiver: MemberId) -> Deal:
    """A part of another sharing of this dealer: well formed, signed, and one too many."""
    judge = world.machines[dealer].judge
    dealing = Dealing.of(judge.shape, digest(b"another seed"), b"")
    row, column = dealing.piece(judge.place(receiver))
    return signed_again(world, dealer, receiver, Deal(dealing.commitment, bytes(64), row, column, bytes(64)))


def proved(world: KeyWorld, member: MemberId, proof: bytes) -> bool:
    return check_evidence(world.rings["m0"], world.quorum, world.members, NAME, member, proof)


# ------------------------------------------------------------------------------------------------- liveness


@pytest.mark.parametrize("loss", [0.0, 0.3])
@pytest.mark.parametrize(("n", "f", "c"), GROUPS)
def test_all_members_get_shares_of_one_key(n: int, f: int, c: int, loss: float) -> None:
    world = KeyWorld(n, f, c, seed=n, loss=loss)
    world.make(early=True)
    check_coins(world, world.members)
    assert world.blames == []
    assert all(sum(isinstance(output, Ready) for output in world.outputs[name]) == 1 for name in world.members)


@pytest.mark.parametrize(("n", "f", "c", "down"), [(4, 1, 0, 1), (6, 1, 1, 2), (3, 0, 1, 1)])
@pytest.mark.parametrize("after", [0, 15, 30])
def test_with_t_members_down_for_good_the_others_get_theirs(n: int, f: int, c: int, down: int, after: int) -> None:
    world = KeyWorld(n, f, c, seed=after, loss=0.2)
    world.begin()
    for _ in range(min(after, len(world.waiting))):
        world.step()
    for member in world.members[:down]:
        world.crash(member)
    world.run(world.all_completed)
    selection = world.completed(world.members[-1])
    assert selection is not None
    world.select(selection)
    world.run(world.all_ready)
    check_coins(world, world.machines)


def test_nothing_is_waited_for_beyond_n_minus_t_members() -> None:
    """Without a single beat: silence of t members is no reason to wait for anything."""
    world = KeyWorld(4, 1, liars={"m3": silent})
    world.begin()
    world.run()
    assert world.all_completed()


def test_a_sharing_that_was_withheld_from_some_is_restored() -> None:
    """n - t members hold a liar's sharing. It is selected, and the liar is gone."""
    world = KeyWorld(7, 2, seed=1)
    withheld = ("m5", "m6")
    world.liars["m0"] = lambda receiver, message: (
        () if isinstance(message, Deal) and receiver in withheld else (message,)
    )
    world.begin()
    world.run(lambda: world.knows("m0", "m1", "m2"))
    selection = world.selection_of("m0", "m1", "m2")
    world.crash("m0")
    world.loss = 0.3
    world.select(selection)
    assert [sorted(world.machines[name].recoveries) for name in withheld] == [["m0"], ["m0"]]
    world.run(world.all_ready)
    check_coins(world, world.machines)


def test_who_comes_when_all_is_decided_gets_its_share_from_the_others() -> None:
    world = KeyWorld(4, 1, seed=2)
    world.crash("m3")
    world.begin()
    world.run(world.all_completed)
    selection = world.completed("m0")
    assert selection is not None
    world.select(selection)
    world.run(world.all_ready)
    world.restart("m3")
    world.run(world.all_ready)
    check_coins(world, world.members)


def test_a_part_that_comes_late_does_as_well_as_a_restored_one() -> None:
    world = KeyWorld(4, 1, seed=3)
    world.liars["m0"] = lambda receiver, message: () if isinstance(message, Deal) and receiver == "m3" else (message,)
    world.begin()
    world.run(lambda: world.knows("m0", "m1"))
    deal = world.machines["m0"]._deal("m3")  # pyright: ignore[reportPrivateUsage]
    world.waiting.clear()
    world.select(world.selection_of("m0", "m1"), "m3")
    world.waiting.clear()  # its questions are lost
    world.inject("m1", "m3", world.machines["m1"]._deal("m3"))  # pyright: ignore[reportPrivateUsage]
    world.inject("m0", "m3", deal)
    world.run()
    assert world.ready("m3") is not None


def test_in_the_end_nobody_has_anything_to_say_again() -> None:
    """Whatever was lost, and although a dealer restarted that had forgotten all votes."""
    world = KeyWorld(4, 1, seed=30, loss=0.4)
    world.begin()
    world.run(world.all_completed)
    world.crash("m0")
    world.restart("m0")
    world.run(lambda: world.knows(*world.members))
    world.loss = 0.0
    for _ in range(2):
        again(world)
    assert all(set(machine.complete) == set(world.members) for machine in world.machines.values())
    assert again(world) == 0
    world.loss = 0.4
    world.crash("m1")
    world.kept["m1"].clear()
    world.restart("m1")
    world.select(world.selection_of("m2", "m3"))
    world.run(world.all_ready)
    world.run()
    assert again(world) == 0
    said = len(world.said)
    late = [flight for flight in world.said if isinstance(flight.message, Deal | Held | Complete)]
    world.waiting.extend(late)
    world.loss = 0.0
    world.run()
    assert all(isinstance(flight.message, Held) for flight in world.said[said:])
    assert world.blames == []


def again(world: KeyWorld) -> int:
    """How much is said when everybody is to say again what nobody answered."""
    world.run()
    before = len(world.said)
    for member in world.machines:
        world.input(member, Again())
    world.run()
    return len(world.said) - before


# ------------------------------------------------------------------------------------------------- liars


def bad_part(change: Callable[[Deal], Deal]) -> KeyWorld:
    """m1 deals something false to m3, signed, all else as it should be; its sharing is selected with m0's."""
    world = KeyWorld(4, 1, seed=4)

    def lie(receiver: MemberId, message: Message) -> Iterable[Message]:
        if isinstance(message, Deal) and receiver == "m3":
            return (signed_again(world, "m1", receiver, change(message)),)
        return (message,)

    world.liars["m1"] = lie
    world.begin()
    world.run(lambda: world.knows("m0", "m1"))
    world.run()
    world.select(world.selection_of("m0", "m1"))
    world.run(world.all_ready)
    check_coins(world, world.honest)
    return world


CHANGES: dict[str, Callable[[Deal], Deal]] = {
    "share": lambda deal: attrs.evolve(deal, row=other_number(deal.row)),
    "row": lambda deal: attrs.evolve(deal, row=other_number(deal.row, 1)),
    "column": lambda deal: attrs.evolve(deal, column=other_number(deal.column, 2)),
    "length": lambda deal: attrs.evolve(deal, row=deal.row + deal.row),
    "nothing": lambda deal: attrs.evolve(deal, column=b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_part_that_contradicts_its_commitment_is_evidence_and_hurts_nobody(change: str) -> None:
    world = bad_part(CHANGES[change])
    deal = world.machines["m1"]._deal("m3")  # pyright: ignore[reportPrivateUsage]
    world.inject("m1", "m3", signed_again(world, "m1", "m3", attrs.evolve(deal, row=deal.column)))
    world.run()
    (proof,) = world.proofs("m1")
    assert isinstance(EVIDENCE.decode(proof), BadPart)
    assert proved(world, "m1", proof)
    assert not proved(world, "m0", proof)
    assert {(who, blame.member) for who, blame in world.blames} == {("m3", "m1")}
    assert not any(
        flight.sender == "m3" and isinstance(flight.message, Held) and flight.receiver == "m1" for flight in world.said
    )


def test_a_commitment_to_something_else_is_evidence_of_all_who_see_it() -> None:
    """A polynomial of too high a degree for its shape, all signed: whoever checks refuses it."""
    world = KeyWorld(4, 1, seed=5)

    def lie(receiver: MemberId, message: Message) -> Iterable[Message]:
        if not isinstance(message, Deal):
            return (message,)
        return (signed_again(world, "m2", receiver, attrs.evolve(message, commitment=message.commitment[::-1])),)

    world.liars["m2"] = lie
    world.make()
    assert {(who, blame.member) for who, blame in world.blames} == {(name, "m2") for name in world.honest}
    assert all(proved(world, "m2", proof) for proof in world.proofs("m2"))
    assert not world.knows("m2")
    check_coins(world, world.honest)


@pytest.mark.parametrize("field", ["promise", "signature"])
def test_what_the_dealer_did_not_sign_proves_nothing_and_is_not_held(field: str) -> None:
    world = KeyWorld(4, 1, seed=6)
    world.liars["m2"] = lambda receiver, message: (
        (attrs.evolve(message, **{field: bytes(64)}) if isinstance(message, Deal) else message,)
    )
    world.make()
    assert {(who, blame.member) for who, blame in world.blames} == {(name, "m2") for name in world.honest}
    assert world.proofs("m2") == []
    assert all("m2" not in world.machines[name].holdings for name in world.honest)


def test_two_sharings_of_one_dealer_are_evidence_whoever_sees_both() -> None:
    """m0 gives m3 a part of a second sharing. m3 sees the first one completed, and gets its share of that."""
    world = KeyWorld(4, 1, seed=7)
    world.liars["m0"] = lambda receiver, message: (
        (second_dealing(world, "m0", receiver) if isinstance(message, Deal) and receiver == "m3" else message,)
    )
    world.begin()
    world.run(lambda: world.knows("m0", "m1"))
    world.run()
    (proof,) = world.proofs("m0")
    assert isinstance(EVIDENCE.decode(proof), TwoCommitments)
    assert proved(world, "m0", proof)
    assert not proved(world, "m1", proof)
    assert {who for who, blame in world.blames if blame.member == "m0"} == {"m3"}
    world.select(world.selection_of("m0", "m1"))
    world.run(world.all_ready)
    check_coins(world, world.honest)


def test_who_gets_two_sharings_of_one_dealer_votes_for_the_first() -> None:
    world = KeyWorld(4, 1, seed=8)
    world.liars["m0"] = lambda receiver, message: (
        (message, second_dealing(world, "m0", receiver)) if isinstance(message, Deal) else (message,)
    )
    world.make()
    assert {who for who, blame in world.blames if blame.member == "m0"} == set(world.honest)
    assert all(proved(world, "m0", proof) for proof in world.proofs("m0"))
    for name in world.honest:
        assert len(votes(world, name, "m0")) <= 1
        assert sum(isinstance(output, KeepSecret) and output.name == "part-1" for output in world.outputs[name]) == 1


def votes(world: KeyWorld, member: MemberId, dealer: MemberId) -> set[Held]:
    """What this member said to this dealer, of all its lives."""
    said = [flight.message for flight in world.said if (flight.sender, flight.receiver) == (member, dealer)]
    return {message for message in said if isinstance(message, Held)}


@pytest.mark.parametrize("lie", ["point", "encoding", "commitment"])
def test_bad_points_are_found_and_f_liars_do_not_stop_a_recovery(lie: str) -> None:
    """m0 dealt nothing to m6, and it and m1 answer m6 falsely."""
    world = KeyWorld(7, 2, 0, seed=9)

    def false(receiver: MemberId, message: Message) -> Iterable[Message]:
        if isinstance(message, Deal) and receiver == "m6" and message.commitment == dealt_by_m0():
            return ()
        if not isinstance(message, Point):
            return (message,)
        if lie == "commitment":
            assert message.commitment is not None
            return (attrs.evolve(message, commitment=message.commitment[::-1]),)
        return (attrs.evolve(message, value=other_number(message.value) if lie == "point" else b"\xff" * 32),)

    def dealt_by_m0() -> bytes:
        dealing = world.machines["m0"].dealing
        return dealing.commitment if dealing is not None else b""

    world.liars = {"m0": false, "m1": false}
    world.begin()
    world.run(lambda: world.knows("m0", "m1", "m2"))
    world.run()
    world.select(world.selection_of("m0", "m1", "m2"))
    assert sorted(world.machines["m6"].recoveries) == ["m0"]
    world.run(world.all_ready)
    world.run()
    check_coins(world, world.honest)
    assert {(who, blame.member) for who, blame in world.blames} <= {("m6", "m0"), ("m6", "m1")}


def missing_part() -> tuple[KeyWorld, dict[MemberId, Point]]:
    """m3 has no part of m0's sharing, which is selected, and its questions are lost; what m1 and m2 would answer."""
    world = KeyWorld(4, 1, seed=10)
    world.liars["m0"] = lambda receiver, message: () if isinstance(message, Deal) and receiver == "m3" else (message,)
    world.begin()
    world.run(lambda: world.knows("m0", "m1"))
    world.run()
    selection = world.selection_of("m0", "m1")
    world.select(selection, "m3")
    world.waiting.clear()
    name = world.machines["m3"].judge.commitment_of(selection.sharings[0])
    answers: dict[MemberId, Point] = {}
    for member in ("m1", "m2"):
        out = Out[Message, Output]()
        world.machines[member].on_message("m3", AskPoint("m0", name, True), out)
        (effect,) = out.effects
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Point)
        answers[member] = effect.message
    return world, answers


def test_a_point_is_checked_before_it_counts() -> None:
    world, answers = missing_part()
    for point in (attrs.evolve(answers["m1"], value=other_number(answers["m1"].value)), answers["m1"], answers["m2"]):
        world.inject("m2" if point is answers["m2"] else "m1", "m3", point)
        world.run()
    faults = [(blame.member, blame.fault) for _, blame in world.blames]
    assert faults == [("m1", "sent a point that contradicts the commitment")]
    # Of m1 nothing counts any more, so there is one good point of two.
    assert world.ready("m3") is None
    world.inject("m0", "m3", Point("m0", evaluate(world.machines["m0"].holdings["m0"].column, 4), None))
    world.run()
    assert world.ready("m3") is not None


def test_a_commitment_that_comes_with_a_point_is_the_selected_one() -> None:
    """Points of another sharing fit that one's commitment, so it must be the one that was certified."""
    world, answers = missing_part()
    judge = world.machines["m0"].judge
    other = Dealing.of(judge.shape, digest(b"another seed"), b"")
    world.inject("m1", "m3", Point("m0", evaluate(other.piece(2)[1], 4), other.commitment))
    world.run()
    faults = [(blame.member, blame.fault) for _, blame in world.blames]
    assert faults == [("m1", "sent another commitment than it was asked for")]
    # A point without the commitment cannot be checked yet: it is no lie, and it does not count.
    world.inject("m2", "m3", attrs.evolve(answers["m2"], commitment=None))
    world.run()
    assert world.machines["m3"].recoveries["m0"].points == {}
    world.inject("m2", "m3", answers["m2"])
    world.inject("m0", "m3", Point("m0", evaluate(world.machines["m0"].holdings["m0"].column, 4), None))
    while world.waiting:
        world.step()
    world.input("m3", Again())
    world.run()
    assert world.ready("m3") is not None
    assert len(world.blames) == 1


def test_bad_votes_and_bad_certificates_are_refused() -> None:
    world = KeyWorld(4, 1, seed=11)

    def lie(receiver: MemberId, message: Message) -> Iterable[Message]:
        if isinstance(message, Held):
            return (Held(bytes(64)),)
        if isinstance(message, Complete):
            less = bytes([message.sharing.certificate[0]]) + bytes(len(message.sharing.certificate) - 1)
            return (attrs.evolve(message, sharing=attrs.evolve(message.sharing, certificate=less)),)
        return (message,)

    world.liars["m3"] = lie
    world.make()
    check_coins(world, world.honest)
    assert {blame.member for _, blame in world.blames} == {"m3"}
    assert all("m3" not in world.machines[name].votes for name in world.honest)
    assert world.proofs("m3") == []


def test_a_sharing_is_passed_on_with_its_dealers_own_promise_only() -> None:
    """Or else evidence that is put together with it would prove nothing."""
    world = KeyWorld(4, 1, seed=31)
    world.begin()
    world.run(lambda: world.knows("m2"))
    complete = world.machines["m2"].complete["m2"]
    world.crash("m1")
    world.machines["m1"] = world.create("m1")
    world.waiting.clear()
    world.liars["m3"] = silent
    for promise in (bytes(64), complete.promise):
        world.inject("m3", "m1", attrs.evolve(complete, promise=promise))
        world.run()
    assert [(blame.member, blame.proof) for _, blame in world.blames] == [("m3", b"")]
    assert "m2" not in world.machines["m1"].complete
    world.inject("m0", "m1", complete)
    world.run()
    assert world.machines["m1"].complete == {"m2": complete}


def test_a_liar_costs_one_part_and_one_check_of_each_kind() -> None:
    """Bounded: however much it sends, at most one part a dealer is held, and none after a bad one."""
    world = KeyWorld(4, 1, seed=12)
    world.begin()
    world.run()
    before = world.machines["m1"].fingerprint()
    world.liars["m0"] = silent
    for _ in range(20):
        world.inject("m0", "m1", second_dealing(world, "m0", "m1"))
        world.inject("m0", "m1", Held(bytes(64)))
        world.inject("m0", "m1", Point("m2", scalar(5), None))
    world.run()
    assert len(world.blames) == 1
    assert world.machines["m1"].convicted == {"m0"}
    world.machines["m1"].convicted.clear()
    assert world.machines["m1"].fingerprint() == before


# ------------------------------------------------------------------------------------------------- secrecy


@pytest.mark.parametrize(("n", "f", "c"), [(4, 1, 0), (6, 1, 1)])
def test_members_are_sent_their_own_parts_and_points_and_no_others(n: int, f: int, c: int) -> None:
    world = KeyWorld(n, f, c, seed=13, loss=0.3)
    world.crash(world.members[-1])
    world.begin()
    world.run(world.all_completed)
    world.restart(world.members[-1])
    selection = world.completed("m0")
    assert selection is not None
    world.select(selection)
    world.run(world.all_ready)
    dealings = {name: machine.dealing for name, machine in world.machines.items()}
    kinds: set[str] = set()
    for flight in world.said:
        place = world.members.index(flight.receiver) + 1
        message = flight.message
        kinds.add(type(message).__name__)
        if isinstance(message, Deal):
            dealing = dealings[flight.sender]
            assert dealing is not None
            assert (message.row, message.column) == dealing.piece(place)
        elif isinstance(message, Point):
            dealing = dealings[message.dealer]
            assert dealing is not None
            assert message.value == evaluate(dealing.piece(place)[0], world.members.index(flight.sender) + 1)
    assert kinds >= {"Deal", "Point"}


def test_no_secret_is_shown_or_hashed() -> None:
    world = KeyWorld(4, 1, seed=14)
    world.make()
    machine = world.machines["m1"]
    ready = world.ready("m1")
    assert ready is not None
    holding = machine.holdings[next(iter(machine.holdings))]
    deal = machine._deal("m0")  # pyright: ignore[reportPrivateUsage]
    secrets = [ready.share.value, holding.row, holding.column, *world.kept["m1"].values(), deal.row, deal.column]
    keep = next(output for output in world.outputs["m1"] if isinstance(output, KeepSecret))
    shown = "".join(
        text(value)
        for value in (ready, holding, machine, deal, keep, Point("m0", scalar(7), None))
        for text in (repr, describe)
    )
    for secret in [*secrets, scalar(7)]:
        for part in (secret[:4].hex(), repr(secret[:4])[2:-1], repr(secret[-32:])[2:-1]):
            assert part not in shown
    other = machine.fork()
    for dealer, one in other.holdings.items():
        other.holdings[dealer] = attrs.evolve(one, row=bytes(64), column=bytes(96))
    assert other.fingerprint() == machine.fingerprint()


def test_nothing_is_said_that_rests_on_a_secret_before_it_is_kept() -> None:
    """SAFETY rules 5 and 20."""
    world = KeyWorld(4, 1)
    world.begin()
    assert world.said == []
    assert [type(output) for output in world.outputs["m0"]] == [KeepSecret]
    world.waiting.clear()
    deal = world.machines["m0"]._deal("m1")  # pyright: ignore[reportPrivateUsage]
    world.inject("m0", "m1", deal)
    world.step()
    world.inject("m0", "m1", deal)
    world.waiting.sort(key=lambda event: hasattr(event, "life"))
    world.waiting.pop()  # not kept yet
    world.run()
    world.input("m1", Again())
    assert [flight.message for flight in world.said] == [deal, deal]
    world.input("m1", SecretKept("part-1"))
    assert isinstance(world.said[-1].message, Held)
    assert [type(flight.message) for flight in world.said[2:]] == [Held]


# ------------------------------------------------------------------------------------------------- restarts


@pytest.mark.parametrize("seed", range(8))
def test_members_that_restart_never_contradict_themselves(seed: int) -> None:
    """Whatever was said before a crash: one commitment a dealer, one vote a member and dealer, and a key in the end."""
    world = KeyWorld(4, 1, seed=100 + seed, loss=0.1)
    world.begin()
    for _ in range(12):
        for _ in range(world.random.randrange(12)):
            if world.waiting:
                world.step()
        member = world.random.choice(world.members)
        world.crash(member)
        world.restart(member)
        if world.random.random() < 0.3:
            world.input(member, Again())
    world.run(world.all_completed)
    selection = world.completed("m0")
    assert selection is not None
    world.select(selection)
    world.run(world.all_ready)
    check_coins(world, world.members)
    for name in world.members:
        world.crash(name)
        world.restart(name)
    for name in world.members:
        world.outputs[name].clear()
        world.input(name, Again())
    world.run()
    assert world.blames == []
    for dealer in world.members:
        deals = [
            flight.message for flight in world.said if flight.sender == dealer and isinstance(flight.message, Deal)
        ]
        assert len({deal.commitment for deal in deals}) <= 1
        for member in world.members:
            assert len(votes(world, member, dealer)) <= 1


def test_after_a_restart_a_second_sharing_gets_no_vote() -> None:
    world = KeyWorld(4, 1, seed=15)
    world.begin("m0", "m1")
    world.run()
    first = votes(world, "m1", "m0")
    world.crash("m1")
    world.restart("m1")
    world.liars["m0"] = silent
    world.inject("m0", "m1", second_dealing(world, "m0", "m1"))
    world.run()
    assert votes(world, "m1", "m0") == first
    assert len(first) == 1
    assert [(who, blame.member) for who, blame in world.blames] == [("m1", "m0")]
    assert proved(world, "m0", world.proofs("m0")[0])


def test_who_restarts_when_it_is_ready_has_the_same_share() -> None:
    world = KeyWorld(4, 1, seed=16, loss=0.3)
    world.make()
    before = {name: world.ready(name) for name in world.members}
    for name in world.members:
        world.crash(name)
    for name in world.members:
        world.outputs[name].clear()
        world.restart(name)
    world.run(world.all_ready)
    assert {name: world.ready(name) for name in world.members} == before


def test_after_the_selection_nothing_is_signed_so_that_keys_may_be_erased() -> None:
    """SAFETY rule 28: a key lives on over forced changes, and the signing keys of the epoch it was made for do not."""
    world = KeyWorld(4, 1, seed=19)
    world.crash("m3")
    world.begin("m0", "m1", "m2")
    world.run(lambda: world.completed("m1") is not None)
    selection = world.completed("m1")
    assert selection is not None
    world.run()
    dealt = [one for one in world.said if isinstance(one.message, Deal) and one.receiver != "m3"]
    world.select(selection, "m0", "m1", "m2")
    world.run()
    before = {name: world.ready(name) for name in ("m0", "m1", "m2")}
    for name in ("m0", "m1", "m2"):
        world.crash(name)
        world.outputs[name].clear()
        setup = Setup(name, world.members, world.quorum, only_verifies(world.rings[name]))
        world.machines[name] = machine = KeyMaking.create(setup, NAME)
        world.act(name, partial(machine.restore, dict(world.kept[name]), selected=selection))
        world.input(name, Again())
    for flight in dealt:
        world.act(flight.receiver, partial(world.machines[flight.receiver].on_message, flight.sender, flight.message))
    world.machines["m3"] = world.create("m3")
    world.select(selection, "m3")
    world.run(world.all_ready)
    assert {name: world.ready(name) for name in before} == before
    check_coins(world, world.members)


def test_what_was_kept_of_something_else_is_refused() -> None:
    world = KeyWorld(4, 1, seed=17)
    world.make()
    kept = world.kept["m1"]
    deal = kept["part-1"]
    wrong: list[tuple[KeyMaking, dict[str, bytes]]] = [
        (world.create("m1"), {"part-1": deal[:-1]}),
        (world.create("m1"), {"part-3": deal}),
        (world.create("m2"), {"part-1": deal}),
        (world.create("m1", digest(b"another making")), {"part-1": deal}),
        (world.create("m1"), {"part-2": deal}),
        (world.create("m1"), {"part-9": deal}),
        (world.create("m1"), {"seed": b"short"}),
    ]
    for machine, secrets in wrong:
        with pytest.raises(ValueError, match=r"no part of a sharing|no secret|32 secret bytes") as refusal:
            machine.restore(secrets, Out())
        assert deal[-20:].hex() not in str(refusal.value)


def test_a_copy_goes_its_own_way() -> None:
    world = KeyWorld(4, 1, seed=18)
    world.begin()
    world.run()
    machine = world.machines["m0"]
    selection = world.completed("m0")
    assert selection is not None
    before = machine.fingerprint()
    copy = machine.fork()
    assert copy.fingerprint() == before
    out = Out[Message, Output]()
    copy.on_input(Selected(selection), out)
    assert copy.ready
    assert (machine.fingerprint(), machine.ready) == (before, False)


# ------------------------------------------------------------------------------------------------- for everybody


def real_selection() -> tuple[Ed25519Verifier, KeyWorld, Selection]:
    """A selection signed with real keys, and what somebody outside the group knows: public keys."""
    world = KeyWorld(4, 1, seed=19)
    keys = {name: SigningKey(digest(name.encode())) for name in world.members}
    publics = {name: key.public for name, key in keys.items()}
    world.rings = {name: Ed25519Keyring(GROUP, EPOCH, OPENING, name, key, publics) for name, key in keys.items()}
    world.machines = {name: world.create(name) for name in world.members}
    world.make()
    assert world.selection is not None
    return Ed25519Verifier(GROUP, EPOCH, OPENING, publics), world, world.selection


def test_anybody_can_compute_the_key_and_nobody_can_be_shown_another_one() -> None:
    verifier, world, selection = real_selection()
    quorum, members = world.quorum, world.members
    assert Selection.decode(selection.encode()) == selection
    assert check_selection(verifier, quorum, members, NAME, selection) == coins_of_world(world, members)[0]
    one, two = selection.sharings
    third = next(
        complete.sharing for complete in bystander(world) if complete.sharing.dealer not in (one.dealer, two.dealer)
    )
    certificate = two.certificate
    wrong: list[tuple[str, Selection]] = [
        ("different members", Selection(())),
        ("different members", Selection((one,))),
        ("different members", Selection((two, one))),
        ("different members", Selection((one, one))),
        ("different members", Selection(tuple(sorted((one, two, third), key=lambda sharing: sharing.dealer)))),
        ("different members", Selection((one, attrs.evolve(two, dealer="m9")))),
        ("not certified", Selection((one, attrs.evolve(two, rest=digest(b""))))),
        ("not certified", Selection((one, attrs.evolve(two, public=one.public)))),
        ("points", Selection((one, attrs.evolve(two, public=two.public[:-32])))),
        ("not certified", Selection((one, attrs.evolve(two, certificate=certificate[:-64])))),
        ("not certified", Selection((one, attrs.evolve(two, certificate=certificate[:-1] + b"?")))),
        ("not certified", Selection((one, attrs.evolve(two, certificate=one.certificate)))),
    ]
    for reason, selected in wrong:
        with pytest.raises(ValueError, match=reason):
            check_selection(verifier, quorum, members, NAME, selected)
    elsewhere = [
        (Ed25519Verifier(GROUP, EPOCH + 1, OPENING, verifier.publics), NAME),
        (Ed25519Verifier(GROUP, EPOCH, digest(b"?"), verifier.publics), NAME),
        (Ed25519Verifier(OPENING, EPOCH, OPENING, verifier.publics), NAME),
        (verifier, digest(b"another command")),
    ]
    for other, name in elsewhere:
        with pytest.raises(ValueError, match="not certified"):
            check_selection(other, quorum, members, name, selection)
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        check_selection(verifier, quorum, members, b"abc", selection)
    with pytest.raises(ValueError, match="counts 4 different members"):
        check_selection(verifier, quorum, members[:3], NAME, selection)
    with pytest.raises(WireError):
        Selection.decode(selection.encode()[:-1])


def bystander(world: KeyWorld) -> list[Complete]:
    """All complete sharings that were told to anybody."""
    return [flight.message for flight in world.said if isinstance(flight.message, Complete)]


def test_no_honest_dealer_can_be_framed() -> None:
    """Every message that honest members signed, put together in all wrong ways, proves nothing against them."""
    world = KeyWorld(4, 1, seed=20)
    world.make()
    deals = {
        flight.receiver: flight.message
        for flight in world.said
        if flight.sender == "m0" and isinstance(flight.message, Deal)
    }
    others = [flight.message for flight in world.said if flight.sender == "m1" and isinstance(flight.message, Deal)]
    one = deals["m1"]
    name = world.machines["m0"].judge.shape.commitment_digest
    proofs: list[BadPart | TwoCommitments] = [
        *[BadPart(receiver, one) for receiver in (*world.members, "m9")],
        BadPart("m1", attrs.evolve(one, row=deals["m2"].row)),
        BadPart("m1", attrs.evolve(one, commitment=others[0].commitment)),
        BadPart("m2", attrs.evolve(deals["m2"], signature=one.signature)),
        BadPart("m2", others[0]),
        TwoCommitments(name(one.commitment), one.promise, name(one.commitment), one.promise),
        TwoCommitments(name(one.commitment), one.promise, name(others[0].commitment), others[0].promise),
        TwoCommitments(name(one.commitment), one.promise, digest(b""), one.promise),
    ]
    for proof in proofs:
        assert not proved(world, "m0", EVIDENCE.encode(proof)), proof
    for noise in (b"", b"\x01", b"\xff" * 40):
        assert not proved(world, "m0", noise)
    # The same, with a real lie among it, so that the list above is not refused for another reason.
    lie = signed_again(world, "m0", "m1", attrs.evolve(one, row=other_number(one.row)))
    assert proved(world, "m0", EVIDENCE.encode(BadPart("m1", lie)))
    assert not proved(world, "m9", EVIDENCE.encode(BadPart("m1", lie)))


# ------------------------------------------------------------------------------------------------- callers


def test_a_caller_that_errs_is_told() -> None:
    world = KeyWorld(4, 1, seed=21)
    machine = world.machines["m0"]
    for name in ("seed", "part-1", "part-2", "?"):
        with pytest.raises(ValueError, match="gave no secret"):
            machine.on_input(SecretKept(name), Out())
    with pytest.raises(ValueError, match="32 bytes"):
        world.create("m0", b"short")
    world.make()
    assert world.selection is not None
    others = [complete.sharing for complete in bystander(world)]
    dealers = [sharing.dealer for sharing in world.selection.sharings]
    swapped = next(sharing for sharing in others if sharing.dealer not in dealers)
    another = Selection(tuple(sorted((world.selection.sharings[0], swapped), key=lambda sharing: sharing.dealer)))
    with pytest.raises(ValueError, match="another selection"):
        machine.on_input(Selected(another), Out())
    machine.on_input(Selected(world.selection), Out())
    with pytest.raises(ValueError, match="different members"):
        world.create("m1").on_input(Selected(Selection(())), Out())


def test_beginning_twice_draws_once_and_strangers_are_not_heard() -> None:
    world = KeyWorld(4, 1, seed=22)
    world.begin("m0")
    world.begin("m0")
    assert world.draws == 1
    out = Out[Message, Output]()
    world.machines["m1"].on_message("m9", Held(bytes(64)), out)
    world.machines["m1"].on_message("m1", Held(bytes(64)), out)
    world.begin()
    world.run()
    own = world.machines["m1"].holdings["m1"]
    for stranger in ("m9", "m1"):
        world.machines["m1"].on_message(stranger, AskPoint("m1", own.digest, True), out)
    assert out.effects == []


def test_a_selection_is_f_plus_one_sharings_and_the_key_their_sum() -> None:
    world = KeyWorld(7, 2, seed=23)
    world.make()
    assert world.selection is not None
    dealers = [sharing.dealer for sharing in world.selection.sharings]
    assert len(set(dealers)) == 3
    for place, name in enumerate(world.members, 1):
        ready, total = world.ready(name), 0
        assert ready is not None
        for dealer in dealers:
            dealing = world.machines[dealer].dealing
            assert dealing is not None
            total += int.from_bytes(row_share(dealing.piece(place)[0]), "little")
        assert ready.share.value == scalar(total)
        assert is_scalar(ready.share.value)
    assert isinstance(world.selection.sharings[0], Sharing)
    assert sum(isinstance(output, Completed) for output in world.outputs["m0"]) == 1


def test_begin_after_the_selection_deals_nothing() -> None:
    world = KeyWorld(4, 1, seed=24)
    world.begin("m0", "m1", "m2")
    world.run(lambda: world.completed("m0") is not None)
    selection = world.completed("m0")
    assert selection is not None
    world.select(selection)
    draws = world.draws
    world.input("m3", Begin())
    assert world.draws == draws
    world.run(world.all_ready)
    check_coins(world, world.members)
