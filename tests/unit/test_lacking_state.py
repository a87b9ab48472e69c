"""A member whose log was cut and whose checkpoints are lost: what waits until it has fetched that state.

Here, too: whose word that others are ahead counts when it fetches.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from bftkit.channel.catchup import CatchUp
from bftkit.channel.frames import ANSWER_CODEC, Read, ReadAnswer, Status, pack_ask
from bftkit.channel.interface import FromClient, ReplicaOut, Restored, ToClient
from bftkit.channel.preparing import Preparing
from bftkit.channel.replica import Replica
from bftkit.channel.settling import own_record
from bftkit.core.machine import Deliver, Out, Slot
from bftkit.service.keyvalue import KeyValueStore, get
from bftkit.sim.world import World
from tests.unit.test_proposing import TABLE, N


def answered(covered: Slot) -> bool:
    """Whether a strong read is answered at once by a member that has nothing but this in its log."""
    replica = Replica(World(1, protocol=TABLE, members=N, clients=0).hosts["m0"].settings, KeyValueStore())
    out: ReplicaOut = Out()
    replica.on_restore(Restored([own_record(0, silent=False, covered=covered)]), out)
    replica.on_start(out)
    assert replica.lacks_state == (covered > 0)
    replica.on_input(FromClient(bytes(32), pack_ask(Read(7, get(b"key")))), out)
    said = [one.output for one in out.effects if isinstance(one, Deliver)]
    answers = [ANSWER_CODEC.decode(one.frame[1:]) for one in said if isinstance(one, ToClient)]
    return any(isinstance(one, ReadAnswer) for one in answers)


def test_it_answers_no_strong_read_before_it_has_executed_what_was_cut() -> None:
    """SAFETY rule 13: it may have voted for any of that, and its log does not say so any more."""
    assert answered(0)
    assert not answered(16)


def test_the_protocol_is_told_of_the_epochs_end_once_it_has_begun() -> None:
    """SAFETY rule 23: a protocol that has not begun here hears nothing."""
    told: list[Slot] = []

    def end_at(slot: Slot, out: ReplicaOut) -> None:
        told.append(slot)

    replica = SimpleNamespace(
        state=SimpleNamespace(reconfiguring=SimpleNamespace(pending=None, boundary=16)),
        settings=SimpleNamespace(checkpoint_interval=8),
        applied=10,
        lacks_state=True,
        driving=SimpleNamespace(end_at=end_at),
    )
    preparing = Preparing(cast("Any", replica))
    preparing.on_executed(Out())
    assert told == []
    replica.lacks_state = False
    preparing.on_executed(Out())
    preparing.on_executed(Out())
    assert told == [16]


def test_only_members_are_ahead_of_a_member() -> None:
    """A founder that is none any more follows the group, and may have been broken into since."""
    replica = SimpleNamespace(
        settings=SimpleNamespace(epoch=3),
        succession=None,
        indices={"m0": 0, "m1": 1},
        checkpoints=SimpleNamespace(kept=[]),
        applied=5,
    )
    catchup = CatchUp(cast("Any", replica))
    catchup.on_control("founder", Status(3, 99, 0, 0), Out())
    assert not catchup.busy
    catchup.on_control("m1", Status(3, 99, 0, 0), Out())
    assert catchup.busy
