"""Clients that lie, by name: each does what it says, nobody is fooled, and what would fool somebody is noticed."""

from __future__ import annotations

import pytest

from bftkit.channel.bundles import Bundle
from bftkit.channel.interface import Limits
from bftkit.channel.sessions import Session
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.adversaries import Liar
from bftkit.sim.lying_clients import LYING_CLIENTS, LyingClient, lying_client
from bftkit.sim.workloads import NULL, application_of, workload_of
from bftkit.sim.world import Violation, World

LINES = {
    "accomplice": {30, 32},
    "double-number": {32},
    "second-chance": {32},
    "flood": {46},
    "garbage": {10},
    "half-authentic": {30},
    "mute": {47},
    "mute-after-open": {46},
    "never-authentic": {30},
    "overlapping": {32},
    "replay": {11},
    "shared-key": {32},
}
GROUPS = [("pbft", 4), ("coordinator", 3)]


@pytest.mark.parametrize(("protocol", "members"), GROUPS)
@pytest.mark.parametrize("kind", sorted(LYING_CLIENTS))
def test_every_kind_acts_and_harms_nobody(kind: str, protocol: str, members: int) -> None:
    world = World(3, protocol, members, clients=2)
    liar = world.join_liar("evil", kind)
    world.load(30)
    world.run(1200)
    world.crash(world.members[-1])
    world.run(400)
    world.restart(world.members[-1])
    world.run(800)
    assert set(liar.acted) == LINES[kind]
    assert all(world.injected[line] >= times for line, times in liar.acted.items())
    assert world.outstanding == 0, "the others are served meanwhile"
    world.finish()
    assert liar.stopped
    assert all(world.replica(member).machine.view == 0 for member in world.members)


def test_there_is_a_line_for_each() -> None:
    assert set(LINES) == set(LYING_CLIENTS)
    with pytest.raises(LookupError, match="known are accomplice, double-number"):
        lying_client("honest")


def test_a_liar_may_speak_the_language_of_any_service() -> None:
    world = World(1, application=application_of(NULL))
    world.workload = workload_of(NULL)
    liar = world.join_liar("evil", "double-number")
    world.load(30)
    world.run(1000)
    world.finish()
    assert {operation for client, operation in world.recorder.submitted if client == liar.public} == {b""}


def test_a_liar_leaves_the_keys_alone_whose_history_is_checked() -> None:
    world = World(1)
    world.workload = workload_of(KeyValueStore, keys=2)
    liar = world.join_liar("evil", "double-number")
    world.load(30)
    world.run(1000)
    world.finish()
    own = [operation for client, operation in world.recorder.submitted if client == liar.public]
    assert len(own) > 5
    assert all(operation.startswith(b"P\0\x07of evil") for operation in own)


def test_an_accomplice_finds_its_friend() -> None:
    world = World(2)
    world.lie("m2", Liar)
    heard: set[str] = set()
    world.inputs.append(
        lambda member, event: heard.add(member) if b"for friends" in getattr(event, "frame", b"") else None
    )
    liar = world.join_liar("evil", "accomplice")
    world.load(30)
    world.run(1500)
    world.finish()
    assert "m2" in heard
    assert liar.acted[30] > 5


def test_a_flood_stays_within_its_quota() -> None:
    """FAULTS 46."""
    world = World(4, limits=Limits(client_pool_bytes=6_000, batch_requests=4, client_reads=2))
    liar = world.join_liar("evil", "flood")
    most = 0

    def look() -> None:
        nonlocal most
        sizes = [world.replica(member).pool.client_sizes.get(liar.public, 0) for member in world.members]
        most = max(most, *sizes)
        world.after(1, look)

    look()
    world.load(40)
    world.run(3000)
    assert 5_000 < most <= 6_000
    assert liar.refused[1] > 50
    world.finish()


def test_who_takes_no_answer_has_its_replies_bounded() -> None:
    """FAULTS 47: the floor of its session never rises."""
    world = World(5, limits=Limits(session_reply_bytes=20_000))
    liar = world.join_liar("evil", "mute")
    world.load(20)
    world.run(3000)
    session = world.replica("m0").state.sessions.by_client[liar.public]
    assert session.floor == 1
    assert 10_000 < session.reply_bytes <= 20_000
    world.finish()


def test_sessions_that_nobody_uses_make_room() -> None:
    world = World(6, clients=2, limits=Limits(sessions=4))
    world.join_liar("evil", "mute-after-open")
    world.load(60)
    world.run(4000)
    assert sum(name.startswith("evil") for name in world.actors) > 8
    assert len(world.replica("m0").state.sessions.by_client) == 4
    assert world.outstanding == 0
    world.finish()
    assert sum(actor.told.unknown for actor in world.actors.values()) == 0


def test_garbage_and_what_is_replayed_is_refused_and_counted() -> None:
    for kind in ("garbage", "replay", "never-authentic"):
        world = World(7)
        world.join_liar("evil", kind)
        world.load(20)
        world.run(2000)
        assert sum(world.replica(member).counters.refused_frames for member in world.members) > 20
        world.finish()


# What would be wrong is noticed.


def attacked(kind: str, seed: int) -> str:
    """Which oracle finds something in a world with this liar."""
    world = World(seed, clients=2)
    world.join_liar("evil", kind)
    world.load(40)
    try:
        world.run(2500)
        world.finish()
    except Violation as violation:
        return violation.oracle
    return ""


def always(*given: object) -> bool:
    return True


def never(*given: object) -> bool:
    return False


def nothing(*given: object) -> None:
    return None


@pytest.mark.parametrize("kind", ["never-authentic", "replay"])
def test_members_that_check_no_signatures_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attacked(kind, 8) == ""
    monkeypatch.setattr(Bundle, "authentic", always)
    assert attacked(kind, 8) == "integrity"


def test_members_that_remember_no_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 9."""
    assert attacked("overlapping", 9) == ""
    monkeypatch.setattr(Session, "is_new", always)
    monkeypatch.setattr(Session, "execute", nothing)
    monkeypatch.setattr(Session, "is_done", never)
    assert attacked("overlapping", 9) == "exactly-once"


def test_a_liar_of_ones_own() -> None:
    class Twice(LyingClient):
        """Sends each bundle twice."""

        def act(self) -> None:
            self.number += 1
            raw = self.bundle(self.number, (self.operation("twice"),))
            self.send(raw)
            self.send(raw)
            self.did(2)

    world = World(10)
    liar = world.join_as("evil", Twice)
    world.load(20)
    world.run(1500)
    world.finish()
    assert world.injected[2] == liar.acted[2] > 5
