"""Crashes at every step of a change, enumerated: each member at each of its steps, and all members at once.

    python simulations/crash_steps.py --from paxos --to pbft --how planned
    python simulations/crash_steps.py --jobs 2                  # every pair, planned and by force: two CPU hours
    python simulations/crash_steps.py --stride 10               # every tenth step of every pair

A simulated group under load is ordered to change: from each protocol to each other one and to other parameters of its
own, as planned and, where f and c allow, by force. A first run without a crash counts the *steps* of each member from
the order until every member has entered the next epoch, executed in it and made its state durable. A step is whatever
of a member outlives it or is seen by others: an operation on its disk (write, sync, create, rename, remove, a saved
state, a hand-over's or a secret's file, the erasing of keys), or the frames of a round that leave. Between two steps a
member does nothing that a crash could tell apart, so these are all points at which it can die.

Then, for each member and each of its steps, the power of its machine fails right before the step; and, for each
operation on each disk, the power of all machines does. What was written and not synced is lost or torn. The power is
back after --away ms, load goes on, and at the end everything must be well: all checkers of a simulated world are on,
every operation is answered, every member is in the new epoch under the protocol that was ordered.

The run up to a step is the same whatever happens then. So the first run forks where a crash is to be, and the copy
crashes; a whole run from the plan that is printed for a failure does the same (`bftkit replay`).

Prints a table, or one JSON object a line with --json. Exit code 0: every run ended well. 10: one did not. 2: there is
no such pair.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import attrs

from bftkit.sim.checkers import Violation
from bftkit.sim.faults import Fault
from bftkit.sim.faults.changes import CutBeforeStep, Switch, cut
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.running import again, build
from bftkit.sim.world import World

PLANNED: Final = "planned"
FORCED: Final = "forced"
CRASH_ONLY: Final = ("coordinator", "paxos")
LIARS_TOO: Final = ("pbft", "cks")
PARAMETERS: Final = {
    "coordinator": {"pipeline": 16},
    "paxos": {"pipeline": 16},
    "pbft": {"view_timeout": 900},
    "cks": {"status_ticks": 150},
}
"""What a change to the same protocol changes."""
ORDERED_AT: Final = 60
"""Ticks after the start."""
TICKS: Final = 500
"""So long there is load. Without a crash the change is over before."""
SECONDS_MAX: Final = 120
"""CPU time of one run. Usual are some tenths of a second."""
SEND: Final = "send"
TEXT_MAX: Final = 1200


class NoSuchPair(ValueError):
    """There is no change from the one to the other in this way."""


# ------------------------------------------------------------------------------------------------- what is run


@attrs.frozen
class Case:
    """One change."""

    before: str
    after: str
    how: str

    @property
    def group(self) -> Group:
        """The smallest group that both bear one fault in."""
        if self.before in LIARS_TOO:
            return Group(members=4, f=1, c=0)
        return Group(members=4 if self.after in LIARS_TOO else 3, f=0, c=1)

    @property
    def switch(self) -> Switch:
        """What operators order."""
        bears = () if self.how == FORCED else ((1, 0) if self.after in LIARS_TOO else (0, 1))
        parameters = PARAMETERS[self.after] if self.after == self.before else {}
        forced = self.how == FORCED
        return Switch(at=ORDERED_AT, protocol=self.after, forced=forced, bears=bears, parameters=parameters)

    def plan(self, seed: int, *faults: Fault) -> Plan:
        """The change under load, with these faults."""
        return Plan(
            protocol=self.before,
            seed=seed,
            group=self.group,
            reconfigurable=True,
            network=Network(delay_max=3),
            load=Load(clients=2, operations=40, bursts=10, keys=2, pipeline=2, poison=0.0),
            interval=4,
            window=16,
            ticks=TICKS,
            faults=(*faults, self.switch),
        )

    def __str__(self) -> str:
        return f"{self.before} > {self.after}"


def cases(before: Sequence[str], after: Sequence[str], how: Sequence[str]) -> list[Case]:
    """All changes between these. Raises `NoSuchPair` if there is none."""
    found = [
        Case(one, other, way) for way in how for one in before for other in after if way == PLANNED or can(one, other)
    ]
    if not found:
        raise NoSuchPair(
            "a change by force keeps f, c and the coin key: from pbft and cks (f = 1) to these, from coordinator and "
            "paxos (f = 0, no coin key) to all but cks"
        )
    return found


def can(before: str, after: str) -> bool:
    """Whether a group can leave this protocol by force for that one."""
    return before in LIARS_TOO if after == "cks" else after in LIARS_TOO or before in CRASH_ONLY


@attrs.frozen
class Crash:
    """Who loses power, and when."""

    member: str
    step: int
    """Right before this one of the member, from 1."""
    what: str
    """What that step is."""
    everybody: bool

    def fault(self, ticks: int) -> CutBeforeStep:
        """The same, as a part of a plan."""
        return CutBeforeStep(at=ORDERED_AT, who=self.member, step=self.step, ticks=ticks, everybody=self.everybody)


# ------------------------------------------------------------------------------------------------- one change


@attrs.define
class Enumeration:
    """All crashes of one change. See `run`."""

    case: Case
    seed: int
    away: int
    jobs: int
    stride: int
    members: Sequence[str]
    modes: Sequence[bool]
    """Whether everybody loses power, or one."""
    tell: Callable[[dict[str, Any]], None]
    steps: Counter[str] = attrs.field(factory=Counter[str])
    """Of each member."""
    operations: int = 0
    """Those on disks."""
    possible: int = 0
    """Crashes that there are."""
    done: Counter[bool] = attrs.field(factory=Counter[bool])
    """Those that were run, of everybody and of one."""
    failures: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    seconds: float = 0.0
    """CPU time."""
    mine: Crash | None = None
    """In a copy: the crash that it is for."""
    _writer: int = -1
    """In a copy: where it says how it ended."""
    _running: dict[int, tuple[Crash, int]] = attrs.field(factory=dict[int, tuple[Crash, int]])

    def run(self) -> None:
        """Count, and run all that was asked for. Raises `Violation` if the run without a crash is not well."""
        began = process_time()
        gc.collect()
        gc.freeze()
        # As the plan with a crash in it has both, at the same place among what happens then.
        world = build(attrs.evolve(self.case.plan(self.seed), faults=()))
        world.after(ORDERED_AT, lambda: self._watch(world))
        world.after(ORDERED_AT, lambda: self.case.switch.inject(world))
        try:
            while self.mine is None and world.now < TICKS and not is_over(world):
                world.run(1)
            if self.mine is None:
                for member in world.hosts:
                    world.watch_steps(member, None)
                if not is_over(world):
                    world.fail(f"{self.case} ({self.case.how}) was not over after {TICKS} ms, without any crash")
            end(self.case, world)
        except Violation as error:
            if self.mine is None:
                raise
            self._say(error.oracle, error.short)
        except BaseException as error:
            if self.mine is None:
                raise
            self._say("exception", f"{type(error).__name__}: {error}")
        if self.mine is not None:
            self._say("", "")
        while self._running:
            self._reap()
        self.seconds += process_time() - began

    def _watch(self, world: World) -> None:
        def looker(member: str) -> Callable[[str], None]:
            return lambda what: self._on_step(world, member, what)

        for member in world.hosts:
            world.watch_steps(member, looker(member))

    def _on_step(self, world: World, member: str, what: str) -> None:
        if self.mine is not None or is_over(world):
            return
        self.steps[member] += 1
        on_disk = what != SEND
        self.operations += on_disk
        for everybody in (False, True):
            if everybody and not on_disk:
                continue  # what leaves is gone with those that it was for
            self.possible += 1
            wanted = everybody in self.modes and member in self.members
            if wanted and (self.steps[member] - 1) % self.stride == 0:
                self._fork(world, Crash(member, self.steps[member], what, everybody))
                if self.mine is not None:
                    cut(world, member, what, self.away, everybody=everybody)

    def _fork(self, world: World, crash: Crash) -> None:
        while len(self._running) >= self.jobs:
            self._reap()
        reader, writer = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child:
            os.close(writer)
            self._running[child] = crash, reader
            return
        os.close(reader)
        self.mine, self._writer = crash, writer
        self._running.clear()
        gc.disable()  # it is short, and whatever the collector touches is copied
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_MAX, SECONDS_MAX + 1))

    def _say(self, oracle: str, text: str) -> None:
        """In a copy: how it ended. Never returns."""
        os.write(self._writer, json.dumps([oracle, text[:TEXT_MAX]]).encode())
        os._exit(0)

    def _reap(self) -> None:
        child, status, usage = os.wait4(-1, 0)
        crash, reader = self._running.pop(child)
        said = os.read(reader, 1 << 16)
        os.close(reader)
        self.done[crash.everybody] += 1
        self.seconds += usage.ru_utime + usage.ru_stime
        oracle, text = json.loads(said) if said else ("ends", f"the run ended with status {status} and no word")
        if oracle:
            plan = self.case.plan(self.seed, crash.fault(self.away))
            failure = {
                "event": "failure",
                "before": self.case.before,
                "after": self.case.after,
                "how": self.case.how,
                **attrs.asdict(crash),
                "oracle": oracle,
                "violation": text,
                "again": again(plan),
            }
            self.failures.append(failure)
            self.tell(failure)

    def as_json(self) -> dict[str, Any]:
        """One line of the output."""
        return {
            "event": "change",
            "before": self.case.before,
            "after": self.case.after,
            "how": self.case.how,
            "members": len(self.steps),
            "steps": sum(self.steps.values()),
            "disk_operations": self.operations,
            "crashes": self.possible,
            "run": sum(self.done.values()),
            "failed": len(self.failures),
            "cpu_seconds": round(self.seconds, 1),
        }


def is_over(world: World) -> bool:
    """Whether every member is in the next epoch, has executed in it, and holds the hand-over in a file of its own."""
    if world.chain.now.epoch < 1:
        return False
    for host in world.hosts.values():
        replica = host.replica
        if replica is None or replica.settings.epoch < 1:
            return False
        part = replica.succession_part
        opened_by = part.opened_by
        if opened_by is None or not part.active or replica.applied <= opened_by.ending.slot:
            return False
        if 0 not in host.disk.links:
            return False
    return True


def end(case: Case, world: World) -> None:
    """Load goes on, all is healed, and the change must be made. Raises `Violation`."""
    world.run(TICKS - world.now)
    world.finish()
    era = world.chain.now
    protocol = era.settings.plugin.record.name
    if era.epoch != 1 or protocol != case.after:
        world.fail(f"the group is in epoch {era.epoch} under {protocol}, not in epoch 1 under {case.after}")
    wanted = case.switch.parameters
    if any(era.settings.parameters.get(name) != value for name, value in wanted.items()):
        world.fail(f"the parameters are {era.settings.parameters}, not {wanted}")


# ------------------------------------------------------------------------------------------------- the command


def tell_failure(failure: dict[str, Any]) -> None:
    """For people."""
    who = "all members" if failure["everybody"] else failure["member"]
    print(
        f"FAILED: {failure['before']} > {failure['after']} ({failure['how']}): {who} at step {failure['step']} of "
        f"{failure['member']} ({failure['what']}): {failure['oracle']}: {failure['violation']}\n  {failure['again']}",
        flush=True,
    )


HEAD: Final = ("change", "how", "members", "steps", "on disks", "crashes", "run", "failed", "CPU s")


def row(line: dict[str, Any]) -> str:
    """One change, for people."""
    numbers = (line[name] for name in ("members", "steps", "disk_operations", "crashes", "run", "failed"))
    cells = "".join(f"{number:>10,}" for number in numbers)
    return f"{line['before'] + ' > ' + line['after']:<26}{line['how']:<8}{cells}{line['cpu_seconds']:>9,.1f}"


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = (*CRASH_ONLY, *LIARS_TOO)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="before", choices=names, help="the protocol that is left (default: each)")
    parser.add_argument("--to", dest="after", choices=names, help="the protocol that comes (default: each)")
    parser.add_argument("--how", choices=(PLANNED, FORCED), help="(default: both)")
    parser.add_argument("--member", action="append", help="crash before steps of this one (default: of each)")
    parser.add_argument("--only", choices=("one", "all"), help="who loses power (default: one, and then all)")
    parser.add_argument("--stride", type=int, default=1, help="every so-many-th step (default: each)")
    parser.add_argument("--away", type=int, default=40, help="ms without power (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: the cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line in place of a table")
    arguments = parser.parse_args(words)
    if arguments.stride < 1 or arguments.jobs < 1 or arguments.away < 0:
        parser.error("--stride and --jobs are at least 1, and --away is not negative")
    return arguments


def enumerations(arguments: argparse.Namespace, tell: Callable[[dict[str, Any]], None]) -> Iterator[Enumeration]:
    """All changes that were asked for, each when it was run."""
    names = (*CRASH_ONLY, *LIARS_TOO)
    before = (arguments.before,) if arguments.before else names
    after = (arguments.after,) if arguments.after else names
    for case in cases(before, after, (arguments.how,) if arguments.how else (PLANNED, FORCED)):
        known = case.group.names
        members = [name for name in known if name in arguments.member] if arguments.member else known
        modes = {"one": (False,), "all": (True,), None: (False, True)}[arguments.only]
        one = Enumeration(case, arguments.seed, arguments.away, arguments.jobs, arguments.stride, members, modes, tell)
        one.run()
        yield one


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = arguments_of(words)
    began = perf_counter()

    def tell(line: dict[str, Any]) -> None:
        if arguments.json:
            print(json.dumps(line), flush=True)
        elif line["event"] == "failure":
            tell_failure(line)
        elif line["event"] == "change":
            print(row(line), flush=True)

    if not arguments.json:
        print(f"{HEAD[0]:<26}{HEAD[1]:<8}{''.join(f'{word:>10}' for word in HEAD[2:-1])}{HEAD[-1]:>9}")
    lines: list[dict[str, Any]] = []
    try:
        for one in enumerations(arguments, tell):
            lines.append(one.as_json())
            tell(lines[-1])
    except NoSuchPair as error:
        print(error, file=sys.stderr)
        return 2
    except Violation as error:
        print(f"FAILED, without any crash: {error}", file=sys.stderr)
        return 10
    total = {name: sum(line[name] for line in lines) for name in ("steps", "crashes", "run", "failed", "cpu_seconds")}
    result = {"event": "result", "changes": len(lines), **total, "seconds": round(perf_counter() - began, 1)}
    tell(result)
    if not arguments.json:
        print(
            f"{result['run']:,} of {result['crashes']:,} crashes were run, at {result['steps']:,} steps of "
            f"{len(lines)} changes: {result['failed']:,} failed. {result['cpu_seconds']:,.0f} s of CPU time, "
            f"{result['seconds']:,.0f} s"
        )
    return 10 if result["failed"] else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    raise SystemExit(main())
