"""A member returns after the log that it needs was cut: it fetches a large state, under load, from others of which
one lies.

    python simulations/big_state.py --megabytes 64

One member is killed. Then the state is filled, and the others go on until no log goes back to where that member
stood. It is started again while clients keep writing, and while one of its three sources sends chunks with a wrong
bit. It must catch up, say who lied, and end with the same state as the others.

Prints one JSON object a line; exit code 0 if all of it happened, 1 if not, 11 if the member never caught up.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from bftkit.channel.frames import CONTROL_CODEC, Manifest
from bftkit.cli import main as bftkit
from bftkit.cli.demo_load import Load
from bftkit.client import AsyncClient
from bftkit.client.aio import driving
from bftkit.client.connect import open_core
from bftkit.node.folders import read_member
from bftkit.node.processes import ProcessGroup
from bftkit.node.recovery import SNAPSHOTS_FILE
from bftkit.service import keyvalue
from bftkit.storage.sqlite_snapshots import SqliteSnapshots

LIAR = "m1"
BACK = "m3"
HONEST = ("m0", "m2", "m3")
VALUE_BYTES = 192 << 10
CLIENTS = 4
PATIENCE_SECONDS = 240.0

Statuses = Mapping[str, dict[str, Any]]


def tell(event: str, **fields: object) -> None:
    """One line."""
    print(json.dumps({"event": event, **fields}), flush=True)


async def watch(client: AsyncClient, seconds: float, condition: Callable[[Statuses], bool]) -> Statuses:
    """The members' status as soon as the condition holds. Raises `trio.TooSlowError`."""
    with trio.fail_after(seconds):
        while True:
            statuses = await client.status(timeout=1.0)
            if condition(statuses):
                return statuses


async def fill(client: AsyncClient, megabytes: int) -> None:
    """Put so much into the state, in values that do not compress into fewer chunks."""
    count = -(-(megabytes << 20) // VALUE_BYTES)
    for first in range(0, count, 16):
        numbers = range(first, min(first + 16, count))
        operations = [
            keyvalue.put(b"big-%d" % number, random.Random(number).randbytes(VALUE_BYTES)) for number in numbers
        ]
        outcomes = await client.submit_many(operations, timeout=PATIENCE_SECONDS)
        assert all(outcome == b"=" for outcome in outcomes), outcomes


async def run(group: ProcessGroup, megabytes: int) -> dict[str, Any]:
    """The whole story; what was seen."""
    load = Load()
    async with contextlib.AsyncExitStack() as stack:
        monitor, *clients = [
            await stack.enter_async_context(driving(open_core(group.genesis, os.urandom(32))))
            for _ in range(1 + CLIENTS)
        ]
        await monitor.submit(keyvalue.put(b"hello", b"world"), timeout=60)
        statuses = await watch(monitor, 60, lambda found: found.get(BACK, {}).get("applied", 0) >= 1)
        left_at = statuses[BACK]["applied"]
        await trio.to_thread.run_sync(group.kill, BACK)
        tell("killed", member=BACK, applied=left_at)
        began = time.monotonic()
        await fill(monitor, megabytes)
        tell("filled", megabytes=megabytes, seconds=round(time.monotonic() - began, 1))
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                nursery.start_soon(load.work, number, client, over)
            others = ("m0", "m1", "m2")
            # The older of the two checkpoints that are kept lies above: nobody can serve the slots in between.
            statuses = await watch(
                monitor,
                PATIENCE_SECONDS,
                lambda found: all(
                    len(found.get(m, {}).get("checkpoints", ())) == 2
                    and min(map(int, found[m]["checkpoints"])) > left_at
                    for m in others
                ),
            )
            tell("cut", older_checkpoint=min(min(map(int, statuses[m]["checkpoints"])) for m in others))
            await trio.to_thread.run_sync(group.start, BACK)
            await trio.to_thread.run_sync(group.wait_ready, BACK)
            back = time.monotonic()
            before = load.acknowledged
            load.longest_gap = 0.0
            statuses = await watch(
                monitor,
                PATIENCE_SECONDS,
                lambda found: (
                    {BACK, "m0"} <= set(found)
                    and found[BACK]["stable"] > left_at
                    and found[BACK]["applied"] >= found["m0"]["applied"] - 16
                ),
            )
            seconds = time.monotonic() - back
            during = load.acknowledged - before
            gap = load.longest_gap
            over.set()
        target = max(status["applied"] for status in statuses.values())
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                for index in range(8):
                    await monitor.submit(keyvalue.put(b"beat", b"%d" % index), timeout=60)
                statuses = await monitor.status()
                if any(member not in statuses for member in group.members):
                    continue
                tables: list[dict[str, str]] = [statuses[member]["checkpoints"] for member in HONEST]
                common = max((int(slot) for slot in tables[0] if all(slot in one for one in tables)), default=0)
                if common >= target:
                    break
        audit = await load.read_back(monitor)
    counters = statuses[BACK]["counters"]
    return {
        "megabytes": megabytes,
        "catch_up_seconds": round(seconds, 1),
        "transfers": counters["transfers"],
        "transferred_mb": round(counters["transferred_bytes"] / (1 << 20), 1),
        "blamed": statuses[BACK]["blamed"],
        "bad_chunks": statuses[LIAR].get("adversary", {}).get("bad_chunks", 0),
        "operations_meanwhile": during,
        "longest_gap_ms": round(1000 * gap),
        "lost": audit.lost,
        "duplicated": audit.duplicated,
        "digests_agree": len({table[str(common)] for table in tables}) == 1,
        "stopped": [f"{member}: {status['stopped']}" for member, status in statuses.items() if status["stopped"]],
        "errors": load.failed,
    }


def chunks_saved(group: ProcessGroup) -> int:
    """How many chunks the newest checkpoint has that the returned member saved."""
    store = SqliteSnapshots(read_member(group.directory / BACK).snapshots / SNAPSHOTS_FILE)
    try:
        latest = store.latest()
        assert latest is not None
        manifest = CONTROL_CODEC.decode(latest[1])
        assert isinstance(manifest, Manifest)
        return len(manifest.leaves)
    finally:
        store.close()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--checkpoint-interval", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bftkit-big-") as directory:
        folder = Path(directory) / "group"
        with contextlib.redirect_stdout(sys.stderr):
            code = bftkit(["init", str(folder), "--checkpoint-interval", str(arguments.checkpoint_interval)])
        if code:
            return code
        group = ProcessGroup(folder)
        stood_still = False
        result: dict[str, Any] = {}
        try:
            for member in group.members:
                group.start(member, *(("--adversary", "bftkit.sim.adversaries:BadChunks") if member == LIAR else ()))
            for member in group.members:
                group.wait_ready(member)
            result = trio.run(run, group, arguments.megabytes)
        except* trio.TooSlowError:
            stood_still = True
            tell("error", message="never got there", logs={m: group.log_tail(m) for m in group.members})
        finally:
            group.stop()
        if result:
            result["chunks"] = chunks_saved(group)
        tracebacks = [member for member in group.members if "Traceback" in group.log_text(member)]
        for member in tracebacks:
            print(group.log_text(member), file=sys.stderr)
    if stood_still:
        return 11
    seen = (
        result["transferred_mb"] >= 0.9 * arguments.megabytes
        and result["bad_chunks"] > 0
        and any(blamed.startswith(f"{LIAR}: chunk") for blamed in result["blamed"])
        and all(blamed.startswith(f"{LIAR}: ") for blamed in result["blamed"])
        and result["lost"] == result["duplicated"] == 0
        and result["digests_agree"]
        and not (result["stopped"] or result["errors"] or tracebacks)
    )
    tell("result", **result, tracebacks=tracebacks, all_seen=seen)
    return 0 if seen else 1


if __name__ == "__main__":
    raise SystemExit(main())
