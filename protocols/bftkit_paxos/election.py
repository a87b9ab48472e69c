"""How a leader is lost, and how a new one is made.

**Losing one.** A member counts its own beats without a sign of the leader. So a process that stood still, or a clock
that jumped, misses one beat and not many. A leader that no longer hears a quorum says `Resign`.

**Asking first.** Whoever lost the leader waits for a drawn time and asks the others (`PreVote`). A member says `Grant`
if it has lost the leader, too, or if it is its own leader that asks; and if it loses the leader a little later, it
answers then. With q grants the candidate is connected to a quorum, in both directions, that has no leader. Only then it
makes a ballot, so that a member behind a one-way partition never deposes a leader that a quorum follows.

**Preparing.** Phase 1 for all slots at once. Two candidates may get their grants at the same time; the higher ballot
wins, since its `Prepare` also binds the other candidate. All waits double with each failure.

Source: Lamport 2001, section 3; Ongaro 2014, section 9.6; Ng, Haridi and Carbone 2023, sections 3 and 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, DrawKey, MemberId, Slot

from . import leading
from . import messages as m
from .ballots import WINDOWS, leader_of, next_ballot
from .roles import ELECTION, Out, Role

if TYPE_CHECKING:
    from .machine import PaxosMachine

CALM: Final = 10
"""After so many beats under one leader, grown waits are halved."""
PREPARES_MAX: Final = 3
"""A prepare is sent so often before the candidate asks again."""

FAR: Final = 4 * WINDOWS
"""A promise that reports slots more than so many windows above everybody's checkpoint is not believed."""

LEADERLESS: Final = (Role.SEEKING, Role.ASKING)

# ----------------------------------------------------------------------------------- losing a leader


def hear(machine: PaxosMachine, out: Out) -> None:
    """A sign of the leader of the present ballot."""
    machine.missed = 0
    new = not machine.established
    if machine.role is Role.FOLLOWING and not new:
        return
    if machine.stubborn and not new:
        return  # this member has given it up, and waits whether a quorum has, too
    machine.role = Role.FOLLOWING
    machine.established = True
    machine.stubborn = 0
    machine.stalled = 0
    machine.asked.clear()
    if new:
        machine.since = machine.beats
    out.cancel_timer(ELECTION)
    machine.tell(out)


def await_candidate(machine: PaxosMachine, out: Out) -> None:
    """A ballot was promised to a candidate: give it time to show itself as leader."""
    machine.missed = 0
    machine.stubborn = 0
    machine.role = Role.FOLLOWING
    out.cancel_timer(ELECTION)
    machine.tell(out)


def beat(machine: PaxosMachine, out: Out) -> None:
    """Count silence, and whether anything is chosen while requests wait."""
    machine.missed += 1
    machine.stubborn = max(0, machine.stubborn - 1)
    silence = machine.parameter("silence")
    if machine.role is Role.FOLLOWING:
        if machine.missed >= silence << machine.level:
            lose_leader(machine, out)
        elif machine.established:
            calm_down(machine)
            watch_progress(machine, out)
    elif machine.beats % silence == 0:
        # Nobody sends what this member missed: others may know, even if it hears no leader.
        out.broadcast(m.Ask(machine.known))


def watch_progress(machine: PaxosMachine, out: Out) -> None:
    """A leader that is there and gets nothing chosen while requests wait is given up; that alone deposes nobody."""
    if not machine.waiting or machine.committed > machine.seen_committed:
        machine.stalled = 0
    else:
        machine.stalled += 1
    machine.seen_committed = machine.committed
    if machine.stalled >= machine.parameter("patience") << machine.level:
        give_up(machine, out)


def give_up(machine: PaxosMachine, out: Out) -> None:
    """Want another leader for a while, although this one is heard."""
    machine.stalled = 0
    if machine.role is Role.FOLLOWING:
        machine.stubborn = machine.parameter("patience")
        lose_leader(machine, out)


def calm_down(machine: PaxosMachine) -> None:
    machine.calm += 1
    if machine.calm >= CALM:
        machine.calm = 0
        machine.level = max(0, machine.level - 1)


def grow(machine: PaxosMachine) -> None:
    machine.calm = 0
    machine.level = min(machine.level + 1, machine.parameter("grow"))


def lose_leader(machine: PaxosMachine, out: Out) -> None:
    """Look for another leader after a drawn time, and answer those who asked before."""
    if machine.established and machine.beats - machine.since < CALM and machine.beats > CALM:
        grow(machine)  # it did not last: perhaps this network is slower than we think
    for member in sorted(machine.asked):
        out.send(member, m.Grant(machine.asked[member], machine.promised))
    machine.asked.clear()
    seek(machine, out)


def seek(machine: PaxosMachine, out: Out) -> None:
    machine.role = Role.SEEKING
    machine.serial += 1
    out.cancel_timer(ELECTION)
    out.draw(("election", machine.serial), machine.parameter("spread") << machine.level)
    machine.tell(out)


def resign(machine: PaxosMachine, out: Out) -> None:
    """Lead no more. The others need not find out by our silence."""
    assert machine.role is Role.LEADING
    leading.forget(machine)
    out.broadcast(m.Resign(machine.promised))
    lose_leader(machine, out)


# ----------------------------------------------------------------------------------- making a leader


def on_draw(machine: PaxosMachine, key: DrawKey, value: int, out: Out) -> None:
    if machine.role is Role.SEEKING and key == ("election", machine.serial):
        out.set_timer(ELECTION, value + 1)


def election_due(machine: PaxosMachine, out: Out) -> None:
    """The drawn time is over, or an answer did not come."""
    if machine.role is Role.SEEKING:
        ask(machine, out)
    elif machine.role is Role.ASKING:
        grow(machine)
        seek(machine, out)
    elif machine.role is Role.PREPARING:
        machine.tries += 1
        if machine.tries < PREPARES_MAX:
            silent = [member for member in machine.others() if member not in machine.promises]
            out.send(silent, m.Prepare(machine.promised))
            out.set_timer(ELECTION, patience(machine))
        else:
            grow(machine)
            lose_leader(machine, out)


def patience(machine: PaxosMachine) -> int:
    """So many ticks an answer may take."""
    return machine.parameter("beat") * machine.parameter("silence") << machine.level


def ask(machine: PaxosMachine, out: Out) -> None:
    """Who else has lost the leader?"""
    machine.role = Role.ASKING
    machine.attempt += 1
    machine.grants = {machine.setup.me: machine.promised}
    out.broadcast(m.PreVote(machine.attempt))
    out.set_timer(ELECTION, patience(machine))
    if len(machine.grants) >= machine.setup.quorum.certificate:
        prepare(machine, out)


def on_message(
    machine: PaxosMachine, sender: MemberId, message: m.PreVote | m.Grant | m.Promise | m.Refuse | m.Resign, out: Out
) -> None:
    match message:
        case m.PreVote(attempt):
            on_pre_vote(machine, sender, attempt, out)
        case m.Grant(attempt, ballot):
            if machine.role is Role.ASKING and attempt == machine.attempt:
                machine.grants[sender] = ballot
                if len(machine.grants) >= machine.setup.quorum.certificate:
                    prepare(machine, out)
        case m.Promise():
            if machine.role is Role.PREPARING and message.ballot == machine.promised:
                machine.promises[sender] = message
                drop_far_promises(machine, out)
                if len(machine.promises) >= machine.setup.quorum.certificate:
                    lead(machine, out)
        case m.Refuse(ballot):
            on_refuse(machine, ballot, out)
        case m.Resign(ballot):
            if leader_of(machine.setup, ballot) != sender:
                out.blame(sender, "resigns from another member's ballot")
            elif machine.role is Role.FOLLOWING and ballot == machine.promised:
                lose_leader(machine, out)


def on_pre_vote(machine: PaxosMachine, sender: MemberId, attempt: int, out: Out) -> None:
    """Grant if we have lost the leader, too, or if it is our own leader that asks. It promises nothing."""
    ours = machine.role is Role.FOLLOWING and sender == leader_of(machine.setup, machine.promised)
    if machine.role in LEADERLESS or ours:
        out.send(sender, m.Grant(attempt, machine.promised))
    elif machine.role is not Role.LEADING:
        machine.asked[sender] = attempt


def prepare(machine: PaxosMachine, out: Out) -> None:
    """Phase 1a: a ballot above all that a quorum knows of. (Lamport 2001, section 2.2)"""
    machine.enter(next_ballot(machine.setup, max(machine.promised, machine.seen, *machine.grants.values())))
    machine.role = Role.PREPARING
    machine.tries = 0
    machine.record_promise(out)
    machine.promises = {machine.setup.me: machine.promise()}
    out.broadcast(m.Prepare(machine.promised))
    out.set_timer(ELECTION, patience(machine))
    if len(machine.promises) >= machine.setup.quorum.certificate:
        lead(machine, out)


def drop_far_promises(machine: PaxosMachine, out: Out) -> None:
    """No window reaches so far above what is settled: whoever reports such slots would have us fill all below them.

    It need not lie within windows of the sender's *own* checkpoint: a leader may propose above one that it lacks.
    """
    base = max(promise.stable for promise in machine.promises.values())
    for member in sorted(machine.promises):
        if any(held.slot > base + FAR * machine.setup.window for held in machine.promises[member].held):
            del machine.promises[member]
            out.blame(member, "a promise about slots that no window reaches")


def on_refuse(machine: PaxosMachine, ballot: int, out: Out) -> None:
    """Somebody has promised a higher ballot than ours."""
    machine.seen = max(machine.seen, ballot)
    if ballot <= machine.promised:
        return
    if machine.role is Role.LEADING:
        # Perhaps a candidate came and went, perhaps a quorum follows another leader by now: our followers know.
        leading.forget(machine)
        ask(machine, out)
        machine.tell(out)
    elif machine.role is Role.PREPARING:
        grow(machine)
        lose_leader(machine, out)


def lead(machine: PaxosMachine, out: Out) -> None:
    """q promises are here: propose again what may have been chosen, close the holes, and go on. (Lamport 2001, 3)

    For each slot above the highest stable checkpoint among the promises: the value of the highest ballot that was
    reported, the empty batch where there is none.
    """
    promises = machine.promises
    machine.promises = {}
    base = max(promise.stable for promise in promises.values())
    best: dict[Slot, tuple[int, Digest]] = {}
    holders: dict[Digest, list[MemberId]] = {}
    for member in sorted(promises):
        for held in promises[member].held:
            best[held.slot] = max(best.get(held.slot, (-1, b"")), (held.ballot, held.digest))
            holders.setdefault(held.digest, []).append(member)
    high = max([base, machine.known, *best, *machine.chosen])
    if machine.stop is not None:
        high = min(high, machine.stop)
    machine.role = Role.LEADING
    machine.established = True
    machine.since = machine.beats
    machine.asked.clear()
    machine.base = base
    machine.committed = max(base, machine.known)
    machine.next_slot = max(high, machine.committed) + 1
    machine.heard_at = {member: machine.beats for member in sorted(promises) if member != machine.setup.me}
    out.cancel_timer(ELECTION)
    machine.tell(out)
    leading.heartbeat(machine, out)
    for slot in range(machine.committed + 1, high + 1):
        if slot in machine.chosen:
            continue
        digest = best[slot][1] if slot in best else NO_DIGEST
        if machine.have(digest, slot, holders.get(digest, ()), out):
            leading.propose(machine, slot, digest, out)
        else:
            machine.opening[slot] = digest
    machine.go_on(out)
    leading.fill(machine, out)
