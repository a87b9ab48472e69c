"""The bedrock agreement in both variants: the same properties, whatever stands underneath.

*Agreement*, *external validity*, *termination* (with `Again` about every second), *integrity*; the outcome can be
proved to anybody; large values are said once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import attrs
import pytest

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import bedrock_messages as m
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import dispersed_agreement as da
from bftkit.blocks import validated_agreement as va
from bftkit.blocks.bedrock import CODEC, Again, Agreed, Bedrock, Message, Propose, check_agreed
from bftkit.blocks.shelf import GIVEN_MAX
from bftkit.blocks.validated_messages import PROOFS
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId, Out
from bftkit.core.ordering import Setup
from bftkit.core.wire import WireError
from bftkit.network.framing import FRAME_BYTES_MAX
from bftkit.sim.block_world import Lying, Silent, block_setups
from tests.unit.bedrock_world import ID, VALUE_MAX, BedrockWorld, anything, valid, value_of

Shape = tuple[int, int, int]
SHAPES: list[Shape] = [(1, 0, 0), (2, 0, 0), (3, 0, 1), (5, 0, 2), (4, 1, 0), (7, 1, 1), (7, 2, 0)]
SMALL: list[Shape] = [(3, 0, 1), (4, 1, 0)]
SURVIVING: list[Shape] = [(3, 0, 1), (5, 0, 2), (4, 1, 0), (7, 2, 0)]


def dispersed(world: BedrockWorld, name: MemberId) -> da.DispersedAgreement:
    found = world.machine(name).variant
    assert isinstance(found, da.DispersedAgreement)
    return found


def blamed(world: BedrockWorld) -> set[MemberId]:
    """By members that do not lie."""
    return {blame.member for by, blame in world.blames if by in world.honest}


# ------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("shape", SHAPES)
def test_all_agree_once_on_a_proposal(shape: Shape) -> None:
    world = BedrockWorld(*shape)
    world.propose()
    world.go()
    assert world.outcome() in {value_of(name) for name in world.members}
    assert all(len(world.outputs[name]) == 1 for name in world.members)
    for name in world.members:
        result = world.outputs[name][0]
        assert check_agreed(world.setups["m0"], ID, result.proof) == result.value
    assert world.blames == []


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_over_links_that_lose_a_third(shape: Shape, seed: int) -> None:
    world = BedrockWorld(*shape, seed=seed, loss=0.3)
    world.propose()
    world.go()
    world.outcome()
    assert world.blames == []


@pytest.mark.parametrize("shape", SURVIVING)
@pytest.mark.parametrize("seed", range(4))
def test_without_the_members_that_may_fail(shape: Shape, seed: int) -> None:
    """t members crash, some of them on the way, the first of the roster among them."""
    _, f, c = shape
    world = BedrockWorld(*shape, seed=seed, loss=0.1)
    world.propose()
    for name in world.members[: f + c]:
        for _ in range(world.random.randrange(30)):
            world.move()
        world.crash(name, lose=True)
    world.go()
    world.outcome()


@pytest.mark.parametrize("shape", SURVIVING)
def test_one_that_proposes_is_enough(shape: Shape) -> None:
    world = BedrockWorld(*shape, loss=0.2)
    world.propose(world.members[-1])
    world.go()
    assert world.outcome() == value_of(world.members[-1])


@pytest.mark.parametrize("shape", SURVIVING)
def test_who_comes_late_hears_the_outcome_and_gets_the_value(shape: Shape) -> None:
    late = f"m{shape[0] - 1}"
    world = BedrockWorld(*shape, absent=(late,))
    world.propose()
    world.go()
    world.flights.clear()
    # It proposes something else, as it must: nobody told it yet.
    world.restart(late)
    world.input(late, Propose(value_of(late)))
    world.go()
    assert len(world.outputs[late]) == 1
    assert world.outcome() == world.outputs["m0"][0].value
    assert world.blames == []


@pytest.mark.parametrize("shape", SURVIVING)
def test_who_comes_late_and_proposes_nothing_does_so_too(shape: Shape) -> None:
    late = f"m{shape[0] - 1}"
    world = BedrockWorld(*shape, absent=(late,), loss=0.3)
    world.propose()
    world.go()
    world.flights.clear()
    world.restart(late)
    world.go()
    world.outcome()


# ------------------------------------------------------------------------------------------------- restarts


@pytest.mark.parametrize("shape", SMALL)
def test_a_restart_at_every_step(shape: Shape) -> None:
    plain = BedrockWorld(*shape, seed=5)
    plain.propose()
    steps = 0
    while not all(plain.outputs[name] for name in plain.members):
        plain.move()
        steps += 1
    for at in range(0, steps, 1 if shape[1] == 0 else 3):
        world = BedrockWorld(*shape, seed=5)
        world.propose()
        for _ in range(at):
            world.move()
        name = world.members[at % len(world.members)]
        world.crash(name, lose=True)
        world.restart(name)
        world.go()
        world.outcome()
        assert world.blames == [], f"restart of {name} after {at} steps"


@pytest.mark.parametrize("shape", SMALL)
def test_the_power_fails_for_all_and_again(shape: Shape) -> None:
    for seed in range(8):
        world = BedrockWorld(*shape, seed=seed, loss=0.1)
        world.propose()
        for _ in range(4):
            for _ in range(world.random.randrange(40)):
                world.move()
            for name in world.members:
                world.crash(name, lose=True)
            for name in world.members:
                world.restart(name)
        world.go()
        world.outcome()
        assert world.blames == []


@pytest.mark.parametrize("shape", SMALL)
def test_the_standing_records_are_enough(shape: Shape) -> None:
    for seed in range(8):
        world = BedrockWorld(*shape, seed=seed, loss=0.1)
        world.propose()
        for turn in range(8):
            for _ in range(world.random.randrange(25)):
                world.move()
            name = world.members[turn % len(world.members)]
            world.records[name] = list(world.machine(name).standing())
            world.crash(name, lose=True)
            world.restart(name)
        world.go()
        world.outcome()
        assert world.blames == []
        # Once it is over, the value and the proof are all that is kept.
        for name in world.members:
            standing = world.machine(name).standing()
            assert len(standing) == 2
            assert sum(map(len, standing)) < 3 * VALUE_MAX


@pytest.mark.parametrize("shape", SMALL)
def test_who_restarts_after_it_agreed_says_it_again(shape: Shape) -> None:
    """The host may not have acted on it."""
    world = BedrockWorld(*shape)
    world.propose()
    world.go()
    world.crash("m1")
    world.restart("m1")
    first, second = world.outputs["m1"]
    assert first == second
    # And whoever missed it gets it from that member alone.
    for name in world.members:
        if name != "m1":
            world.crash(name, lose=True)
            world.records[name].clear()
    world.flights.clear()
    world.restart("m2")
    world.go()
    assert world.outputs["m2"][-1].value == first.value


# ------------------------------------------------------------------------------------------------- liars


@pytest.mark.parametrize("seed", range(6))
def test_what_is_not_valid_is_never_agreed_on(seed: int) -> None:
    liar = "m0"
    world = BedrockWorld(4, 1, seed=seed, liars={liar: Lying(lambda _, message: [message])})
    world.input(liar, Propose(b"bad"))
    world.propose("m1", "m2", "m3")
    world.go()
    assert world.outcome() in {value_of(name) for name in ("m1", "m2", "m3")}
    assert ("m1", "offered a value that is not valid") in {(by, blame.fault) for by, blame in world.blames}
    assert blamed(world) == {liar}


def test_what_a_liar_offers_is_judged_once() -> None:
    """The predicate may check many signatures."""
    judged: list[bytes] = []

    def judge(value: bytes) -> bool:
        judged.append(value)
        return valid(value)

    world = BedrockWorld(4, 1, create=lambda setup: Bedrock.create(setup, ID, judge, VALUE_MAX))
    assert told(world, "m0", "m1", m.Offer(b"bad"), 10) == []
    assert told(world, "m0", "m1", m.Offer(b"worse"), 10) == []
    good = m.Offer(b"good")
    assert len(told(world, "m2", "m1", good, 10)) == 10, "an echo each time"
    assert judged == [b"bad", b"good"]


@pytest.mark.parametrize("seed", range(6))
def test_who_offers_two_values_gets_one_agreed_on_at_most(seed: int) -> None:
    def two(receiver: MemberId, message: Message) -> Iterable[Message]:
        if isinstance(message, m.Offer):
            mine = message if receiver in ("m1",) else m.Offer(b"good, and another")
            return [mine, m.Offer(b"good, and a third"), mine]
        return [message]

    world = BedrockWorld(4, 1, seed=seed, liars={"m0": Lying(two)})
    world.propose()
    world.go()
    world.outcome()
    assert blamed(world) == {"m0"}
    # Of each offerer the bytes of one offer are kept, whatever it sends.
    for name in ("m1", "m2", "m3"):
        assert sum(1 for record in world.records[name] if isinstance(m.RECORDS.decode(record), m.Held)) <= 5


@pytest.mark.parametrize("seed", range(10))
def test_an_offer_that_a_liar_hides_from_some_is_fetched_from_who_signed(seed: int) -> None:
    """n - t echoes are enough, so a member may have to decide on bytes that it never saw. The liar sends it others."""

    def hides(receiver: MemberId, message: Message) -> Iterable[Message]:
        match message:
            case m.Offer() if receiver == "m3":
                return []
            case m.Bytes():
                return [m.Bytes(b"good, but not what was asked for")]
            case _:
                return [message]

    world = BedrockWorld(4, 1, seed=seed, liars={"m0": Lying(hides)})
    # Nobody else proposes, so it is the liar's offer that all agree on.
    world.propose("m0")
    world.go()
    assert world.outcome() == value_of("m0")
    assert any(isinstance(message, m.Want) for message in world.sent["m3"])


def test_a_silent_liar_and_a_crash() -> None:
    world = BedrockWorld(7, 1, 1, seed=4, loss=0.2, liars={"m0": Silent()})
    world.propose()
    world.crash("m1", lose=True)
    world.go()
    world.outcome()


def test_no_echo_before_the_bytes() -> None:
    """SAFETY rule 3: a digest alone is not signed, and bytes that are not its are no help."""
    world = BedrockWorld(4, 1)
    good, other = value_of("m0"), value_of("m1")
    variant = dispersed(world, "m1")
    send = m.Dispersal(0, cb.CODEC.encode(cb.Send(digest(good))))

    def tell(message: Message) -> list[Message]:
        before = len(world.sent["m1"])
        world.inject("m0", "m1", message)
        world.deliver(len(world.flights) - 1)
        return world.sent["m1"][before:]

    assert tell(send) == []
    assert tell(m.Bytes(good)) == [], "not asked for, so not kept"
    assert tell(m.Offer(other)) == []
    assert not variant.shelf.held
    said = tell(m.Offer(good))
    assert [type(message) for message in said] == [m.Dispersal]
    records = [m.RECORDS.decode(record) for record in world.records["m1"]]
    assert [type(record) for record in records] == [m.Held, m.DispersalSaid]


def told(world: BedrockWorld, sender: MemberId, receiver: MemberId, message: Message, times: int = 1) -> list[Message]:
    """What the receiver of so many messages says to their sender then."""
    world.flights.clear()
    for _ in range(times):
        world.inject(sender, receiver, message)
        world.deliver(len(world.flights) - 1)
    said = [flight.message for flight in world.flights if flight.receiver == sender]
    world.flights.clear()
    return said


def test_asking_is_answered_in_bounds() -> None:
    """Asking is cheap and answering is not: between two looks a peer gets so much and no more."""
    world = BedrockWorld(4, 1, liars={"m0": Silent()})
    value = value_of("m1")
    world.propose("m1")
    assert told(world, "m0", "m1", m.Ask(b"")) == [], "the offer may be under way still"
    world.input("m1", Again())
    world.input("m1", Again())
    # The value once, though it is asked for fifty times, and again later, but not at once.
    assert told(world, "m0", "m1", m.Ask(b""), 50) == [m.Offer(value)]
    world.input("m1", Again())
    assert told(world, "m0", "m1", m.Ask(b""), 50) == []
    assert len(told(world, "m0", "m1", m.Want(digest(value)), 50)) == GIVEN_MAX
    # What was said in the agreement, too.
    world.propose("m2", "m3")
    world.run(lambda: bool(dispersed(world, "m1").agreement.order))
    world.input("m1", Again())
    said = told(world, "m0", "m1", m.Ask(b""), 50)
    assert any(isinstance(message, va.Part) for message in said)
    assert all(said.count(message) <= da.ANSWERS_MAX for message in said)
    world.input("m1", Again())
    assert told(world, "m0", "m1", m.Ask(b""))


def test_a_lost_echo_comes_when_the_offer_is_asked_for_again() -> None:
    world = BedrockWorld(4, 1)
    world.propose("m2")
    while world.flights:
        world.deliver(0)
        world.drop(lambda flight: isinstance(flight.message, m.Dispersal))
    # All hold the bytes, all echoes are lost; the bytes are not sent again.
    large: list[Message] = []
    world.launched.append(lambda message: large.append(message) if isinstance(message, m.Offer) else None)
    world.go()
    assert world.outcome() == value_of("m2")
    assert large == []


def test_a_restarted_member_asks_at_once_and_knows_what_it_holds() -> None:
    world = BedrockWorld(4, 1)
    world.propose("m2")
    world.run(lambda: value_of("m2") in dispersed(world, "m1").shelf.held.values())
    world.crash("m1")
    world.flights.clear()
    world.restart("m1")
    asked = [flight.message for flight in world.flights if isinstance(flight.message, m.Ask)]
    assert asked == [m.Ask(bytes([0b100]))] * 3
    # And it echoes again what it echoed.
    assert [flight.receiver for flight in world.flights if isinstance(flight.message, m.Dispersal)] == ["m2"]


def test_who_speaks_of_what_is_settled_is_told_the_outcome_once_between_looks() -> None:
    world = BedrockWorld(4, 1, absent=("m3",))
    world.propose()
    world.go()
    outcome = va.Part(va.OUTCOME, 0, dispersed(world, "m1").outcome)
    assert told(world, "m3", "m1", m.Offer(value_of("m3")), 3) == [outcome]
    world.input("m1", Again())
    assert told(world, "m3", "m1", outcome) == []
    assert told(world, "m3", "m1", va.Part(va.ORDER, 0, b"?")) == [outcome]
    assert told(world, "m3", "m1", m.Ask(b""), 2) == [outcome, outcome]


def test_a_candidate_needs_the_echoes_of_a_quorum_in_its_own_instance() -> None:
    """Without them its bytes might be nowhere, or not valid."""
    world, _ = agreed((4, 1, 0))
    setup = world.setups["m1"]
    certifiers = {
        name: cb.ConsistentBroadcast.create(world.setups[name], da.Judge(setup, ID).offer_id, "m0", 32).certifier
        for name in world.members
    }
    named = digest(b"bad")
    signed = cb.statement(da.Judge(setup, ID).offer_id, "m0", named)
    votes = {name: certifiers[name].sign(signed) for name in world.members}
    certificate = certifiers["m0"].combine(signed, votes)

    def candidate(index: int, proof: bytes) -> bytes:
        return da.CANDIDATES.encode(da.Candidate(index, cb.CODEC.encode(cb.Final(named, proof))))

    judge = da.Judge(attrs.evolve(setup), ID)
    good = candidate(0, certificate)
    assert judge.read(good) == (named, ("m0", "m1", "m2"))
    assert len(good) <= judge.candidate_max
    short = bytes([0b11]) + certificate[1:129]
    for bad in (candidate(0, short), candidate(1, certificate), candidate(9, certificate), b"", good[:-1]):
        assert not judge.accepts(bad)
    assert not da.Judge(setup, b"another").accepts(good)
    # In the machine: nobody echoes such a proposal.
    fresh = BedrockWorld(4, 1, liars={"m0": Silent()})
    forged = va.Part(va.PROPOSAL, 0, cb.CODEC.encode(cb.Send(candidate(0, short))))
    assert told(fresh, "m0", "m1", forged) == []
    assert blamed(fresh) == {"m0"}


def test_instances_share_no_names() -> None:
    setup = block_setups(4, 1)["m0"]
    one, other = da.Judge(setup, b"one"), da.Judge(setup, b"other")
    assert len({one.offer_id, other.offer_id, one.agreement_id, other.agreement_id}) == 4


@pytest.mark.parametrize("shape", SMALL)
def test_strange_messages_are_blamed_and_harmless(shape: Shape) -> None:
    world = BedrockWorld(*shape, liars={"m0": Silent()} if shape[1] else {})
    setup = world.setups["m0"]
    strange: list[Message] = [
        m.Dispersal(99, b""),
        m.Dispersal(0, b"?"),
        m.Dispersal(1, cb.CODEC.encode(cb.Send(digest(b"x")))),
        m.Offer(b"good" + bytes(VALUE_MAX)),
        va.Part(9, 9, b""),
        va.Part(va.OUTCOME, 0, b"?"),
        m.Prepare(setup.quorum.n + 1),
        m.Accept(1, digest(b""), True, b""),
        m.Chosen(5, digest(b""), b""),
        m.Bytes(b"good"),
    ]
    for message in strange:
        world.inject("m0", "m1", message)
        world.deliver(len(world.flights) - 1)
    assert {blame.member for _, blame in world.blames} == {"m0"}
    assert len(world.blames) >= 8
    variant = world.machine("m1").variant
    assert not variant.shelf.held
    assert variant.result is None
    world.propose()
    world.go()
    world.outcome()


# ------------------------------------------------------------------------------------------------- proofs


def agreed(shape: Shape, id: bytes = ID) -> tuple[BedrockWorld, Agreed]:  # noqa: A002
    world = BedrockWorld(*shape, create=lambda setup: Bedrock.create(setup, id, valid, VALUE_MAX))
    world.propose()
    world.go()
    return world, world.outputs["m0"][0]


@pytest.mark.parametrize("shape", SMALL)
def test_proofs_of_other_instances_values_and_groups_prove_nothing(shape: Shape) -> None:
    world, result = agreed(shape)
    # A new set-up each time: what was once checked is remembered.
    fresh = {name: attrs.evolve(setup) for name, setup in world.setups.items()}
    assert check_agreed(fresh["m2"], ID, result.proof) == result.value
    assert check_agreed(attrs.evolve(fresh["m2"], coins=None), ID, result.proof) == result.value
    assert check_agreed(fresh["m1"], b"another", result.proof) is None
    other = block_setups(*shape, seed=99)
    assert check_agreed(other["m0"], ID, result.proof) is None
    proof = m.PROOFS.decode(result.proof)
    forged = m.PROOFS.encode(attrs.evolve(proof, value=b"good, too"))
    assert check_agreed(fresh["m2"], ID, forged) is None
    _, elsewhere = agreed((4, 1, 0) if shape[1] == 0 else (3, 0, 1))
    assert check_agreed(fresh["m2"], ID, elsewhere.proof) is None


@pytest.mark.parametrize("shape", SMALL)
def test_no_changed_byte_of_a_proof_goes_through(shape: Shape) -> None:
    world, result = agreed(shape)
    proof, setup = result.proof, world.setups["m0"]
    for at in range(0, len(proof), 7):
        changed = proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :]
        assert check_agreed(attrs.evolve(setup), ID, changed) in (None, result.value)
        # Which signers are named can be said in one way only, so nothing but the bytes themselves proves anything.
        assert check_agreed(attrs.evolve(setup), ID, changed) is None, at
    assert check_agreed(setup, ID, b"") is None


def test_fewer_votes_than_a_quorum_prove_nothing() -> None:
    """f > 0: the decision within the proof, cut to n - t - 1 votes. (For f = 0 see test_single_decree.)"""
    world, result = agreed((4, 1, 0))
    outer = m.PROOFS.decode(result.proof)
    assert isinstance(outer, m.DispersedValue)
    agreement = PROOFS.decode(outer.agreed)
    decision = am.CODEC.decode(agreement.decision)
    assert isinstance(decision, am.Decision)

    def proof(certificate: bytes) -> bytes:
        inner = am.CODEC.encode(attrs.evolve(decision, certificate=certificate))
        return m.PROOFS.encode(attrs.evolve(outer, agreed=PROOFS.encode(attrs.evolve(agreement, decision=inner))))

    bits, votes = decision.certificate[0], decision.certificate[1:]
    last = 1 << bits.bit_length() - 1
    setup = attrs.evolve(world.setups["m0"])
    assert check_agreed(setup, ID, proof(bytes([bits]) + votes)) == result.value
    assert check_agreed(setup, ID, proof(bytes([bits - last]) + votes[:-64])) is None
    # And nobody's vote counts twice.
    assert check_agreed(setup, ID, proof(bytes([bits]) + votes[:-64] + votes[:64])) is None
    stranger = bits - last | 0b1111 & ~bits
    assert check_agreed(setup, ID, proof(bytes([stranger]) + votes)) is None


# ------------------------------------------------------------------------------------------------- large values


@pytest.mark.parametrize(("shape", "copies"), [((4, 1, 0), 12), ((7, 2, 0), 42), ((5, 0, 2), 4)])
def test_a_large_value_goes_to_each_member_once(shape: Shape, copies: int) -> None:
    """Votes, proofs under way and statuses name digests: everything but the proposals themselves is small."""
    size = 300_000

    def create(setup: Setup) -> Bedrock:
        return Bedrock.create(setup, ID, anything, size)

    world = BedrockWorld(*shape, create=create)
    large: list[Message] = []

    def look(message: Message) -> None:
        length = len(CODEC.encode(message))
        if length > size:
            assert isinstance(message, m.Offer | m.Accept | m.Bytes)
            large.append(message)
        else:
            assert length < 4096, message

    world.launched.append(look)
    for index, name in enumerate(world.members if shape[1] else ("m0",)):
        world.input(name, Propose(bytes([index]) * size))
    world.go()
    assert len(large) <= copies + (1 if shape[1] == 0 else 0)
    for name in world.members:
        assert sum(map(len, world.machine(name).standing())) < size + 4096


# ------------------------------------------------------------------------------------------------- set-ups


def test_groups_that_are_too_small_or_have_no_coins_are_refused() -> None:
    """SAFETY rule 26."""
    hybrid = block_setups(6, 1, 1)["m0"]
    with pytest.raises(ValueError, match=r"f = 1 liars and c = 1 crashes needs 7 members; there are 6"):
        Bedrock.create(hybrid, ID, valid, VALUE_MAX)
    good = block_setups(4, 1)["m0"]
    with pytest.raises(ValueError, match="coin keys"):
        Bedrock.create(attrs.evolve(good, coins=None), ID, valid, VALUE_MAX)
    with pytest.raises(ValueError, match="threshold is 2, must be n - f - c = 3"):
        Bedrock.create(block_setups(4, 1, coin_threshold=2)["m0"], ID, valid, VALUE_MAX)
    with pytest.raises(ValueError, match="too long"):
        Bedrock.create(good, bytes(65), valid, VALUE_MAX)
    with pytest.raises(ValueError, match="too long"):
        Bedrock.create(good, ID, valid, (15 << 20) + 1)
    # Where nobody lies, no coins are needed.
    assert Bedrock.create(attrs.evolve(block_setups(3, 0, 1)["m0"], coins=None), ID, valid, VALUE_MAX).result is None


@pytest.mark.parametrize("shape", SMALL)
def test_proposals_that_are_not_valid_are_a_callers_mistake(shape: Shape) -> None:
    world = BedrockWorld(*shape)
    with pytest.raises(ValueError, match="not valid"):
        world.input("m0", Propose(b"bad"))
    with pytest.raises(ValueError, match="longer than"):
        world.input("m0", Propose(b"good" + bytes(VALUE_MAX)))
    # The second one is passed over.
    world.input("m0", Propose(b"good 1"))
    world.input("m0", Propose(b"good 2"))
    world.go()
    assert world.outcome() == b"good 1"


def test_the_longest_value_fits_wherever_it_stands() -> None:
    value = bytes(m.VALUE_BYTES_MAX)
    certificate = bytes(1024 * 64 + 128)
    for encoded in (
        CODEC.encode(m.Accept(1, digest(b""), True, value)),
        CODEC.encode(m.Offer(value)),
        m.RECORDS.encode(m.Held(value)),
        m.PROOFS.encode(m.ChosenValue(1, certificate, value)),
    ):
        assert len(encoded) < FRAME_BYTES_MAX - (1 << 18)


@pytest.mark.parametrize("shape", SMALL)
def test_a_strange_record_is_not_passed_over(shape: Shape) -> None:
    machine = Bedrock.create(block_setups(*shape)["m0"], ID, valid, VALUE_MAX)
    with pytest.raises(WireError):
        machine.on_restore([b"?"], Out())


@pytest.mark.parametrize("shape", SMALL)
def test_forks_go_their_own_way(shape: Shape) -> None:
    world = BedrockWorld(*shape, seed=2, loss=0.2)
    world.propose()
    prints: list[bytes] = []
    while not world.outputs["m1"]:
        copy = world.machine("m1").fork()
        before = copy.fingerprint()
        assert before == world.machine("m1").fingerprint()
        world.move()
        assert copy.fingerprint() == before
        prints.append(before)
    assert any(first != second for first, second in pairwise(prints))
