"""Messages that were changed by somebody who knows their structure: really sent, really signed, and harmless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import attrs
import pytest

from bftkit.channel import frames
from bftkit.channel.frames import (
    CHECKPOINT_PURPOSE,
    CONTROL_CODEC,
    CheckpointVote,
    checkpoint_body,
    unpack_protocol,
)
from bftkit.channel.interface import ReplicaSettings
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup
from bftkit.core.wire import Codec, WireError
from bftkit.sim.adversaries.honest import Honest
from bftkit.sim.adversaries.mutation import Mutate
from bftkit.sim.checkers import Violation
from bftkit.sim.links import Network
from bftkit.sim.wire_mutation import Mutator
from bftkit.sim.world import World
from bftkit_coordinator.messages import APPEND_PURPOSE, Append, Entry
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.messages import (
    BODIES,
    NEW_VIEW,
    VIEW_CHANGE,
    VOTE,
    NewView,
    NewViewBody,
    Prepare,
    ViewChange,
    ViewChangeBody,
    vote_statement,
)
from bftkit_pbft.messages import CODEC as PBFT

MEMBERS = ("m0", "m1", "m2", "m3")


def liar(world: World, member: MemberId, **options: Any) -> Mutate:
    """The member lies from now on."""

    def make(settings: ReplicaSettings) -> Honest:
        return Mutate(settings, **options)

    adversary = world.lie(member, make)
    assert isinstance(adversary, Mutate)
    return adversary


def listen(world: World, member: MemberId) -> list[bytes]:
    """The frames that leave the member, once for each receiver."""
    heard: list[bytes] = []

    def observe(sender: MemberId, _: MemberId, frame: bytes) -> None:
        if sender == member:
            heard.append(frame)

    world.observers.append(observe)
    return heard


def setup_of(world: World, member: MemberId) -> Setup:
    settings = world.hosts[member].settings
    return Setup(member, settings.members, settings.quorum, settings.keyring, 0, settings.window)


def messages_of(heard: Sequence[bytes], kind: int, codec: Codec[Any]) -> list[Any]:
    """The readable messages of one kind of frame."""
    found: list[Any] = []
    for frame in heard:
        if frame[0] == kind:
            try:
                found.append(codec.decode(unpack_protocol(frame)[1] if kind == frames.PROTOCOL else frame[1:]))
            except WireError:
                continue
    return found


def opened(body: bytes) -> ViewChangeBody | NewViewBody | None:
    """What a signed body says; None if it is unreadable."""
    try:
        return BODIES.decode(body)
    except WireError:
        return None


def test_a_liar_that_was_removed_has_nothing_to_sign_anew() -> None:
    world = World(1, "pbft", 4)
    settings = world.hosts["m0"].settings
    removed = attrs.evolve(settings, members=("m4", "m1", "m2", "m3"))
    Mutate(removed)
    liar = Mutate(settings)
    assert liar.setup is not None
    liar.on_epoch(removed)
    assert liar.setup is None
    assert liar.resigned("a message") == "a message"


# ------------------------------------------------------------------------------------------------- one message


def recorded() -> tuple[World, list[bytes]]:
    """All protocol messages of a run with two changes of leader, and its world."""
    world = World(3, "pbft", 4, parameters={"view_timeout": 200, "status_interval": 50}, interval=4, window=16)
    data: list[bytes] = []

    def observe(_: MemberId, receiver: MemberId, frame: bytes) -> None:
        if frame[0] == frames.PROTOCOL and receiver in ("m2", "m3"):
            data.append(unpack_protocol(frame)[1])

    world.observers.append(observe)
    world.load(20, keys=2)
    world.run(300)
    for leader in ("m0", "m1"):
        world.load(20, keys=2)
        world.run(15)
        world.crash(leader)
        world.run(1_500)
        world.restart(leader)
        world.run(500)
    return world, data


def mutator_of(world: World, member: MemberId, data: Sequence[bytes]) -> Mutator:
    plugin, setup = world.hosts[member].settings.plugin, setup_of(world, member)
    assert plugin.resign is not None
    resign = plugin.resign
    mutator = Mutator(plugin.codec, setup.members, plugin.inside, lambda message: resign(setup, message))
    for message in data:
        mutator.note(message)
    return mutator


def test_small_changes_keep_messages_readable_and_change_them() -> None:
    world, data = recorded()
    mutator = mutator_of(world, "m2", data)
    random = Random(1)
    kinds: Counter[str] = Counter()
    for _ in range(1_500):
        before = random.choice(data)
        mutated = mutator.mutate(before, random, "small")
        if mutated is None:
            continue
        assert mutated.data != before
        assert 10 not in mutated.lines
        assert mutated.what
        message = PBFT.decode(mutated.data)
        kinds[type(message).__name__] += 1
    assert {"PrePrepare", "Prepare", "Commit", "Stable", "ViewChange", "NewView", "Status"} <= kinds.keys()


def test_any_change_goes_beyond_the_range_too() -> None:
    world, data = recorded()
    mutator = mutator_of(world, "m2", data)
    random = Random(1)
    refused = accepted = 0
    for _ in range(1_000):
        mutated = mutator.mutate(random.choice(data), random, "any")
        if mutated is not None:
            try:
                PBFT.decode(mutated.data)
            except WireError:
                assert 10 in mutated.lines
                refused += 1
            else:
                accepted += 1
    assert refused > 100
    assert accepted > 300


def test_changed_votes_carry_the_liars_good_signature() -> None:
    """Receivers must see more than a bad signature: most changed prepares are properly signed, for something else."""
    world, data = recorded()
    keyring = world.hosts["m2"].settings.keyring
    prepares = [each for each in data if isinstance(PBFT.decode(each), Prepare)]
    own = [each for each in prepares if _signed_by(world, "m2", PBFT.decode(each))]
    mutator = mutator_of(world, "m2", data)
    random = Random(2)
    outcome: Counter[tuple[bool, bool]] = Counter()
    for _ in range(400):
        before: Any = PBFT.decode(random.choice(own))
        mutated = mutator.mutate(PBFT.encode(before), random, "small")
        if mutated is None:
            continue
        after: Any = PBFT.decode(mutated.data)
        assert isinstance(after, Prepare)
        statement = vote_statement(after.view, after.slot, after.digest)
        another = statement != vote_statement(before.view, before.slot, before.digest)
        outcome[keyring.verify("m2", VOTE, statement, after.signature), another] += 1
    assert outcome[True, True] > 150
    assert outcome[False, False] > 0


def _signed_by(world: World, member: MemberId, message: Any) -> bool:
    statement = vote_statement(message.view, message.slot, message.digest)
    return world.hosts[member].settings.keyring.verify(member, VOTE, statement, message.signature)


def test_changed_view_changes_and_new_views_are_signed_from_the_inside_out() -> None:
    """FAULTS 23 and 24: a body is changed, the liar's own votes in it are made anew, then its own signature."""
    world, data = recorded()
    changes = [each for each in data if isinstance(message := PBFT.decode(each), ViewChange) and message.signer == "m2"]
    new_views = [each for each in data if isinstance(PBFT.decode(each), NewView)]
    assert changes
    assert new_views
    random = Random(3)
    keyring = world.hosts["m0"].settings.keyring
    bodies = 0
    mutator = mutator_of(world, "m2", data)
    for _ in range(300):
        before: Any = PBFT.decode(random.choice(changes))
        mutated = mutator.mutate(PBFT.encode(before), random, "small")
        after: Any = PBFT.decode(mutated.data) if mutated is not None else before
        good = keyring.verify("m2", VIEW_CHANGE, after.body, after.signature)
        if good and after.signer == "m2" and after.body != before.body:
            bodies += isinstance(opened(after.body), ViewChangeBody)
    assert bodies > 80
    lengths: set[int] = set()
    proposals: set[tuple[bytes, ...]] = set()
    for _ in range(300):
        before = PBFT.decode(random.choice(new_views))
        told = opened(before.body)
        assert isinstance(told, NewViewBody)
        leader = MEMBERS[told.view % 4]
        mutated = mutator_of(world, leader, data).mutate(PBFT.encode(before), random, "small")
        after = PBFT.decode(mutated.data) if mutated is not None else before
        body = opened(after.body)
        good = keyring.verify(leader, NEW_VIEW, after.body, after.signature)
        if good and isinstance(body, NewViewBody) and body != told:
            lengths.add(len(body.changes))
            proposals.add(body.votes)
    assert {2, 3, 4} <= lengths, "a view change left out, and one put in twice, under a good signature"
    assert len(proposals) > 3


def test_a_protocol_is_served_by_its_annotations_alone() -> None:
    """The coordinator's messages: nested entries, and the hook that signs them again."""
    world = World(1, "coordinator", 3)
    heard = listen(world, "m0")
    world.load(10)
    world.finish()
    codec = world.hosts["m0"].settings.plugin.codec
    appends = [message for message in messages_of(heard, frames.PROTOCOL, codec) if isinstance(message, Append)]
    mutator = mutator_of(world, "m0", [codec.encode(message) for message in appends])
    assert mutator.round_of(codec.encode(appends[0])).slot == appends[0].entry.slot or appends[0].committed > 0
    keyring = world.hosts["m1"].settings.keyring
    entries: set[Entry] = {append.entry for append in appends}
    lies = 0
    random = Random(4)
    for _ in range(200):
        mutated = mutator.mutate(codec.encode(random.choice(appends)), random, "small")
        if mutated is not None:
            entry = codec.decode(mutated.data).entry
            good = keyring.verify("m0", APPEND_PURPOSE, entry.statement, entry.signature)
            lies += good and entry not in entries
    assert lies > 20


# ------------------------------------------------------------------------------------------------- a lying member


def test_what_was_changed_is_sent_and_told() -> None:
    world = World(5, "pbft", 4, interval=4, window=16)
    adversary = liar(world, "m1", seed=5, rate=50)
    heard = listen(world, "m1")
    world.load(40)
    world.finish()
    assert adversary.changed >= len(adversary.mutations) > 20
    assert any("Prepare" in what and "digest" in what for what in adversary.mutations)
    assert any(" to m0" in what for what in adversary.mutations)
    assert {21, 22, 25, 29, 33} <= {line for line, times in adversary.told.items() if times > 0}
    keyring = world.hosts["m0"].settings.keyring
    prepares = [message for message in messages_of(heard, frames.PROTOCOL, PBFT) if isinstance(message, Prepare)]
    digests: dict[tuple[int, int], set[bytes]] = {}
    for message in prepares:
        if _signed_by(world, "m1", message):
            digests.setdefault((message.view, message.slot), set()).add(message.digest)
    assert any(len(said) > 1 for said in digests.values()), "it votes for two digests in one slot"
    votes = [
        message for message in messages_of(heard, frames.CONTROL, CONTROL_CODEC) if type(message) is CheckpointVote
    ]
    good = {
        (vote.slot, vote.root)
        for vote in votes
        if keyring.verify("m1", CHECKPOINT_PURPOSE, checkpoint_body(vote.slot, vote.root), vote.signature)
    }
    assert len(good) > len({slot for slot, _ in good}), "and for two roots of one checkpoint"


def test_one_seed_lies_in_one_way() -> None:
    def run(seed: int) -> tuple[list[str], str]:
        world = World(7, "pbft", 4, interval=4, window=16)
        adversary = liar(world, "m0", seed=seed, rate=30, scope="any")
        world.load(30)
        world.run(2_000)
        return adversary.mutations, world.fingerprint

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_who_is_lied_to_and_how_often_can_be_said() -> None:
    world = World(8, "pbft", 4)
    adversary = liar(world, "m1", rate=100, rounds=3, receivers=["m2"], clients=False)
    world.load(20)
    world.finish()
    assert adversary.mutations
    assert all(what.endswith(" to m2") for what in adversary.mutations)
    assert len({what.partition(":")[0] for what in adversary.mutations}) <= 3
    other = World(8, "pbft", 4)
    adversary = liar(other, "m1", rate=100, kinds="Commit,Prepare", receivers=1)
    other.load(20)
    other.finish()
    assert all(
        (" Commit: " in what or " Prepare: " in what) and "," not in what.rpartition(" to ")[2]
        for what in adversary.mutations
    )
    with pytest.raises(ValueError, match="small or any"):
        liar(other, "m1", scope="huge")


@pytest.mark.parametrize("seed", range(8))
def test_a_member_that_changes_messages_only_costs_time(seed: int) -> None:
    """FAULTS 10, 21 to 25, 29: agreement, durability, linearizability and progress hold."""
    world = World(
        seed,
        "pbft",
        4,
        clients=2,
        network=Network(delay_max=(3, 30)[seed % 2], loss=0.03),
        interval=4,
        window=16,
        parameters={"view_timeout": 300, "status_interval": 50},
    )
    adversary = liar(world, f"m{seed % 4}", seed=seed, rate=30, scope=("small", "any")[seed // 4])
    world.load(40, keys=3)
    world.run(500)
    leader = world.replica(world.correct[0]).machine.leader
    if leader in world.correct:
        world.partition([leader])
    world.run(700)
    world.heal()
    world.load(30, keys=3)
    world.finish()
    assert adversary.changed > 20


# ------------------------------------------------------------------------------------------------- teeth


def test_a_commit_that_counts_for_any_digest_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing check of the digest: q commits in one view and slot decide, whatever they name."""
    original = PbftMachine.on_commit

    def on_commit(machine: Any, sender: MemberId, message: Any, out: Any) -> None:
        state = machine.slots.get(message.slot)
        known = next(iter(state.commits.values())) if state is not None and state.commits else message
        original(machine, sender, attrs.evolve(message, digest=known.digest), out)

    monkeypatch.setattr(PbftMachine, "on_commit", on_commit)

    def campaign() -> None:
        for seed in range(12):
            world = World(seed, "pbft", 4, clients=2, interval=4, window=16)
            liar(world, f"m{seed % 4}", seed=seed, rate=30)
            world.load(40, keys=3)
            world.finish()

    with pytest.raises(Violation, match="agreement"):
        campaign()
