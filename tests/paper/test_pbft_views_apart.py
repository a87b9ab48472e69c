"""Members that left for different views find each other, although too few are in any one of them (section 2.3.5)."""

from __future__ import annotations

from typing import Any

from bftkit.core.digest import digest
from bftkit.core.machine import Broadcast, Out, SetTimer
from bftkit.core.ordering import Available, Batch, Propose, Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit_pbft import views
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.timers import NEW_VIEW, STATUS

MEMBERS = ("m0", "m1", "m2", "m3")
GROUP = digest(b"group")


def group() -> dict[str, PbftMachine]:
    rings = fast_keyrings(b"seed", GROUP, 0, GROUP, MEMBERS)
    return {name: PbftMachine.create(Setup(name, MEMBERS, Quorum(4, 1), rings[name])) for name in MEMBERS}


def settle(machines: dict[str, PbftMachine], pending: list[tuple[str, Out[Any, Any]]]) -> set[str]:
    """Deliver all broadcasts; says who has set the timer that waits for a new view."""
    waiting: set[str] = set()
    while pending:
        sender, out = pending.pop(0)
        for effect in out.effects:
            if isinstance(effect, SetTimer) and effect.key == NEW_VIEW:
                waiting.add(sender)
            if isinstance(effect, Broadcast):
                for name, machine in machines.items():
                    if name != sender:
                        answer: Out[Any, Any] = Out()
                        machine.on_message(sender, effect.message, answer)
                        pending.append((name, answer))
    return waiting


def test_two_in_one_view_and_one_beyond_do_not_wait_for_each_other_for_ever() -> None:
    """m1 is down, m0 went on alone to view 4, m2 and m3 are in view 2 (regression; mixed seed 3022)."""
    machines = group()
    del machines["m1"]
    pending: list[tuple[str, Out[Any, Any]]] = []
    for name, view in (("m0", 4), ("m2", 2), ("m3", 2)):
        out: Out[Any, Any] = Out()
        views.leave_view(machines[name], view, out)
        pending.append((name, out))
    waiting = settle(machines, pending)
    for _ in range(10):
        if all(machine.active for machine in machines.values()):
            break
        assert waiting, "nobody waits for anything: they stay apart for ever"
        pending = []
        for name in sorted(waiting):
            out = Out()
            machines[name].on_timer(NEW_VIEW, out)
            pending.append((name, out))
        waiting = settle(machines, pending)
    assert {machine.view for machine in machines.values()} == {4}
    assert all(machine.active for machine in machines.values())


def test_one_member_that_went_on_alone_draws_nobody_after_it() -> None:
    """With f + 1 in no later view, nobody leaves the view that works."""
    machines = group()
    out: Out[Any, Any] = Out()
    views.leave_view(machines["m3"], 7, out)
    assert settle(machines, [("m3", out)]) == set()
    assert [machines[name].view for name in MEMBERS] == [0, 0, 0, 7]


def test_a_vote_that_leads_to_nothing_is_a_reason_to_leave_the_view() -> None:
    """No request waits here, but others may have decided the slot and left (regression; mixed seed 3078)."""
    machines = group()
    backup = machines["m2"]
    batch = digest(b"batch")
    proposal: Out[Any, Any] = Out()
    machines["m0"].on_input(Propose(Batch(batch, 5)), proposal)
    (message,) = [effect.message for effect in proposal.effects if isinstance(effect, Broadcast)]
    backup.on_message("m0", message, Out())
    backup.on_input(Available(batch), Out())
    assert backup.voted == 1
    assert not backup.waiting
    timers = {STATUS}
    for _ in range(40):
        out: Out[Any, Any] = Out()
        for key in sorted(timers):
            backup.on_timer(key, out)
        timers = {effect.key for effect in out.effects if isinstance(effect, SetTimer)}
    assert backup.view == 1


def test_an_idle_backup_stays() -> None:
    backup = group()["m2"]
    timers = {STATUS}
    for _ in range(40):
        out: Out[Any, Any] = Out()
        for key in sorted(timers):
            backup.on_timer(key, out)
        timers = {effect.key for effect in out.effects if isinstance(effect, SetTimer)}
    assert timers == {STATUS}
    assert backup.view == 0
