"""What happened in a run, told so that a person who knows consensus can follow it.

The plan is run once more in a world that remembers (`bftkit.sim.watching`). Then the story is told in four parts: who
takes part; what happened, in the order of time, with everything that concerns the slots of the violation and little
else; what lying members say that they did; and the violation, with the facts that contradict each other one below the
other. A run that does not come to its end has no such slots; there it is told who waits for what.

    print(tell(shrunk.plan))
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, cast

import attrs

from bftkit.core.plugin import load_protocol
from bftkit.sim.faults import ClientDies, LyingClient, Partition, Twin
from bftkit.sim.plan import Plan
from bftkit.sim.running import Result, run_world
from bftkit.sim.turning import command_words, standing_of
from bftkit.sim.watching import (
    ANSWERED,
    ASKED,
    CRASH,
    DECIDED,
    NOTE,
    RETURN,
    STEP,
    TOLD,
    VIEW,
    Happened,
    Said,
    WatchedWorld,
)
from bftkit.sim.wording import counted, operation_words, short

if TYPE_CHECKING:
    from bftkit.channel.application import Application
    from bftkit.core.machine import MemberId

LINES_MAX: Final = 60
SLOTS_MAX: Final = 4
"""Of so many slots at most everything is told."""
SIDES_MAX: Final = 5
"""Of so many faults at most the sides are named before the story; the faults themselves name them anyway."""
QUIET_US: Final = 100_000
"""A silence of so long is worth a word."""
TOGETHER_US: Final = 5_000
"""What happens to several members within so long is told in one line."""
_TOGETHER: Final = 24
LAST_US: Final = 1_000_000
"""Of a run without progress, so much of the end is summed up."""
FINDING_MAX: Final = 240
FINDING_LINES: Final = 10
BEFORE: Final = 12
"""So many of the last messages are told where nothing says which ones matter."""
CONTRADICTION: Final = "a correct member said two things that cannot both be true"
IN_WORDS: Final = {
    "agreement": "correct members disagree about what stands at one place of the order",
    "durability": "a client was told something that the group does not hold for ever",
    "exactly-once": "an operation was executed more often than it was asked for",
    "linearizability": "no single order of the operations explains what the clients saw",
    "progress": "what waits is not answered, although everything has healed",
    "bounded": "a correct member keeps more than its bounds allow",
    "exception": "a correct member's code raised what nobody handles",
    "blame": "a correct member is blamed by a correct one",
    "halting": "a correct member stops taking part",
    "integrity": "something was executed that no client sent",
    "checkpoints": "correct members hold different states after one slot",
    "agreed-time": "the agreed time runs back",
    "deadline": "an operation was executed too late, or was refused as late too early, or executed all the same",
    "best-effort": "a correct member alone answered what was never its state",
    "figure": "a figure that the scenario demands was missed",
}
REPEATED_IN_FAULTS: Final = (
    "partition ", "cut ", "open ", "a cut ends", "heal", "weather ", "pause", "resume", "crash", "kill", "restart",
    "lies", "runs twice", "runs once", "clock ", "frames take", "syncs take", "joins, and lies",
)  # fmt: skip
"""Notes of the world that say what a fault or another line says already."""


@attrs.define(order=True)
class _Line:
    at_us: int
    number: int
    text: str = attrs.field(order=False)
    weight: int = attrs.field(order=False)
    """0: must be told; the higher, the sooner it is left out."""
    who: list[str] = attrs.field(order=False, factory=list[str])
    """Those to whom it happened, if these stand before the text."""

    def __str__(self) -> str:
        verb, space, rest = self.text.partition(" ")
        if len(self.who) > 1:
            verb = {"is": "are", "has": "have"}.get(verb, verb.removesuffix("S" if verb.isupper() else "s"))
        return f"{self.at_us / 1000:>9.1f}  {', '.join(self.who)}{' ' if self.who else ''}{verb}{space}{rest}"


@attrs.frozen
class Story:
    """A story, and the run that it tells."""

    text: str
    result: Result
    world: WatchedWorld
    slots: tuple[int, ...]
    """What it is about; empty if the violation concerns no slot."""


def tell(
    plan: Plan, *, application: Callable[[MemberId], Application] | None = None, lines: int | None = LINES_MAX
) -> str:
    """Run the plan and tell what happened, in about so many lines; None: everything that concerns the violation."""
    return story_of(plan, application=application, lines=lines).text


def story_of(
    plan: Plan,
    *,
    application: Callable[[MemberId], Application] | None = None,
    lines: int | None = LINES_MAX,
    slots: Iterable[int] = (),
) -> Story:
    """As `tell`, with all that it rests on. `slots`: tell of these, whatever the violation is about."""
    result, world = run_world(plan, application=application, kind=WatchedWorld)
    assert isinstance(world, WatchedWorld)
    teller = _Teller(plan, result, world, tuple(slots))
    return Story(teller.text(lines), result, world, teller.slots)


def concerned_slots(violation: str) -> tuple[int, ...]:
    """The slots that a violation speaks of, in order, each once."""
    # "slot 7", a place "(7, 0)", and "m1 contradicts itself: Prepare 2 7 was ...": view and slot.
    found = re.findall(r"\bslots? (\d+)|\((\d+), \d+\)|itself: \w+ \d+ (\d+) was", violation)
    numbers = [int(part) for parts in found for part in parts if part]
    return tuple(dict.fromkeys(number for number in numbers if number))


class _Teller:
    def __init__(self, plan: Plan, result: Result, world: WatchedWorld, slots: tuple[int, ...]) -> None:
        self.plan = plan
        self.result = result
        self.world = world
        self.wording = world.wording
        for said in world.said:
            self.wording.read(said.frame)  # so that all batches are known
        self.slots = (slots or concerned_slots(result.violation))[:SLOTS_MAX]
        self.digests = self._digests()
        self.operations = self._operations()
        inside = {operation for name in self.digests for _, operation in self.wording.operations(name)}
        self._keys = {name.encode() for name in re.findall(r"\bkey b'([^']*)'", result.violation)}
        self._concerned = self._keys or self.operations or inside
        self._lines: list[_Line] = []

    # ------------------------------------------------------------------------------------------ what it is about

    def _digests(self) -> dict[bytes, None]:
        """The batches that anybody proposed or executed in the slots that this is about."""
        found: dict[bytes, None] = {}
        for said in self.world.said:
            read = self.wording.read(said.frame)
            if read.digest is not None and read.slots & set(self.slots) and read.name != "Reply":
                found[read.digest] = None
        for one in self.world.happened:
            if one.kind == DECIDED and one.slot in self.slots:
                found[one.digest] = None
        return {name: None for name in found if any(name) or name in self.wording.batches}

    def _operations(self) -> set[bytes]:
        """The operations that the violation names."""
        told = self.result.violation
        known = {operation for _, operation in self.world.recorder.submitted}
        return {operation for operation in known if repr(operation[:40]) in told}

    # ------------------------------------------------------------------------------------------ the parts

    def text(self, lines: int | None) -> str:
        """The whole story."""
        head, tail = self._head(), self._tail()
        self._faults()
        self._events()
        self._messages()
        room = None if lines is None else max(12, lines - len(head) - len(tail))
        return "\n".join((*head, "", *self._chosen(room), "", *tail))

    def _head(self) -> list[str]:
        plan, load = self.plan, self.plan.load
        group = plan.group
        record = load_protocol(plan.protocol).record
        head = [
            f"{record.title}: {counted(group.members, 'member')} ({', '.join(group.names)}), f = {group.f}"
            + (f", c = {group.c}" if group.c else "")
            + f"; {counted(load.clients, 'client')} with {counted(load.operations, 'operation')} together; "
            f"seed {plan.seed}."
        ]
        network = plan.network
        if network.loss or network.duplication or network.straggling:
            head.append(
                f"The links lose {network.loss:.0%}, double {network.duplication:.0%} and hold up "
                f"{network.straggling:.0%} of the frames."
            )
        for fault in plan.faults:
            lying = fault.lying()
            if lying:
                head.append(f"{', '.join(lying)} counts as Byzantine: {fault.tell()}.")
            if isinstance(fault, Partition) and plan.faults.index(fault) < SIDES_MAX:
                head += [f"Side {number}: {', '.join(side) or 'nobody'}." for number, side in enumerate(fault.sides, 1)]
            if isinstance(fault, LyingClient | ClientDies):
                head.append(f"{fault.tell()[:1].upper()}{fault.tell()[1:]}.")
        if self.slots:
            head.append(f"This is about slot {' and slot '.join(map(str, self.slots))}:")
            for name in self.digests:
                content = self.wording.batch(name)
                head.append(f"  batch {short(name)} = [{content or 'its bytes never travelled'}]")
        return head

    def _add(self, at_us: int, text: str, weight: int, who: str = "") -> None:
        if who:
            for line in reversed(self._lines[-_TOGETHER:]):
                if line.text == text and line.who and at_us - line.at_us <= TOGETHER_US:
                    if who not in line.who:
                        line.who.append(who)
                    return
        self._lines.append(_Line(at_us, len(self._lines), text, weight, [who] if who else []))

    def _faults(self) -> None:
        for fault in self.plan.faults:
            if fault.at <= min(self.plan.ticks, self.result.ticks):
                kind = "TWINS" if isinstance(fault, Twin) else "FAULT"
                self._add(fault.at * 1000, f"{kind}: {fault.tell()}", 0)
        if self.result.ticks >= self.plan.ticks:
            self._add(self.plan.ticks * 1000, "everything heals, and whoever is down comes back", 1)

    def _events(self) -> None:
        liars = self.world.recorder.exempt
        for one in self.world.happened:
            weight = self._weight(one, liars)
            if weight is None:
                continue
            text = one.text
            if one.kind == DECIDED:
                text = f"EXECUTES slot {one.slot} = {short(one.digest)}"
            elif one.kind == TOLD:
                text += f": {operation_words(one.operation)}"
            elif one.kind == ASKED:
                text = f"asks: {text}"
            self._add(one.at_us, text, weight, one.who)

    def _weight(self, one: Happened, liars: set[str]) -> int | None:
        if one.kind == DECIDED:
            return 0 if one.slot in self.slots else None
        if one.kind in (CRASH, RETURN):
            return 1
        if one.kind == STEP:
            return (
                1 if one.text[:1].isupper() or one.text.startswith(("refuses", "signs", "halts", "has a hand")) else 3
            )
        if one.kind == VIEW:
            return 4 if one.who.rstrip("'") in liars else 2
        concerned = any(part in one.operation for part in self._concerned)
        if one.kind == TOLD:
            return 1 if concerned or one.slot in self.slots else None
        if one.kind == ASKED:
            return 3 if concerned else None
        if one.kind == ANSWERED:
            # The answers to what is in doubt, where the violation is what clients were told.
            matters = bool(self._keys) or concerned or one.slot in self.slots
            return 4 if matters and self.result.oracle in ("linearizability", "durability") else None
        return None if one.kind == NOTE and one.text.startswith(REPEATED_IN_FAULTS) else 1

    def _messages(self) -> None:
        """Everything that was said of the slots that this is about, equal words together."""
        wanted = set(self.slots)
        if not wanted and self.result.oracle not in ("", "progress", "linearizability"):
            self._last_messages()
        spoken: dict[tuple[str, str], list[Said]] = {}
        for said in self.world.said:
            read = self.wording.read(said.frame)
            named = [name for name in self.digests if name in said.frame]
            if not wanted or not (read.slots & wanted or named) or read.name in ("Bundle", "BatchBytes"):
                continue
            text = self._cut_down(read.text)
            if read.name not in ("garbage",) and len(read.slots) > 1 and named:
                text = f"{text} (speaks of {', '.join(short(name) for name in named)})"
            spoken.setdefault((said.sender, text), []).append(said)
        for (sender, text), times in spoken.items():
            self._spoken(sender, text, times)

    def _last_messages(self) -> None:
        """Nothing says what matters: the last that members said, to those whom the violation names if it does."""
        named = [name for name in self.world.members if re.search(rf"\b{name}\b", self.result.violation)]
        last: list[Said] = []
        for said in reversed(self.world.said):
            if not named or said.sender in named or any(name in said.receivers for name in named):
                last.append(said)
                if len(last) == BEFORE:
                    break
        for said in reversed(last):
            self._spoken(said.sender, self._cut_down(self.wording.read(said.frame).text), [said])

    def _spoken(self, sender: str, text: str, times: list[Said]) -> None:
        first = times[0]
        near = [said for said in times if said.at_us - first.at_us < QUIET_US]
        heard: dict[str, int] = {}
        receivers: dict[str, None] = {}
        for said in near:
            receivers.update(dict.fromkeys(said.receivers))
            for member, at in sorted(said.heard.items()):
                heard.setdefault(member, at)
        reached = [f"{name} at {at / 1000:.1f}" for name, at in sorted(heard.items(), key=lambda pair: pair[1])]
        missed = [name for name in receivers if name not in heard]
        line = f"{sender} → {', '.join(receivers) or 'nobody'}: {text}"
        line += f"; heard by {', '.join(reached)}" if reached else "; heard by nobody" if receivers else ""
        if missed and reached:
            line += f", not by {', '.join(missed)}"
        rest = len(times) - len(near)
        if rest:
            line += f"; said again {rest} times later"
        channel = text.startswith(("(channel)", "Status"))
        self._add(first.at_us, line, 5 if channel else 3 if reached else 4)

    def _cut_down(self, text: str) -> str:
        return text if len(text) <= 220 else f"{text[:217]}…"

    # ------------------------------------------------------------------------------------------ choosing

    def _chosen(self, room: int | None) -> list[str]:
        lines = sorted(self._lines)
        if room is not None:
            for weight in (5, 4, 3, 2, 1):
                if len(lines) <= room:
                    break
                over = len(lines) - room
                of_weight = [line for line in lines if line.weight == weight]
                # What is in the middle is missed least.
                begin = max(0, (len(of_weight) - over) // 2)
                gone = {line.number for line in of_weight[begin : begin + over]}
                lines = [line for line in lines if line.number not in gone]
        told: list[str] = []
        last = 0
        for line in lines:
            quiet = self._between(last, line.at_us)
            if quiet:
                told.append(quiet)
            told.append(str(line))
            last = line.at_us
        end = self._between(last, self.world.now_us)
        return [*told, *([end] if end else [])]

    def _between(self, begin: int, end: int) -> str:
        if end - begin < QUIET_US:
            return ""
        frames = sum(begin < said.at_us < end for said in self.world.said)
        slots = sorted({one.slot for one in self.world.happened if one.kind == DECIDED and begin < one.at_us < end})
        done = (
            f"slots {slots[0]} to {slots[-1]} executed"
            if len(slots) > 1
            else f"slot {slots[0]} executed"
            if slots
            else ""
        )
        return f"        …  {counted(frames, 'frame')}, {done or 'no slot executed'}, {(end - begin) / 1_000_000:.1f} s"

    # ------------------------------------------------------------------------------------------ the end

    def _tail(self) -> list[str]:
        told = self._lies()
        if self.result.ok:
            return [*told, f"The run ends well after {self.result.ticks} ms: no checker has anything to say."]
        words = (
            CONTRADICTION
            if "contradicts itself" in self.result.violation
            else IN_WORDS.get(self.result.oracle, "something that must always hold does not hold")
        )
        about = f" (slot {', slot '.join(map(str, self.slots))})" if self.slots else ""
        told.append(f"VIOLATION of {self.result.oracle} at {self.world.now_us / 1000:.1f} ms: {words}{about}.")
        first, *more = self._finding()
        told += [f"  The checker says: {first}", *(f"  {line}" for line in more)]
        if self.slots:
            told += self._facts()
        if not self.slots or self.result.oracle == "progress":
            told += self._waiting()
        if self.result.oracle == "progress":
            told += self._lately()
        return told

    def _finding(self) -> list[str]:
        """What the checker said: all lines of one finding, or of several the first that is short enough to be read."""
        first, *more = self.result.violation.splitlines() or [""]
        if more:
            if len(more) > FINDING_LINES:  # what it is about stands at the top, what broke it at the bottom
                half = FINDING_LINES // 2
                more = [*more[:half], f"    … {len(more) - 2 * half} lines left out …", *more[-half:]]
            return [first, *(f"  {line}" for line in more)]
        findings = re.split(r"; (?=[a-z-]+: )", first)
        return [min(findings, key=lambda text: (len(text) > FINDING_MAX, findings.index(text)))[:FINDING_MAX]]

    def _lies(self) -> list[str]:
        told: list[str] = []
        for name, host in self.world.hosts.items():
            adversary = host.adversary
            if adversary is None:
                continue
            status: object = adversary.status().get("adversary", adversary.status())
            words = (
                ", ".join(f"{key} {value}" for key, value in cast("dict[str, object]", status).items())
                if isinstance(status, dict)
                else str(status)
            )
            told.append(f"{name} says of its lies: {words[:200]}")
            mutations = cast("list[str]", getattr(adversary, "mutations", []))
            concerned = [text for text in mutations if any(f"slot {slot}" in text for slot in self.slots)]
            told += [f"  lied: {text[:160]}" for text in (concerned or mutations[-3:])[:5]]
        return told

    def _facts(self) -> list[str]:
        """What contradicts what: who executed which batch in each slot, and what it had heard for it."""
        told: list[str] = []
        for slot in self.slots:
            by_batch: dict[bytes, dict[str, int]] = {}
            for one in self.world.happened:
                if one.kind == DECIDED and one.slot == slot:
                    by_batch.setdefault(one.digest, {}).setdefault(one.who, one.at_us)
            told += self._contradictions(slot)
            if not by_batch:
                told.append(f"  slot {slot}: executed by nobody")
            for name, who in by_batch.items():
                members = ", ".join(f"{member} at {at / 1000:.1f}" for member, at in who.items())
                told.append(f"  slot {slot} is {short(name)} [{self.wording.batch(name)}] for {members}")
                member, at = min(who.items(), key=lambda pair: pair[1])
                told.append(f"      {member} had heard: {self._heard(member, slot, name, at)}")
        return told

    def _contradictions(self, slot: int) -> list[str]:
        """Whoever said the same of two batches."""
        spoken: dict[tuple[str, str], dict[bytes, int]] = {}
        for said in self.world.said:
            read = self.wording.read(said.frame)
            if read.digest is not None and tuple(read.slots) == (slot,):
                statement = read.text.replace(short(read.digest), "…").removesuffix(" + batch")
                spoken.setdefault((said.sender, statement), {}).setdefault(read.digest, said.at_us)
        told: list[str] = []
        for (sender, statement), names in spoken.items():
            if len(names) > 1:
                both = " and ".join(f"{short(name)} at {at / 1000:.1f}" for name, at in names.items())
                told.append(f"  {sender} said {statement} = {both}")
        return told

    def _heard(self, member: str, slot: int, name: bytes, until: int) -> str:
        votes: dict[str, dict[str, None]] = {}
        for said in self.world.said:
            read = self.wording.read(said.frame)
            if slot in read.slots and name in said.frame and read.name != "Reply":
                at = said.heard.get(member.rstrip("'"))
                if (at is not None and at <= until) or (said.sender == member and said.at_us <= until):
                    votes.setdefault(read.name, {})[said.sender] = None
        return "; ".join(f"{kind} of {', '.join(senders)}" for kind, senders in votes.items()) or "nothing of it"

    def _waiting(self) -> list[str]:
        """Who waits for what."""
        world = self.world
        told = ["In the end:"]
        cut = {f"{sender}→{receiver}" for sender, receiver in world.links.cut}
        for name, host in world.hosts.items():
            replica = host.replica
            if replica is None:
                told.append(f"  {name} is down{f': {host.broken_disk}' if host.broken_disk else ''}")
                continue
            standing = standing_of(replica)
            parts = [
                *([f"epoch {standing.configuration.epoch} of {standing.configuration.protocol}"] if standing else ()),
                f"{'round' if replica.proposer.everybody else 'view'} {replica.machine.view}",
                "everybody proposes" if replica.proposer.everybody else f"led by {replica.machine.leader or 'nobody'}",
                f"executed up to slot {replica.applied}",
                f"checkpoint at {replica.checkpoints.stable}",
            ]
            if len(replica.pool):
                parts.append(f"{counted(len(replica.pool), 'bundle')} waiting")
            if replica.machine.room:
                parts.append("would take proposals")
            if replica.wedged:
                parts.append("has left its protocol by force")
            elif standing is not None and standing.takes_part and not standing.active:
                parts.append("waits until enough members hold the state that the epoch begins with")
            if standing is not None and standing.pending is not None:
                parts.append(f"{'committed' if standing.boundary else 'prepared'}: {command_words(standing.pending)}")
            if replica.silent:
                parts.append("silent, since it forgot what it had said")
            if replica.catchup.transfer is not None:
                parts.append("fetching the state")
            if host.paused:
                parts.append("standing still")
            if host.waits_for_space:
                parts.append("waiting for space on its disk")
            if host.halted:
                parts.append(f"halted: {host.halted}")
            if name in world.recorder.exempt:
                parts.append("not counted as correct")
            told.append(f"  {name}: {', '.join(parts)}")
        for name, actor in world.actors.items():
            if actor.outstanding:
                asked = [operation_words(asked.ask.operation) for asked in actor.pending.values()]
                told.append(f"  {name} waits for {counted(actor.outstanding, 'answer')}: {'; '.join(asked[:3])}")
        if cut:
            told.append(f"  cut: {', '.join(sorted(cut))}")
        return told

    def _lately(self) -> list[str]:
        """What was said in the end, and was of no use."""
        world = self.world
        told: list[str] = []
        since = world.now_us - LAST_US
        counts: Counter[tuple[str, str]] = Counter()
        lately: dict[tuple[str, str], str] = {}
        for said in world.said:
            if said.at_us >= since:
                read = self.wording.read(said.frame)
                counts[said.sender, read.name] += 1
                lately[said.sender, read.name] = read.text
        told.append(f"Said in the last {LAST_US // 1_000_000} s:{'' if counts else ' nothing'}")
        for (sender, name), count in sorted(counts.items(), key=lambda pair: (pair[0][0], -pair[1]))[:12]:
            told.append(f"  {sender}: {count} × {name}, at last {lately[sender, name][:120]}")
        return told
