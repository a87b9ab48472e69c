"""SIGKILL at random moments to random members of a real group under load, then a restart; nothing may be lost.

    python simulations/kill_points.py --points 200 --seed 1

At each point one member, several, or all are killed together, wherever they are: serving, starting, recovering,
saving a checkpoint. They are started again at once, and the next point comes as soon as clients were answered again.
At the end all that was acknowledged must be there exactly once, the clients' history must be linearizable, and all
members must have the same state and remember all their promises.

The seed decides who is killed and after how many answers; what the members were doing then is up to the machine.
Prints one JSON object a line; exit code 0 if every promise was kept, 10 if one was broken, 11 if the group stood still.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from bftkit.cli import main as bftkit
from bftkit.cli.demo_load import Load
from bftkit.client import AsyncClient
from bftkit.client.aio import driving
from bftkit.client.connect import open_core
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue

CLIENTS = 4
PATIENCE_SECONDS = 60.0


def tell(event: str, **fields: object) -> None:
    """One line."""
    print(json.dumps({"event": event, **fields}), flush=True)


async def answered(load: Load, more: int) -> None:
    """Until so many more operations were acknowledged. Raises `trio.TooSlowError`."""
    target = load.acknowledged + more
    with trio.fail_after(PATIENCE_SECONDS):
        while load.acknowledged < target:
            await trio.sleep(0.002)


async def campaign(group: ProcessGroup, points: int, draws: random.Random) -> dict[str, Any]:
    """All kill points, one after the other, under load; what was found at the end."""
    load = Load()
    kills = 0
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(driving(open_core(group.genesis, os.urandom(32)))) for _ in range(CLIENTS)
        ]
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                nursery.start_soon(load.work, number, client, over)
            await answered(load, 20)
            for point in range(points):
                await answered(load, draws.randrange(1, 30))
                victims = choose(group.members, draws)
                kills += len(victims)
                await trio.to_thread.run_sync(group.kill_all, victims)
                for member in victims:
                    group.start(member)
                tell("kill", point=point, members=victims, acknowledged=load.acknowledged)
            await answered(load, 20)
            over.set()
        for member in group.members:
            await trio.to_thread.run_sync(group.wait_ready, member)
        with trio.fail_after(2 * PATIENCE_SECONDS):
            audit = await load.read_back(clients[0])
            statuses = await settled(group, clients[0])
    verdict = await trio.to_thread.run_sync(load.linearizable)
    if not verdict.linearizable:
        print(verdict, file=sys.stderr)
    digests: list[dict[str, str]] = [status["checkpoints"] for status in statuses.values()]
    common = newest_common(digests)
    return {
        "points": points,
        "kills": kills,
        "acknowledged": load.acknowledged,
        "unknown": load.unknown,
        "lost": audit.lost,
        "duplicated": audit.duplicated,
        "reordered": audit.reordered,
        "errors": load.failed,
        "linearizable": verdict.linearizable,
        "digests_agree": len({one[str(common)] for one in digests}) == 1,
        "digest_slot": common,
        "silent": [member for member, status in statuses.items() if status["silent"]],
        "stopped": [f"{member}: {status['stopped']}" for member, status in statuses.items() if status["stopped"]],
        "seconds": round(time.monotonic() - began, 1),
    }


def choose(members: tuple[str, ...], draws: random.Random) -> tuple[str, ...]:
    """Mostly one member, sometimes several, sometimes all."""
    count = draws.choice((1, 1, 1, 1, 1, 2, 3, len(members)))
    return tuple(draws.sample(members, min(count, len(members))))


def newest_common(digests: list[dict[str, str]]) -> int:
    """The newest slot at which all of them hold a checkpoint; 0 if there is none."""
    return max((int(slot) for slot in digests[0] if all(slot in one for one in digests)), default=0)


async def settled(group: ProcessGroup, client: AsyncClient) -> Mapping[str, dict[str, Any]]:
    """The members' status once all hold a common checkpoint that covers what is applied now, or one has stopped."""
    target = max(status["applied"] for status in (await client.status(timeout=PATIENCE_SECONDS)).values())
    while True:
        for index in range(8):
            await client.submit(keyvalue.put(b"beat", b"%d" % index), timeout=PATIENCE_SECONDS)
        statuses = await client.status(timeout=PATIENCE_SECONDS)
        if len(statuses) < len(group.members):
            continue
        common = newest_common([status["checkpoints"] for status in statuses.values()])
        if any(status["stopped"] for status in statuses.values()) or common >= target:
            return statuses


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--protocol", default="pbft")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bftkit-kill-") as directory:
        folder = Path(directory) / "group"
        words = ["init", str(folder), "--members", str(arguments.members), "--protocol", arguments.protocol]
        with contextlib.redirect_stdout(sys.stderr):
            code = bftkit([*words, "--checkpoint-interval", "16"])
        if code:
            return code
        group = ProcessGroup(folder)
        stood_still = False
        result: dict[str, Any] = {}
        try:
            group.start_all()
            result = trio.run(campaign, group, arguments.points, random.Random(arguments.seed))
        except* trio.TooSlowError:
            stood_still = True
            tell("error", message="the group stood still", logs={m: group.log_tail(m) for m in group.members})
        finally:
            group.stop()
        if stood_still:
            return 11
        tracebacks = [member for member in group.members if "Traceback" in group.log_text(member)]
        for member in tracebacks:
            print(group.log_text(member), file=sys.stderr)
    kept = (
        result["lost"] == result["duplicated"] == result["reordered"] == 0
        and result["linearizable"]
        and result["digests_agree"]
        and not (result["errors"] or result["silent"] or result["stopped"] or tracebacks)
    )
    tell("result", protocol=arguments.protocol, seed=arguments.seed, **result, tracebacks=tracebacks, kept=kept)
    return 0 if kept else 10


if __name__ == "__main__":
    raise SystemExit(main())
