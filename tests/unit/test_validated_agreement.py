"""Validated agreement, machine by machine: proofs, limits, restarts, and what is done about single lies."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.blocks.validated_agreement import WAITING_MAX
from bftkit.blocks.validated_messages import PROOFS, Held, Said
from bftkit.core.machine import MemberId, Out
from bftkit.core.ordering import Setup
from bftkit.sim.block_world import BlockWorld, Silent, block_setups

ID = b"round 1"
VALUE_MAX = 64
World = BlockWorld[va.Input, va.Part, va.Agreed]


def valid(value: bytes) -> bool:
    return value.startswith(b"good")


def anything(value: bytes) -> bool:
    return True


def machine(setup: Setup, judge: Callable[[bytes], bool] = valid) -> va.ValidatedAgreement:
    return va.ValidatedAgreement.create(setup, ID, judge, VALUE_MAX)


def world(n: int = 4, f: int = 1, *, seed: int = 1, propose: bool = True, **options: object) -> World:
    setups = block_setups(n, f, seed=seed)

    def create(name: MemberId) -> va.ValidatedAgreement:
        return machine(setups[name])

    made = World({name: create(name) for name in setups}, seed=seed, create=create, codec=va.CODEC, **options)  # type: ignore[arg-type]
    if propose:
        for name in made.members:
            made.input(name, va.Propose(b"good " + name.encode()))
    return made


def inside(made: World, name: MemberId) -> va.ValidatedAgreement:
    found = made.machines[name]
    assert isinstance(found, va.ValidatedAgreement)
    return found


def agreed(seed: int = 1) -> va.Agreed:
    made = world(seed=seed)
    made.run()
    return made.outputs["m0"][0]


def faults(made: World, liar: MemberId) -> set[str]:
    assert {blame.member for _, blame in made.blames} <= {liar}
    return {blame.fault for _, blame in made.blames}


# ------------------------------------------------------------------------------------------------- the way through


@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (4, 1), (7, 2)])
def test_all_agree_once_on_a_proposal(n: int, f: int) -> None:
    made = world(n, f)
    made.run()
    results = [made.outputs[name] for name in made.members]
    assert all(len(result) == 1 for result in results)
    assert {result[0].value for result in results} <= {b"good " + name.encode() for name in made.members}
    assert len({result[0].value for result in results}) == 1
    assert made.blames == []
    assert {inside(made, name).phase for name in made.members} == {"agreed"}


def test_members_that_propose_nothing_take_part() -> None:
    made = world(propose=False)
    for name in ("m0", "m1", "m2"):
        made.input(name, va.Propose(b"good " + name.encode()))
    made.run()
    assert all(made.outputs[name] for name in made.members)
    # m3 echoed, committed, tossed and voted like the others.
    assert {part.kind for part in made.sent["m3"]} >= {va.PROPOSAL, va.COMMITMENT, va.ORDER}


def test_the_phases_are_those_of_the_table() -> None:
    made = world()
    seen = {"gathering"}
    moves = {(row.source, row.target) for row in va.PHASES}
    before = dict.fromkeys(made.members, "gathering")
    while made.step():
        for name in made.members:
            phase = inside(made, name).phase
            assert phase == before[name] or (before[name], phase) in moves
            before[name] = phase
            seen.add(phase)
            # "Whose share is released only after n - t commitments were delivered."
            if inside(made, name).released:
                assert phase == "agreed" or len(inside(made, name).vectors) >= 3
    assert seen == {"gathering", "committed", "tossing", "attempting", "agreed"}


def test_an_invalid_proposal_of_ones_own_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="not valid"):
        world(propose=False).input("m0", va.Propose(b"bad"))
    with pytest.raises(ValueError, match="not valid"):
        world(propose=False).input("m0", va.Propose(b"good" * VALUE_MAX))


def test_the_first_proposal_counts() -> None:
    made = world(1, 0)
    made.input("m0", va.Propose(b"good, but later"))
    assert made.outputs["m0"][0].value == b"good m0"


def test_a_long_id_is_refused() -> None:
    setup = block_setups(1, 0)["m0"]
    va.ValidatedAgreement.create(setup, bytes(va.ID_BYTES_MAX), valid, VALUE_MAX)
    with pytest.raises(ValueError, match="longer than"):
        va.ValidatedAgreement.create(setup, bytes(va.ID_BYTES_MAX + 1), valid, VALUE_MAX)


def test_no_two_parts_share_a_name() -> None:
    names = {
        va.part_id(name, kind, *numbers)
        for name in (b"", b"a", b"a\0\4", b"a\0\4\0\1")
        for kind in (va.PROPOSAL, va.COMMITMENT, va.ORDER, va.AGREEMENT)
        for numbers in ((), (1,), (1, 0), (0, 1))
    }
    assert len(names) == 4 * 4 * 4


def test_a_copy_goes_its_own_way() -> None:
    made = world()
    made.run(lambda: inside(made, "m0").phase == "attempting")
    original = inside(made, "m0")
    copied = original.fork()
    assert copied.fingerprint() == original.fingerprint()
    copied.on_input(va.Learn(agreed().proof), Out())
    assert copied.phase == "agreed"
    assert original.phase == "attempting"
    assert copied.fingerprint() != original.fingerprint()


# ------------------------------------------------------------------------------------------------- proofs


def test_the_proof_convinces_everybody_of_the_value() -> None:
    result = agreed()
    for setup in block_setups(4, 1, seed=1).values():
        assert va.check_agreed(setup, ID, valid, VALUE_MAX, result.proof) == result.value


def test_the_proof_convinces_of_nothing_else() -> None:
    result, setup = agreed(), block_setups(4, 1, seed=1)["m0"]
    said = PROOFS.decode(result.proof)
    assert va.check_agreed(setup, b"round 2", valid, VALUE_MAX, result.proof) is None
    assert va.check_agreed(setup, ID, lambda value: False, VALUE_MAX, result.proof) is None
    assert va.check_agreed(block_setups(4, 1, seed=2)["m0"], ID, valid, VALUE_MAX, result.proof) is None
    for changed in (
        attrs.evolve(said, attempt=said.attempt + 1),
        attrs.evolve(said, attempt=0),
        attrs.evolve(said, attempt=60_000),
        attrs.evolve(said, candidate=(said.candidate + 1) % 4),
        attrs.evolve(said, candidate=60_000),
        attrs.evolve(said, decision=said.decision[:-1] + bytes([said.decision[-1] ^ 1])),
        attrs.evolve(said, decision=b""),
    ):
        assert va.check_agreed(setup, ID, valid, VALUE_MAX, PROOFS.encode(changed)) is None
    assert va.check_agreed(setup, ID, valid, VALUE_MAX, b"") is None
    # And the good proof still is one, whatever was asked before.
    assert va.check_agreed(setup, ID, valid, VALUE_MAX, result.proof) == result.value


def test_a_decision_about_one_candidate_proves_nothing_of_another() -> None:
    """Else the evidence could be exchanged for another member's proposal, and there were two proofs for two values."""
    made = world()
    made.run(lambda: len(inside(made, "m0").held) == 3)
    held = dict(inside(made, "m0").held)
    made.run()
    said = PROOFS.decode(made.outputs["m0"][0].proof)
    decision = am.CODEC.decode(said.decision)
    assert isinstance(decision, am.Decision)
    assert decision.evidence
    others = [index for index in held if index != said.candidate]
    assert others
    for other in others:
        exchanged = am.CODEC.encode(attrs.evolve(decision, evidence=held[other]))
        for candidate in (said.candidate, other):
            forged = PROOFS.encode(attrs.evolve(said, candidate=candidate, decision=exchanged))
            assert va.check_agreed(inside(made, "m0").setup, ID, valid, VALUE_MAX, forged) is None


def test_a_proof_from_elsewhere_ends_it_and_is_handed_on() -> None:
    """The others may be waiting for what this member will not say any more."""
    result = agreed()
    made = world(propose=False)
    made.input("m2", va.Learn(result.proof))
    assert made.outputs["m2"] == [result]
    made.input("m2", va.Learn(result.proof))
    made.run()
    assert made.outputs == {name: [result] for name in made.members}
    assert inside(made, "m2").said() == (va.Part(va.OUTCOME, 0, result.proof),)


def test_a_bad_proof_is_blamed_if_a_peer_sends_it() -> None:
    made = world(propose=False)
    made.input("m0", va.Learn(b"nothing"))
    assert made.blames == []
    made.inject("m3", "m0", va.Part(va.OUTCOME, 0, b"nothing"))
    made.run()
    assert faults(made, "m3") == {"sent an outcome with a bad proof"}
    assert made.outputs["m0"] == []


# ------------------------------------------------------------------------------------------------- single lies


@pytest.mark.parametrize(
    "part",
    [
        va.Part(va.PROPOSAL, 4, b""),
        va.Part(va.COMMITMENT, 9, b""),
        va.Part(va.ORDER, 1, b""),
        va.Part(va.AGREEMENT, 0, b""),
        va.Part(va.AGREEMENT, 5, b""),
        va.Part(va.STATEMENT, 0, b""),
        va.Part(va.STATEMENT, 5, b""),
        va.Part(va.OUTCOME, 1, b""),
        va.Part(0, 0, b""),
        va.Part(7, 0, b""),
    ],
)
def test_what_does_not_exist_is_blamed(part: va.Part) -> None:
    made = world(propose=False)
    made.inject("m3", "m0", part)
    made.run()
    assert faults(made, "m3") == {f"sent a part ({part.kind}, {part.index}), which does not exist"}


@pytest.mark.parametrize("kind", [va.PROPOSAL, va.COMMITMENT, va.ORDER, va.AGREEMENT])
def test_what_cannot_be_read_is_blamed(kind: int) -> None:
    made = world(propose=False)
    made.inject("m3", "m0", va.Part(kind, 0 if kind == va.ORDER else 1, b"\xc1"))
    made.run()
    (fault,) = faults(made, "m3")
    assert fault.startswith("sent a part that cannot be read")


def test_an_invalid_proposal_is_not_echoed() -> None:
    made = world(propose=False)
    made.inject("m3", "m0", va.Part(va.PROPOSAL, 3, cb.CODEC.encode(cb.Send(b"bad"))))
    made.run()
    assert faults(made, "m3") == {"proposed a value that is not valid"}
    assert made.sent["m0"] == []


@pytest.mark.parametrize("vector", [b"\x00", b"\x03", b"\x1f", b"\xff", b"", b"\x07\x00"])
def test_a_commitment_to_too_few_or_to_nobody_is_not_echoed(vector: bytes) -> None:
    """n - t = 3 of the members 0 to 3."""
    made = world(propose=False)
    made.inject("m3", "m0", va.Part(va.COMMITMENT, 3, cb.CODEC.encode(cb.Send(vector))))
    made.run()
    assert len(faults(made, "m3")) == 1
    assert made.sent["m0"] == []


# ------------------------------------------------------------------------------------------------- bounded


def test_what_waits_of_one_sender_is_bounded() -> None:
    """Votes about candidates that nobody knows yet, and statements: a few of each, whatever a liar sends."""
    made = world(propose=False)
    for number in range(300):
        for attempt in range(1, 5):
            vote = am.PreVote(1 + number, False, False, b"", bytes(64), b"")
            made.inject("m3", "m0", va.Part(va.AGREEMENT, attempt, am.CODEC.encode(vote)))
            made.inject("m3", "m0", va.Part(va.STATEMENT, attempt, bytes([number % 256])))
            final = cb.CODEC.encode(cb.Final(bytes([number % 256]), b""))
            made.inject("m3", "m0", va.Part(va.PROPOSAL, attempt - 1, final))
            made.inject("m3", "m0", va.Part(va.COMMITMENT, attempt - 1, final))
    made.run()
    found = inside(made, "m0")
    assert {attempt: {name: len(kept) for name, kept in by.items()} for attempt, by in found.waiting.items()} == {
        attempt: {"m3": WAITING_MAX} for attempt in range(1, 5)
    }
    assert all(len(said) == 1 for said in found.statements.values())
    assert found.agreements == {}


def test_finals_that_are_not_needed_wait_unchecked_one_of_each_sender() -> None:
    made = world()
    made.run(lambda: inside(made, "m0").phase == "attempting")
    found = inside(made, "m0")
    waiting = {key for key in found.surplus if "m3" in found.surplus[key]}
    for number in range(100):
        final = cb.CODEC.encode(cb.Final(bytes([number]), b""))
        for index in range(4):
            found.on_message("m3", va.Part(va.COMMITMENT, index, final), Out())
    assert {key for key in found.surplus if "m3" in found.surplus[key]} == waiting | {
        (va.COMMITMENT, i) for i in range(1, 4)
    }
    assert all(len(finals) <= 3 for finals in found.surplus.values())
    made.run()
    assert len({made.outputs[name][0].value for name in made.members}) == 1


def test_what_a_vote_shows_is_kept_though_the_vote_is_not() -> None:
    """A vote with evidence is its sender's "yes", and stays when its later votes push it out of the waiting ones."""
    made = world(propose=False)
    for number in range(1 + WAITING_MAX):
        vote = am.PreVote(1 + number, number == 0, False, b"", bytes(64), b"" if number else b"evidence")
        made.inject("m3", "m0", va.Part(va.AGREEMENT, 1, am.CODEC.encode(vote)))
        made.run()
    assert all(not isinstance(vote, am.PreVote) or vote.round > 1 for vote in inside(made, "m0").waiting[1]["m3"])
    assert inside(made, "m0").statements[1] == {3: b"evidence"}


def test_no_statement_is_longer_than_a_proof_can_be() -> None:
    made = world(propose=False)
    longest = inside(made, "m0").judge.proof_bytes_max
    made.inject("m3", "m0", va.Part(va.STATEMENT, 1, bytes(longest)))
    made.inject("m3", "m0", va.Part(va.STATEMENT, 2, bytes(longest + 1)))
    made.run()
    assert faults(made, "m3") == {f"sent a proof of {longest + 1} bytes, more than {longest}"}
    assert list(inside(made, "m0").statements[2]) == []


def test_what_waits_unchecked_is_not_longer_than_a_correct_members_words() -> None:
    """Of each sender a few messages wait for each attempt, in each of many rounds: a liar makes none of a megabyte."""
    made = world(propose=False)
    found = inside(made, "m0")
    evidence = bytes(am.EVIDENCE_BYTES_MAX)
    vote = am.CODEC.encode(am.PreVote(1, True, False, b"", bytes(64), evidence))
    final = cb.CODEC.encode(cb.Final(bytes(cb.VALUE_BYTES_MAX), b""))
    for attempt in range(1, 5):
        made.inject("m3", "m0", va.Part(va.AGREEMENT, attempt, vote))
        made.inject("m3", "m0", va.Part(va.PROPOSAL, attempt - 1, final))
        made.inject("m3", "m0", va.Part(va.COMMITMENT, attempt - 1, final))
    made.run()
    assert not found.waiting
    assert not found.surplus
    bound = found.judge.part_bytes_max
    assert faults(made, "m3") == {f"sent a part of {len(body)} bytes, more than {bound}" for body in (vote, final)}


@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 2), (13, 4)])
def test_no_correct_member_says_anything_longer_than_the_bound(n: int, f: int) -> None:
    for seed in range(3):
        made = world(n, f, seed=seed, propose=False, liars={"m1": Silent()})
        for name in made.members:
            made.input(name, va.Propose((b"good" + name.encode()).ljust(VALUE_MAX)))
        bound = inside(made, "m0").judge.part_bytes_max
        made.run()
        longest = max(len(part.body) for name in made.members for part in made.sent[name])
        assert bound // 4 < longest <= bound
        assert made.blames == []


def test_the_longest_proposal_has_a_proof_within_the_bound() -> None:
    made = world(propose=False)
    for name in made.members:
        made.input(name, va.Propose((b"good" + name.encode()).ljust(VALUE_MAX)))
    made.run(lambda: len(inside(made, "m0").held) == 3)
    found = inside(made, "m0")
    assert max(len(proof) for proof in found.held.values()) <= found.judge.proof_bytes_max


# ------------------------------------------------------------------------------------------------- restarts


def restarted(made: World, name: MemberId) -> va.ValidatedAgreement:
    made.crash(name, lose=True)
    made.restart(name)
    return inside(made, name)


def test_what_a_commitment_claims_is_there_after_a_restart() -> None:
    """Else the member could say neither "yes", having no proof, nor "no", having committed."""
    made = world()
    made.run(lambda: inside(made, "m0").phase != "gathering")
    before = inside(made, "m0")
    vector = before.commitments[0].value
    assert vector is not None
    claimed = [index for index in range(4) if vector[0] >> index & 1]
    assert len(claimed) >= 3
    after = restarted(made, "m0")
    assert after.commitments[0].value == vector
    assert {index: after.held.get(index) for index in claimed} == {index: before.held[index] for index in claimed}
    # And it was durable before the commitment left.
    kinds = [type(va.RECORDS.decode(record)) for record in made.records["m0"]]
    commitment = next(
        at
        for at, record in enumerate(made.records["m0"])
        if isinstance(said := va.RECORDS.decode(record), Said) and (said.kind, said.index) == (va.COMMITMENT, 0)
    )
    assert kinds[:commitment].count(Held) == len(claimed)


@pytest.mark.parametrize("withheld", [None, 0, 1, 2, 3])
def test_a_restarted_member_says_the_same(withheld: int | None) -> None:
    """In each state of a run: what it would say to a peer, its strongest vote, and nothing in contradiction.

    Where a proposal is withheld and its turn comes, members deny that they hold it.
    """

    def choose(running: World) -> int:
        free = [
            i for i, x in enumerate(running.flights) if (x.message.kind, x.message.index) != (va.PROPOSAL, withheld)
        ]
        return running.random.choice(free or range(len(running.flights)))

    made = world(seed=3, choose=choose)
    statements = 0
    while made.step():
        for name in made.members:
            now = inside(made, name)
            if now.result is not None:
                continue
            out = Out[va.Part, va.Agreed]()
            again = va.ValidatedAgreement.create(now.setup, ID, valid, VALUE_MAX)
            again.on_restore(made.records[name], out)
            assert again.strongest() == now.strongest()
            assert [part for part in again.said() if part.kind == va.AGREEMENT] == [
                part for part in now.said() if part.kind == va.AGREEMENT
            ]
            for kind in (va.ORDER, va.STATEMENT):
                said = [part for part in now.said() if part.kind == kind]
                assert [part for part in again.said() if part.kind == kind] == said
                statements += kind == va.STATEMENT and len(said)
    assert statements


def test_a_restarted_member_gets_its_own_finals_again_for_those_that_lack_them() -> None:
    """It has released its share and needs none any more; but nobody else says a member's own broadcast again."""
    made = world()
    before = inside(made, "m0")
    made.run(lambda: before.released and before.commitments[0].final is not None)
    own = {va.PROPOSAL: before.proposals[0].final, va.COMMITMENT: before.commitments[0].final}
    after = restarted(made, "m0")
    assert after.released
    for kind, final in own.items():
        assert final is not None
        part = va.Part(kind, 0, cb.CODEC.encode(final))
        assert part not in after.said()
        after.on_message("m1", part, Out())
        assert part in after.said()


def test_a_member_that_was_done_is_done_after_a_restart() -> None:
    made = world()
    made.run()
    (result,) = made.outputs["m1"]
    strongest = inside(made, "m1").strongest()
    after = restarted(made, "m1")
    assert made.outputs["m1"] == [result, result]
    assert after.strongest() == strongest
    assert not made.flights


def rejection(made: World, name: MemberId) -> int | None:
    """Where in a member's records an attempt's agreement decided 0."""
    for at, record in enumerate(made.records[name]):
        said = va.RECORDS.decode(record)
        if isinstance(said, Said) and said.kind == va.AGREEMENT:
            message = am.CODEC.decode(said.record)
            if isinstance(message, am.Decision) and not message.value:
                return at
    return None


def test_the_next_candidates_turn_comes_though_the_power_was_cut_right_after_a_rejection() -> None:
    """All that is on the disk of the last attempt is its decision, and nothing of the next: no vote and no "no"."""
    cuts = 0
    for seed in range(30):
        made = world(seed=seed, liars={"m3": Silent()})
        while rejection(made, "m0") is None and made.step():
            pass
        at = rejection(made, "m0")
        if at is None:
            continue
        cuts += 1
        del made.records["m0"][at + 1 :]
        for name in made.members:
            made.crash(name, lose=True)
        for name in made.members:
            made.restart(name)
        assert inside(made, "m0").attempt > 1
        for _ in range(8):
            made.repeat()
            made.run()
        assert all(made.outputs[name] for name in made.honest), f"seed {seed}"
    assert cuts


def test_a_second_proposal_after_a_restart_is_passed_over() -> None:
    made = world()
    made.run(lambda: made.steps == 3)
    restarted(made, "m0")
    made.input("m0", va.Propose(b"good, but another"))
    made.run()
    made.repeat()
    made.run()
    assert made.blames == []
    assert len({made.outputs[name][0].value for name in made.members}) == 1


def test_a_peer_that_lost_everything_comes_to_the_outcome() -> None:
    made = world()
    made.crash("m3")
    made.run()
    made.restart("m3", machine(block_setups(4, 1, seed=1)["m3"]))
    assert made.outputs["m3"] == []
    made.repeat()
    made.run()
    assert [result.value for result in made.outputs["m3"]] == [made.outputs["m0"][0].value]
