"""How long clients wait when the leader of a real group is killed under load.

    python simulations/leader_change.py [--protocol paxos] [--members 3] [--rounds 5] [--durability fsync]

A group of real processes on loopback serves clients that ask for one thing after the other. In each round its leader
gets SIGKILL; it is started again when the others have gone on. Printed are the longest time between two answers
around each kill (any client's answer counts), and the longest time that one client waited for one answer.

Prints a table, or one JSON object a line with --json. Exit code 0: no gap was longer than --most ms. 1: one was.
11: the group stood still.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import attrs
import trio

from bftkit.cli import main as bftkit
from bftkit.client import AsyncClient
from bftkit.client.aio import driving
from bftkit.client.connect import open_core
from bftkit.core.machine import MemberId
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue

BETWEEN_SECONDS = 2.0
AWAY_SECONDS = 1.5


@attrs.define
class Clients:
    """All answers, with their times."""

    answers: list[float] = attrs.field(factory=list[float])
    waits: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    """(when it was asked, how long it took)"""

    async def work(self, number: int, client: AsyncClient) -> None:
        """Ask for one thing after the other, for ever."""
        count = 0
        while True:
            count += 1
            asked = time.monotonic()
            await client.submit(keyvalue.put(b"k%d" % number, b"%d" % count), timeout=60)
            now = time.monotonic()
            self.answers.append(now)
            self.waits.append((asked, now - asked))

    def gap_ms(self, begin: float, end: float) -> float:
        """The longest time between two answers in this span."""
        times = [begin, *sorted(at for at in self.answers if begin <= at <= end), end]
        return 1000 * max(b - a for a, b in pairwise(times))

    def wait_ms(self, begin: float, end: float) -> float:
        """The longest wait for one answer that was asked for in this span."""
        return 1000 * max((took for asked, took in self.waits if begin - 1 <= asked <= end), default=0.0)


async def leader_of(client: AsyncClient, members: int) -> MemberId:
    """Whom all members take for the leader."""
    while True:
        statuses = await client.status(timeout=1.0)
        leaders = {status.get("leader") for status in statuses.values()}
        if len(statuses) == members and len(leaders) == 1:
            (leader,) = leaders
            if leader is not None:
                return str(leader)
        await trio.sleep(0.1)


async def run(group: ProcessGroup, options: argparse.Namespace) -> list[tuple[MemberId, float, float]]:
    """(who was killed, longest gap, longest wait of one client) of each round, in milliseconds."""
    found: list[tuple[MemberId, float, float]] = []
    clients = Clients()
    async with contextlib.AsyncExitStack() as stack:
        monitor = await stack.enter_async_context(driving(open_core(group.genesis, os.urandom(32))))
        workers = [
            await stack.enter_async_context(driving(open_core(group.genesis, os.urandom(32))))
            for _ in range(options.clients)
        ]
        async with trio.open_nursery() as nursery:
            for number, worker in enumerate(workers):
                nursery.start_soon(clients.work, number, worker)
            for _ in range(options.rounds):
                await trio.sleep(BETWEEN_SECONDS)
                leader = await leader_of(monitor, len(group.members))
                killed = time.monotonic()
                group.kill(leader)
                await trio.sleep(AWAY_SECONDS)
                over = time.monotonic()
                found.append((leader, clients.gap_ms(killed, over), clients.wait_ms(killed, over)))
                group.start(leader)
                await trio.to_thread.run_sync(group.wait_ready, leader)
            nursery.cancel_scope.cancel()
    return found


async def bounded(group: ProcessGroup, options: argparse.Namespace) -> list[tuple[MemberId, float, float]]:
    """As `run`; nothing, if it does not end."""
    with trio.move_on_after(options.rounds * 30):
        return await run(group, options)
    return []


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="paxos")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--durability", choices=("fsync", "async", "memory"), default="fsync")
    parser.add_argument("--most", type=float, default=500.0, help="milliseconds that a gap may last")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.durability != "fsync" and options.rounds > 1:
        parser.error("without fsync a killed member stays silent for the rest of the epoch: one round only")
    with tempfile.TemporaryDirectory(prefix="bftkit-leader-change-") as directory:
        folder = Path(directory) / "group"
        words = ["--protocol", options.protocol, "--members", str(options.members), "--durability", options.durability]
        with contextlib.redirect_stdout(sys.stderr):
            code = bftkit(["init", str(folder), *words])
        if code:
            return code
        group = ProcessGroup(folder)
        try:
            group.start_all()
            found = trio.run(bounded, group, options)
        finally:
            group.stop()
    if not found:
        return 11
    longest = max(gap for _, gap, _ in found)
    ok = longest <= options.most
    if options.json:
        for leader, gap, wait in found:
            print(json.dumps({"event": "kill", "member": leader, "gap_ms": round(gap, 1), "wait_ms": round(wait, 1)}))
        fields = {"protocol": options.protocol, "members": options.members, "longest_gap_ms": round(longest, 1)}
        print(json.dumps({"event": "result", **fields, "ok": ok}))
    else:
        for leader, gap, wait in found:
            print(f"{leader} killed: longest gap {gap:6.0f} ms, longest wait of one client {wait:6.0f} ms")
        held = "held" if ok else "NOT HELD"
        print(f"{options.protocol}, {options.members} members: longest gap {longest:.0f} ms; {held}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
