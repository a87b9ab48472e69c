"""How long service pauses when a real group changes its protocol under load.

    python simulations/switch_pauses.py [--planned 100] [--forced 20] [--clients 32]

Four processes on loopback, with real disks and default settings, serve clients that ask for one thing after the other.

**Planned** changes go from every protocol to every other one in turn. Told of each: the pause, from the last decision
of the old epoch to the first one of the new (each member measures it; the median of members counts), and how many
times the median batch latency of the slower of both protocols that is. Batch latency is what a client waits for one
operation when nothing is changing, median of the same run: it travels in a bundle and a batch of its own or with
those of the other clients.

**Forced** changes leave PBFT and Paxos whose leader was stopped, and a coordinator that was killed. Told of each: the
time from the order to the first decision of the new epoch, on the members' clocks.

Prints a table, or one JSON object a line with --json. Exit code 0: the median of these ratios is no more than
--most-ratio, and no forced change took more than --most-forced ms. 1: that did not hold. 11: a change was not carried
out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from bftkit.channel.client import CommandState
from bftkit.channel.frames import DONE
from bftkit.cli import main as bftkit
from bftkit.client import AsyncClient, ClientError
from bftkit.client.aio import driving
from bftkit.client.connect import open_core
from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.membership.commands import sign_command
from bftkit.membership.wishes import Wish, foresee
from bftkit.node.folders import read_key
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue

TIMEOUT: Final = 60.0
LOOK_SECONDS: Final = 0.1
TOUR: Final = (
    *("coordinator", "paxos", "pbft", "cks", "coordinator", "pbft"),
    *("paxos", "cks", "pbft", "coordinator", "cks", "paxos"),
)
"""From every protocol to every other one, once; then from the beginning."""


class NotDone(Exception):
    """A change was not carried out."""


@attrs.frozen
class Planned:
    """One planned change."""

    before: str
    after: str
    pause_ms: float
    ready_ms: float


@attrs.frozen
class Forced:
    """One forced change."""

    before: str
    after: str
    how: str
    taken_ms: float


@attrs.define
class Clients:
    """What clients waited for single operations, by when they asked."""

    waits: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    """(asked, answered)"""
    unknown: int = 0

    async def work(self, number: int, client: AsyncClient) -> None:
        """Ask for one thing after the other, for ever."""
        for count in itertools.count():
            asked = time.monotonic()
            try:
                await client.submit(keyvalue.put(b"k%d" % number, b"%d" % count), timeout=TIMEOUT)
            except ClientError:
                self.unknown += 1
                continue
            self.waits.append((asked, time.monotonic()))

    def within(self, begin: float, end: float) -> list[float]:
        """What was asked and answered in this span, in milliseconds."""
        return [1000 * (answered - asked) for asked, answered in self.waits if asked >= begin and answered <= end]


@attrs.define(eq=False)
class Run:
    """A group, its clients, and what was measured."""

    group: ProcessGroup
    options: argparse.Namespace
    clients: Clients = attrs.field(factory=Clients)
    planned: list[Planned] = attrs.field(factory=list[Planned])
    forced: list[Forced] = attrs.field(factory=list[Forced])
    latencies: dict[str, list[float]] = attrs.field(factory=dict[str, list[float]])

    async def everything(self) -> None:
        """All changes. Raises `NotDone`."""
        async with contextlib.AsyncExitStack() as stack:
            monitor = await stack.enter_async_context(self._client())
            workers = [await stack.enter_async_context(self._client()) for _ in range(self.options.clients)]
            async with trio.open_nursery() as nursery:
                for number, worker in enumerate(workers):
                    nursery.start_soon(self.clients.work, number, worker)
                await self._plan(monitor)
                await self._force(monitor)
                nursery.cancel_scope.cancel()

    def _client(self) -> contextlib.AbstractAsyncContextManager[AsyncClient]:
        return driving(open_core(self.group.genesis, os.urandom(32)))

    async def _plan(self, monitor: AsyncClient) -> None:
        stops = itertools.islice(itertools.cycle(TOUR), 1, self.options.planned + 1)
        for after in stops:
            before = monitor.configuration.protocol
            steady = time.monotonic()
            await trio.sleep(self.options.between)
            self.latencies.setdefault(before, []).extend(self.clients.within(steady, time.monotonic()))
            await self._change(monitor, Wish(after))
            told = await self._told(monitor)
            pause, ready = _median(told, "pause_ms"), _median(told, "ready_ms")
            self.planned.append(Planned(before, after, pause, ready))
            print(f"{len(self.planned):4} {before} -> {after}: {pause:.1f} ms", file=sys.stderr)

    async def _force(self, monitor: AsyncClient) -> None:
        while len(self.forced) < self.options.forced:
            if monitor.configuration.protocol != "pbft":
                await self._change(monitor, Wish("pbft"))
            await self._leave(monitor, "cks", kill=False)
            await self._change(monitor, Wish("paxos"))
            await self._leave(monitor, "coordinator", kill=False)
            await self._leave(monitor, "paxos", kill=True)

    async def _leave(self, monitor: AsyncClient, after: str, *, kill: bool) -> None:
        """Stop who leads, and leave the protocol by force."""
        if len(self.forced) >= self.options.forced:
            return
        await trio.sleep(self.options.between)
        before, members = monitor.configuration.protocol, monitor.configuration.members
        leader = await self._leader(monitor)
        if kill:
            self.group.kill(leader)
        else:
            self.group.freeze(leader)
        await trio.sleep(self.options.between)
        settings: dict[str, int] = {}
        if after == "coordinator":
            settings["coordinator"] = next(index for index, member in enumerate(members) if member != leader)
        ordered = time.time()
        try:
            await self._change(monitor, Wish(after, settings=settings, forced=True))
            first = await self._first_decision(monitor, leader)
        finally:
            if not kill:
                self.group.thaw(leader)
        if kill:
            self.group.start(leader)
            await trio.to_thread.run_sync(self.group.wait_ready, leader)
        how = f"leader {'killed' if kill else 'stopped'}"
        self.forced.append(Forced(before, after, how, 1000 * (first - ordered)))
        print(f"{len(self.forced):4} {before} -> {after}, {how}: {self.forced[-1].taken_ms:.0f} ms", file=sys.stderr)
        await self._all_in(monitor)

    # ------------------------------------------------------------------------------------------ one change

    async def _change(self, monitor: AsyncClient, wish: Wish) -> None:
        """Sign the command, send it, and wait until it is carried out. Raises `NotDone`."""
        here = await monitor.settle(timeout=TIMEOUT)
        schedule = self.group.genesis.schedule
        assert schedule is not None
        assert wish.protocol is not None
        present, wished = load_protocol(here.protocol).record, load_protocol(wish.protocol).record
        group, nonce = self.group.genesis.group_id, os.urandom(16)
        prospect = foresee(here, schedule, wish, present, wished, group=group, nonce=nonce)
        operator = read_key(self.group.directory / "operator" / "operator.key", "operator").signing_key
        last: CommandState | None = None
        async for state in monitor.order(sign_command(prospect.command, operator), timeout=TIMEOUT):
            last = state
        if last is None or last.state != DONE:
            raise NotDone(f"{here.protocol} -> {wish.protocol}: {last.text if last is not None else 'no answer'}")
        with trio.fail_after(TIMEOUT):
            while monitor.epoch <= here.epoch:  # members may say so before they show it
                await trio.sleep(0.01)

    async def _told(self, monitor: AsyncClient) -> list[Mapping[str, Any]]:
        """What enough members measured of the change to the present epoch. Raises `NotDone`."""
        found: dict[MemberId, Mapping[str, Any]] = {}
        with trio.move_on_after(TIMEOUT):
            while len(found) < len(monitor.configuration.members):
                for member, status in (await monitor.status(timeout=LOOK_SECONDS)).items():
                    told: Mapping[str, Any] = status.get("switch") or {}
                    if told.get("epoch") == monitor.epoch and told.get("pause_ms") is not None:
                        found[member] = told
                if len(found) >= monitor.configuration.quorum.available:
                    break  # one that fetched its state measures nothing
        if not found:
            raise NotDone(f"nobody has measured the change to epoch {monitor.epoch}")
        return list(found.values())

    async def _first_decision(self, monitor: AsyncClient, away: MemberId) -> float:
        """When the new epoch's first decision was made, by the clock: the median of members. Raises `NotDone`."""
        found: dict[MemberId, float] = {}
        wanted = [member for member in monitor.configuration.members if member != away]
        with trio.move_on_after(TIMEOUT):
            while len(found) < len(wanted):
                for member, status in (await monitor.status(timeout=LOOK_SECONDS)).items():
                    for event in status.get("events", ()):
                        if event["event"] == "resumed" and event["epoch"] == monitor.epoch:
                            found[member] = event["time_ms"] / 1000
        if not found:
            raise NotDone(f"nobody has seen a decision in epoch {monitor.epoch}")
        return statistics.median(found.values())

    async def _leader(self, monitor: AsyncClient) -> MemberId:
        """Whom all members take for the leader."""
        while True:
            statuses = await monitor.status(timeout=1.0)
            leaders = {status.get("leader") for status in statuses.values()}
            if len(statuses) == len(monitor.configuration.members) and len(leaders) == 1:
                (leader,) = leaders
                if leader is not None:
                    return str(leader)
            await trio.sleep(LOOK_SECONDS)

    async def _all_in(self, monitor: AsyncClient) -> None:
        """Until the member that was away is in the present epoch, too."""
        with trio.move_on_after(TIMEOUT):
            while True:
                statuses = await monitor.status(timeout=1.0)
                epochs = [status["epoch"] for status in statuses.values()]
                if epochs == [monitor.epoch] * len(monitor.configuration.members):
                    return
                await trio.sleep(LOOK_SECONDS)
        raise NotDone(f"a member that was away did not come to epoch {monitor.epoch}")


def _median(told: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median([float(one[name]) for one in told if one.get(name) is not None] or [0.0])


# ------------------------------------------------------------------------------------------------- telling


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p90 and the most."""
    found = sorted(values)
    if not found:
        return {}
    return {
        "p50": round(statistics.median(found), 2),
        "p90": round(found[min(len(found) - 1, int(len(found) * 0.9))], 2),
        "max": round(found[-1], 2),
    }


def lines_of(run: Run) -> list[dict[str, Any]]:
    """What was measured, as lines."""
    latency = {name: statistics.median(values) for name, values in sorted(run.latencies.items()) if values}
    ratios = {id(one): one.pause_ms / max(latency[one.before], latency[one.after]) for one in run.planned}
    lines: list[dict[str, Any]] = [
        {"event": "latency", "protocol": name, "median_ms": round(value, 2), "operations": len(run.latencies[name])}
        for name, value in latency.items()
    ]
    for before, after in sorted({(one.before, one.after) for one in run.planned}):
        mine = [one for one in run.planned if (one.before, one.after) == (before, after)]
        lines.append(
            {
                "event": "planned",
                "from": before,
                "to": after,
                "changes": len(mine),
                "pause_ms": spread([one.pause_ms for one in mine]),
                "ready_ms": spread([one.ready_ms for one in mine]),
                "ratio": spread([ratios[id(one)] for one in mine]),
            }
        )
    for before, after, how in sorted({(one.before, one.after, one.how) for one in run.forced}):
        taken = [one.taken_ms for one in run.forced if (one.before, one.after, one.how) == (before, after, how)]
        words = {"from": before, "to": after, "how": how, "changes": len(taken)}
        lines.append({"event": "forced", **words, "taken_ms": spread(taken)})
    lines.append(
        {
            "event": "result",
            "planned": len(run.planned),
            "pause_ms": spread([one.pause_ms for one in run.planned]),
            "ratio": spread(list(ratios.values())),
            "forced": len(run.forced),
            "taken_ms": spread([one.taken_ms for one in run.forced]),
            "unknown": run.clients.unknown,
        }
    )
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The same, to be read."""

    def cells(values: Mapping[str, float], digits: int = 0) -> str:
        return " / ".join(f"{values[name]:.{digits}f}" for name in ("p50", "p90", "max")) if values else "-"

    told = ["| protocol | median batch latency ms | operations |", "|---|---|---|"]
    for line in (line for line in lines if line["event"] == "latency"):
        told.append(f"| {line['protocol']} | {line['median_ms']:.0f} | {line['operations']:,} |")
    told += ["", "| planned | changes | ready ms p50 / p90 / max | pause ms | pause / slower batch |"]
    told.append("|---|---|---|---|---|")
    for line in (line for line in lines if line["event"] == "planned"):
        told.append(
            f"| {line['from']} → {line['to']} | {line['changes']} | {cells(line['ready_ms'])} | "
            f"{cells(line['pause_ms'])} | {cells(line['ratio'], 1)} |"
        )
    result = lines[-1]
    told.append(f"| all | {result['planned']} | | {cells(result['pause_ms'])} | {cells(result['ratio'], 1)} |")
    told += ["", "| forced | changes | order to first decision ms p50 / p90 / max |", "|---|---|---|"]
    for line in (line for line in lines if line["event"] == "forced"):
        told.append(f"| {line['from']} → {line['to']}, {line['how']} | {line['changes']} | {cells(line['taken_ms'])} |")
    told.append(f"| all | {result['forced']} | {cells(result['taken_ms'])} |")
    return "\n".join(told)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planned", type=int, default=100)
    parser.add_argument("--forced", type=int, default=20)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--between", type=float, default=1.0, help="seconds of load before each change")
    parser.add_argument("--durability", choices=("fsync", "async", "memory"), default="fsync")
    parser.add_argument("--most-ratio", type=float, default=5.0, help="what the median pause may be")
    parser.add_argument("--most-forced", type=float, default=2000.0, help="milliseconds that a forced one may take")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bftkit-switch-pauses-") as directory:
        folder = Path(directory) / "group"
        with contextlib.redirect_stdout(sys.stderr):
            code = bftkit(
                ["init", str(folder), "--members", "4", "--protocol", TOUR[0], "--durability", options.durability]
            )
        if code:
            return code
        group = ProcessGroup(folder)
        run = Run(group, options)
        try:
            group.start_all()
            trio.run(run.everything)
        except NotDone as error:
            print(error, file=sys.stderr)
            return 11
        finally:
            group.stop()
    lines = lines_of(run)
    result = lines[-1]
    ratio, taken = result["ratio"].get("p50", 0.0), result["taken_ms"].get("max", 0.0)
    result["ok"] = ratio <= options.most_ratio and taken <= options.most_forced
    print("\n".join(map(json.dumps, lines)) if options.json else table(lines))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
