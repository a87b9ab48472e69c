"""The sharper liars: those that wait for a view change, vote with everybody, forge requests, frame and claim.

Each in a whole group with clients in which leaders come and go: the lie is told, the defence reacts, safety and
progress hold. And each is as sharp as it can be: where its defence is taken away, it does the harm that the defence
prevents.
"""

from __future__ import annotations

import pytest

from bftkit.channel.batches import judge_batch, read_bad_batch
from bftkit.channel.bundles import Bundle, make_batch
from bftkit.core.digest import digest
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.core.wire import WireError
from bftkit.sim.adversaries import Honest, load_adversary
from bftkit.sim.checkers import Violation
from bftkit.sim.faults import Crash, Lie
from bftkit.sim.plan import Load, Plan
from bftkit.sim.running import run
from bftkit.sim.world import World
from bftkit_pbft import machine, view_change
from bftkit_pbft.evidence import signed_for
from bftkit_pbft.view_change import Opening


def lying(seed: int, liar: str, name: str, interval: int = 4, **options: bool | int | str) -> tuple[World, Honest]:
    """A group that served its clients under three leaders, with a liar among its members.

    A checkpoint every `interval` slots: where they are rare, a view change has certificates to show.
    """
    world = World(seed, interval=interval, window=2 * interval)
    adversary = world.lie(liar, load_adversary(name, **options))
    for _ in range(3):
        world.load(40, keys=3, pipeline=4)
        world.run(100)
        leader = world.replica("m3").machine.leader
        if leader is not None:
            world.crash(leader)
        world.run(2500)
        if leader is not None:
            world.restart(leader)
    world.finish()
    return world, adversary


def machine_of(world: World, member: str) -> machine.PbftMachine:
    found = world.replica(member).machine
    assert isinstance(found, machine.PbftMachine)
    return found


def blames(world: World, liar: str) -> list[str]:
    """What correct members say that the liar did."""
    return [fault for _, whom, fault, _ in world.blames if whom == liar]


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("forgetful-change", 24, ""),
        ("bad-new-leader", 24, ""),
        ("far-views", 29, ""),
        ("repeated-votes", 23, "votes of one member twice"),
        ("bad-votes", 22, "a prepare that it did not sign"),
        ("bad-votes", 25, "a checkpoint vote with a bad signature"),
        ("echo", 20, "equivocation"),
        ("forge-requests", 30, "a batch with a request that is not authentic"),
        ("framer", 22, "an accusation without a proof"),
        ("false-claims", 22, ""),
        ("high-stable", 25, ""),
    ],
)
@pytest.mark.parametrize("liar", ["m1", "m2"])
def test_the_lie_is_told_and_does_no_harm(name: str, line: int, fault: str, liar: str) -> None:
    world, adversary = lying(int(liar[1:]), liar, name, 16 if line in (23, 24) else 4)
    assert adversary.told[line] > 0
    assert world.injected[line] > 0
    assert any(fault in said for said in blames(world, liar)) or not fault
    assert {whom for _, whom, _, _ in world.blames} <= {liar}
    for member in world.correct:
        assert machine_of(world, member).view < 100, "nobody goes after one liar"
        assert machine_of(world, member).low < 10_000, "nobody believes one liar"


def test_a_forged_request_convicts_its_leader_to_anybody() -> None:
    """FAULTS 30: whoever refused the batch shows the leader's signature and the bytes that it is under."""
    world, _ = lying(1, "m1", "forge-requests")
    judge = world.replica("m0").settings
    setup = Setup(judge.me, judge.members, judge.quorum, judge.keyring)
    proofs = [proof for _, whom, fault, proof in world.blames if whom == "m1" and "not authentic" in fault]
    shown = [found for found in map(read_bad_batch, proofs) if found is not None]
    assert shown
    for one in shown:
        assert signed_for(setup, "m1", one.proof) == digest(one.batch)
        with pytest.raises(WireError):
            judge_batch(one.batch, judge)


@pytest.mark.parametrize("way", ["other", "unsigned", "nothing", "gaps"])
def test_a_new_view_that_is_none_convicts_its_leader(way: str) -> None:
    """FAULTS 24."""
    world, adversary = lying(1, "m1", "bad-new-leader", 16, way=way)
    assert adversary.told[24] > 0
    assert any(fault.startswith("new view: ") for fault in blames(world, "m1"))


@pytest.mark.parametrize("way", ["all", "newest", "older"])
def test_certificates_are_forgotten_in_every_way(way: str) -> None:
    """FAULTS 24: nobody can tell, and nothing is lost."""
    world, adversary = lying(2, "m1", "forgetful-change", 16, way=way)
    assert adversary.told[24] > 0
    assert blames(world, "m1") == []


def test_lists_and_batches_may_be_wrong_besides_chunks() -> None:
    """FAULTS 26."""
    bad = 0
    for seed, liar in enumerate(("m0", "m1", "m2")):
        world = World(seed, interval=4, window=8)
        adversary = world.lie(liar, load_adversary("bad-chunks", lists=True))
        world.crash("m3")
        world.load(120, keys=3, pipeline=1)
        world.run(4000)
        world.restart("m3")
        world.finish()
        bad += adversary.status()["adversary"]["bad_lists"]
        assert not adversary.told[26] or any("not the certified one" in fault for fault in blames(world, liar))
    assert bad > 0


def test_a_read_may_be_answered_with_what_was_true_before() -> None:
    """FAULTS 33."""
    _, adversary = lying(3, "m2", "stale-reads", previous=True)
    assert adversary.told[33] > 0


# ------------------------------------------------------------------------------------------------ how sharp they are


def yes(*_: object) -> bool:
    return True


def harm(kind: str) -> str:
    """What the first run violates in which such a liar follows a leader that crashed; nothing if none of a few does."""
    for seed in range(8):
        faults = (Lie(at=0, who="m1", kind=kind), Crash(at=100, who="m0", ticks=2500))
        result = run(
            Plan(seed=seed, load=Load(operations=200, clients=3), parameters={"view_timeout": 200}, faults=faults)
        )
        if not result.ok:
            return result.oracle
    return ""


def test_without_counting_members_one_voice_is_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 1, FAULTS 23: what it invented stands in the next view, in slots that are long decided."""

    def anything_goes(_setup: object, _members: object) -> None:
        pass

    monkeypatch.setattr(view_change, "_check_members", anything_goes)
    world = World(1, interval=16, window=32)
    world.lie("m1", load_adversary("repeated-votes+echo"))
    world.load(40, keys=3, pipeline=4)
    world.run(60)
    world.crash("m0")
    world.run(1200)
    world.restart("m0")
    world.run(1500)
    invented = digest(make_batch(1, ()))
    openings: list[Opening] = [machine_of(world, member).opening for member in world.correct]
    assert any(choice.digest == invented for opening in openings for choice in opening.choices)


def test_without_a_look_at_the_bytes_a_leader_invents_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 4, FAULTS 30."""
    monkeypatch.setattr(Bundle, "authentic", yes)
    assert harm("forge-requests")


def test_without_a_proof_whoever_is_accused_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 6."""
    monkeypatch.setattr(machine, "valid_equivocation", yes)
    with pytest.raises(Violation, match="blame"):
        lying(1, "m2", "framer")


def test_with_one_claim_a_laggard_learns_what_was_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 17."""
    monkeypatch.setattr(Quorum, "weak", 1)
    assert harm("false-claims")
