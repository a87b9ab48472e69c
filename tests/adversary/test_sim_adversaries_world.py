"""Each adversary in a whole group with clients: the lie is told, the defence reacts, safety and progress hold."""

from __future__ import annotations

import pytest

from bftkit.channel.checkpoints import VOTES_PER_MEMBER
from bftkit.core.quorum import Quorum
from bftkit.sim.adversaries import Collude, ForgedCertificates, Honest, OmitPrepared, ReadsBlocker, load_adversary
from bftkit.sim.checkers import Violation
from bftkit.sim.world import World

SEEDS = range(2)


def told(world: World, adversary: Honest, line: int) -> None:
    """The lie left, and the world counted it."""
    assert adversary.told[line] > 0
    assert world.injected[line] > 0


def blamed(world: World, liar: str, text: str, *, proof: bool = False) -> bool:
    """Whether a correct member blamed the liar for something like this."""
    return any(whom == liar and text in fault and (evidence or not proof) for _, whom, fault, evidence in world.blames)


def views(world: World) -> set[int]:
    return {world.replica(member).machine.view for member in world.correct}


def lying(seed: int, liar: str, name: str, operations: int = 40, **options: bool | int | str) -> tuple[World, Honest]:
    """A group that served its clients with a liar among its members."""
    world = World(seed, interval=4, window=8)
    adversary = world.lie(liar, load_adversary(name, **options))
    world.load(operations, keys=3)
    world.run(1000)
    return world, adversary


@pytest.mark.parametrize("seed", SEEDS)
def test_equivocate(seed: int) -> None:
    """FAULTS 20."""
    world, adversary = lying(seed, "m0", "equivocate")
    world.finish()
    told(world, adversary, 20)
    assert blamed(world, "m0", "equivocation", proof=True)
    assert min(views(world)) > 0


def collude(seed: int, world: World | None = None) -> tuple[World, list[Collude]]:
    world = world or World(seed, members=7)
    liars: list[Collude] = []
    for member in ("m0", "m1"):
        adversary = world.lie(member, load_adversary("collude", fellows="m0,m1"))
        assert isinstance(adversary, Collude)
        liars.append(adversary)
    for left in ("m2", "m3", "m4"):
        for right in ("m5", "m6"):
            world.cut(left, right)  # or else they would convict the leader before they decide
            world.cut(right, left)
    world.load(30, keys=3)
    world.run(1500)
    world.finish()
    return world, liars


@pytest.mark.parametrize("seed", SEEDS)
def test_colluding_members_cannot_divide_a_group(seed: int) -> None:
    """FAULTS 20, SAFETY rule 1: the liars vote on both sides, and one side has no quorum."""
    world, liars = collude(seed)
    told(world, liars[0], 20)
    assert liars[1].double_votes > 0
    assert world.replica("m2").applied > 0


def test_colluding_members_divide_a_group_whose_quorum_is_one_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do is enough, but for the arithmetic: the adversary is as strong as it can be."""
    found: list[str] = []
    for seed in range(4):
        world = World(seed, members=7)
        monkeypatch.setattr(Quorum, "certificate", 4)
        try:
            collude(seed, world)
        except Violation as violation:
            found.append(str(violation))
        monkeypatch.undo()
    assert any(text.startswith("agreement") for text in found), found


@pytest.mark.parametrize("kinds", ["", "Commit,CheckpointVote", "PrePrepare,NewView"])
def test_silence_about_some_things_towards_some_members(kinds: str) -> None:
    """FAULTS 21."""
    world, adversary = lying(2, "m0", "half-silent", kinds=kinds)
    world.finish()
    told(world, adversary, 21)


def test_silence_towards_clients() -> None:
    world, adversary = lying(3, "m1", "silent", to="m2", kinds="Reply,ReadAnswer", clients=True)
    world.finish()
    told(world, adversary, 21)


@pytest.mark.parametrize("ticks", [380, 900])
def test_slow_leader(ticks: int) -> None:
    """FAULTS 31: never slower than the timeout of 1000 ticks, and replaced all the same."""
    world, adversary = lying(4, "m0", "slow-leader", operations=200, ticks=ticks)
    world.run_until(lambda: min(views(world)) > 0, 30_000, "a new leader")
    world.finish()
    told(world, adversary, 31)


@pytest.mark.parametrize("seed", SEEDS)
def test_unfair_leader(seed: int) -> None:
    """FAULTS 31: the other clients keep it busy, and still it is replaced."""
    world = World(seed, interval=4, window=8)
    victim = world.actors["c0"]
    adversary = world.lie("m0", load_adversary("unfair-leader", client=victim.public.hex()))
    victim.put(b"k0")
    for _ in range(60):
        for name in ("c1", "c2"):
            world.actors[name].put(b"k1")
        world.run(100)
        if victim.outstanding == 0:
            break
    assert victim.outstanding == 0
    assert min(views(world)) > 0
    told(world, adversary, 31)
    world.finish()


@pytest.mark.parametrize("liar", ["m0", "m2"])
def test_wrong_digests(liar: str) -> None:
    """FAULTS 22."""
    world, adversary = lying(5, liar, "wrong-digests")
    world.finish()
    told(world, adversary, 22)
    told(world, adversary, 33)
    if liar == "m2":
        assert blamed(world, liar, "a header that the leader did not sign")


@pytest.mark.parametrize("seed", SEEDS)
def test_forged_certificates(seed: int) -> None:
    """FAULTS 23: every forgery convicts the one that signed it, and moves nobody."""
    world, adversary = lying(seed, "m1", "forged-certificates", operations=120, every=6)
    assert isinstance(adversary, ForgedCertificates)
    told(world, adversary, 23)
    for fault in (
        "is not signed by it",
        "out of order",
        "votes of one member twice",
        "it takes 3",
    ):
        assert blamed(world, "m1", fault, proof=True), fault
    assert views(world) == {0}
    for _ in range(3):  # and now its turn comes to lead
        world.load(30, keys=3)
        world.run(40)
        world.crash("m0")
        world.run(2500)
        world.restart("m0")
        world.run(300)
    assert min(views(world)) > 1
    world.finish()
    assert blamed(world, "m1", "new view: ", proof=True)


@pytest.mark.parametrize("shorten", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_omit_prepared(seed: int, shorten: bool) -> None:
    """FAULTS 24: the new leader is convicted by what it leaves out, and the next one leads."""
    world = World(seed, interval=16, window=32)
    adversary = world.lie("m1", load_adversary("omit-prepared", shorten=shorten))
    assert isinstance(adversary, OmitPrepared)
    world.load(40, keys=3)
    world.run(150)
    world.crash("m0")
    world.run(4000)
    world.restart("m0")
    world.finish()
    told(world, adversary, 24)
    assert any("a new view" in way for way in adversary.ways)
    assert blamed(world, "m1", "new view: ", proof=True)
    assert min(views(world)) > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_forged_checkpoints(seed: int) -> None:
    """FAULTS 25: never stable."""
    world, adversary = lying(seed, "m1", "forged-checkpoints", every=5)
    world.crash("m3")
    world.load(40, keys=3)
    world.run(1000)
    world.restart("m3")
    world.finish()
    told(world, adversary, 25)
    assert blamed(world, "m1", "not signed by a quorum")
    for member in world.correct:
        replica = world.replica(member)
        assert replica.checkpoints.stable <= replica.applied < 1 << 20


def test_bad_chunks() -> None:
    """FAULTS 26: another source is asked."""
    convicted = 0
    for seed, liar in enumerate(("m0", "m1", "m2")):
        world = World(seed, interval=4, window=8)
        adversary = world.lie(liar, load_adversary("bad-chunks"))
        world.crash("m3")
        world.load(120, keys=3, pipeline=1)
        world.run(4000)
        world.restart("m3")
        world.finish()
        if adversary.told[26]:
            told(world, adversary, 26)
            assert blamed(world, liar, "not the certified one")
            convicted += 1
    assert convicted > 0


@pytest.mark.parametrize("to", ["all", "half", "m3"])
def test_withhold(to: str) -> None:
    """FAULTS 27: where too few have the bytes the leader is replaced; where some have them they are fetched."""
    world, adversary = lying(6, "m0", "withhold", to=to)
    world.finish()
    told(world, adversary, 27)
    assert to != "all" or min(views(world)) > 0


@pytest.mark.parametrize("liar", ["m0", "m2"])
def test_replay(liar: str) -> None:
    """FAULTS 11 and 29: what belongs to another epoch or group is refused, what is old changes nothing."""
    world, adversary = lying(7, liar, "replay", every=2)
    world.finish()
    told(world, adversary, 11)
    told(world, adversary, 29)
    assert blamed(world, liar, "this is epoch 0")
    assert blamed(world, liar, "did not sign") or blamed(world, liar, "bad signature")


@pytest.mark.parametrize("far", [0, 1 << 32])
@pytest.mark.parametrize("liar", ["m0", "m2"])
def test_far_future(liar: str, far: int) -> None:
    """FAULTS 29: nothing is kept of what lies beyond the window, and nobody follows into a far view."""
    world, adversary = lying(8, liar, "far-future", operations=100, every=1, far=far)
    world.finish()
    told(world, adversary, 29)
    for member in world.correct:
        replica = world.replica(member)
        assert replica.machine.view < 10
        assert sum(liar in votes for votes in replica.checkpoints.votes.values()) <= VOTES_PER_MEMBER
        assert replica.applied < 1 << 20


def test_flood() -> None:
    """FAULTS 45 and 48."""
    world, adversary = lying(9, "m2", "flood", most=600)
    world.finish()
    told(world, adversary, 45)
    told(world, adversary, 48)
    assert blamed(world, "m2", "refused: ")
    assert views(world) == {0}, "nobody else was suspected for it"


def test_garbage() -> None:
    """FAULTS 10: refused, counted, attributed."""
    world, adversary = lying(10, "m2", "garbage", every=1)
    world.finish()
    told(world, adversary, 10)
    assert {whom for _, whom, _, _ in world.blames} == {"m2"}
    assert all(world.replica(member).counters.refused_frames > 50 for member in world.correct)


@pytest.mark.parametrize("seed", SEEDS)
def test_stale_reads(seed: int) -> None:
    """FAULTS 33: the history stays linearizable."""
    world = World(seed)
    adversary = world.lie("m1", load_adversary("stale-reads"))
    world.load(60, keys=1, pipeline=1)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    world.finish()
    told(world, adversary, 33)


@pytest.mark.parametrize("silent", [False, True])
def test_reads_blocker(silent: bool) -> None:
    """Trap of arXiv 2107.11144: with a member in the dark and a leader that confirms no read, reads still end."""
    world, adversary = lying(11, "m0", "reads-blocker", operations=60, silent=silent)
    assert isinstance(adversary, ReadsBlocker)
    world.run_until(lambda: world.outstanding == 0, 20_000, "all reads are answered")
    world.finish()
    told(world, adversary, 33)
    told(world, adversary, 21)
    assert adversary.blocked > 0
    assert sum(actor.told.reads for actor in world.actors.values()) > 0


@pytest.mark.parametrize(
    "name", ["liar+withhold", "slow-leader+wrong-replies+garbage", "replay+half-silent+stale-reads"]
)
def test_several_lies_at_once(name: str) -> None:
    world, adversary = lying(12, "m0", name)
    world.finish()
    assert sum(adversary.acted.values()) == 0, "the world takes them"
    assert sum(world.injected[line] for line in (11, 20, 21, 27, 31, 33)) > 0


def test_the_same_seed_gives_the_same_lies() -> None:
    prints: list[str] = []
    for _ in range(2):
        world, _ = lying(13, "m0", "garbage+replay+flood+far-future", operations=20, most=200)
        world.finish()
        prints.append(world.fingerprint)
    assert prints[0] == prints[1]
