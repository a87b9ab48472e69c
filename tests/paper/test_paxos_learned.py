"""A leader that hears what others chose must not propose something else there."""

from __future__ import annotations

from bftkit.core.digest import digest
from bftkit.core.machine import Broadcast, Out
from bftkit.core.ordering import Batch, Learned, OrderingOutput, Propose, Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit_paxos.machine import PaxosMachine
from bftkit_paxos.messages import Accept, Message, Resign

MEMBERS = ("m0", "m1", "m2")
KEYRINGS = fast_keyrings(b"test", bytes(32), 0, bytes(32), list(MEMBERS))


def test_a_leader_that_learned_a_later_slot_does_not_propose_another_value_there() -> None:
    # m1 leads a higher ballot of which m0, cut off with m2, knows nothing. m0 learns slot 2 from m1's side, and not
    # yet slot 1. If it proposed in slot 2 and then learned slot 1, it would say `Commit` up to 2, and m2, which
    # accepted the proposal of m0, would deliver that in place of what was chosen.
    machine = PaxosMachine.create(Setup("m0", MEMBERS, Quorum(3, 0, 1), KEYRINGS["m0"]))
    machine.on_start(Out())
    machine.on_input(Learned(2, digest(b"chosen")), Out())
    first, second = (Batch(digest(name), 1) for name in (b"first", b"second"))
    machine.on_input(Propose(first), Out())
    assert machine.room > 0, "nothing tells it yet that its ballot is over"

    out: Out[Message, OrderingOutput] = Out()
    machine.on_input(Propose(second), out)

    sent = [effect.message for effect in out.effects if isinstance(effect, Broadcast)]
    assert any(isinstance(message, Resign) for message in sent)
    assert not any(isinstance(message, Accept) for message in sent)
    assert machine.leader is None
    assert machine.room == 0
