"""Is memory flat? A group of real processes under load for a long time, its memory and disk sampled every 5 seconds.

    python simulations/soak.py --minutes 10

Clients keep a bounded state busy: puts, appends that start over, compare-and-set, strong reads, operations that fail.
The first half is for caches, logs and sessions to reach their bounds. Over the second half a line is fitted through
each member's resident memory, and through the clients' own; none may rise by more than a tenth.

Prints a table, or one JSON object a line with --json. Exit code 0 if memory is flat, 1 if not, 11 if the group stood
still.
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
from pathlib import Path
from typing import Any

import attrs
import trio

from bftkit.cli import main as bftkit
from bftkit.client import AsyncClient, ClientError, OperationFailed
from bftkit.client.aio import driving
from bftkit.client.connect import open_core
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue

SAMPLE_SECONDS = 5.0
KEYS = 2000
VALUE_BYTES = 200
GROWTH_MAX = 0.10
ME = "clients"


@attrs.frozen
class Sample:
    """What everybody held at one time."""

    seconds: float
    rss_mb: dict[str, float]
    disk_mb: dict[str, float]
    done: int


@attrs.define
class Work:
    """What the clients have done."""

    done: int = 0
    failed: int = 0
    unknown: int = 0


def rss_mb(pid: int) -> float:
    """A process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def disk_mb(folder: Path) -> float:
    """What a folder holds."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # cut or moved meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total / (1 << 20)


async def work(client: AsyncClient, number: int, outstanding: int, tally: Work, over: trio.Event) -> None:
    """One client, with so many operations under way at a time."""
    draws = random.Random(number)
    while not over.is_set():
        operations: list[bytes] = []
        for _ in range(outstanding):
            key = b"key-%d" % draws.randrange(KEYS)
            choice = draws.random()
            if choice < 0.6:
                operations.append(keyvalue.put(key, draws.randbytes(draws.randrange(VALUE_BYTES))))
            elif choice < 0.75:
                operations.append(keyvalue.compare_and_set(key, None, b"first"))
            elif choice < 0.85:
                operations.append(keyvalue.get(key))
            elif choice < 0.95:
                operations.append(keyvalue.delete(key))
            else:
                operations.append(b"an operation that fails")
        for outcome in await client.submit_many(operations, timeout=60):
            if isinstance(outcome, bytes):
                tally.done += 1
            elif isinstance(outcome, OperationFailed):
                tally.failed += 1
            else:
                tally.unknown += 1
        with contextlib.suppress(ClientError):
            await client.read(keyvalue.get(b"key-0"), timeout=60)


async def sample(group: ProcessGroup, seconds: float, tally: Work, json_lines: bool) -> list[Sample]:
    """Memory and disk of everybody, every `SAMPLE_SECONDS`, for so long."""
    samples: list[Sample] = []
    began = trio.current_time()
    names = (*group.members, ME)
    if not json_lines:
        print("seconds  " + "".join(f"{name:>10}" for name in names) + "   MB resident  |  disk MB  |  operations")
    while trio.current_time() - began < seconds:
        await trio.sleep_until(began + SAMPLE_SECONDS * (len(samples) + 1))
        taken = Sample(
            round(trio.current_time() - began, 1),
            {name: round(rss_mb(os.getpid() if name == ME else group.pid(name)), 1) for name in names},
            {name: round(disk_mb(group.directory / name / "data"), 1) for name in group.members},
            tally.done,
        )
        samples.append(taken)
        if json_lines:
            print(json.dumps({"event": "sample", **attrs.asdict(taken)}), flush=True)
        else:
            numbers = "".join(f"{taken.rss_mb[name]:10.1f}" for name in names)
            print(f"{taken.seconds:7.1f}  {numbers}   {sum(taken.disk_mb.values()):21.1f} {taken.done:13}", flush=True)
    return samples


def growth(points: list[tuple[float, float]]) -> tuple[float, float]:
    """(slope in MB a minute, rise over the whole as a share of where the line begins), by least squares."""
    count = len(points)
    middle = sum(x for x, _ in points) / count
    mean = sum(y for _, y in points) / count
    spread = sum((x - middle) ** 2 for x, _ in points)
    slope = sum((x - middle) * (y - mean) for x, y in points) / spread if spread else 0.0
    start = mean + slope * (points[0][0] - middle)
    return slope * 60, slope * (points[-1][0] - points[0][0]) / start


async def run(group: ProcessGroup, arguments: argparse.Namespace, tally: Work) -> list[Sample]:
    """Load and samples, at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(driving(open_core(group.genesis, os.urandom(32))))
            for _ in range(arguments.clients)
        ]
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                nursery.start_soon(work, client, number, arguments.outstanding, tally, over)
            samples = await sample(group, 60 * arguments.minutes, tally, arguments.json)
            over.set()
    return samples


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--protocol", default="pbft")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--outstanding", type=int, default=25, help="operations under way for each client")
    parser.add_argument("--durability", default="fsync")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tally = Work()
    with tempfile.TemporaryDirectory(prefix="bftkit-soak-") as directory:
        folder = Path(directory) / "group"
        words = ["init", str(folder), "--members", str(arguments.members), "--protocol", arguments.protocol]
        with contextlib.redirect_stdout(sys.stderr):
            code = bftkit([*words, "--durability", arguments.durability])
        if code:
            return code
        group = ProcessGroup(folder)
        began = time.monotonic()
        try:
            group.start_all()
            samples = trio.run(run, group, arguments, tally)
            dead = [member for member in group.members if not group.is_running(member)]
        finally:
            group.stop()
        tracebacks = [member for member in group.members if "Traceback" in group.log_text(member)]
    half = samples[len(samples) // 2 :]
    result: dict[str, Any] = {}
    for name in half[0].rss_mb:
        slope, rise = growth([(one.seconds, one.rss_mb[name]) for one in half])
        result[name] = {
            "first_mb": samples[0].rss_mb[name],
            "half_mb": half[0].rss_mb[name],
            "last_mb": half[-1].rss_mb[name],
            "slope_mb_per_minute": round(slope, 3),
            "rise": round(rise, 4),
        }
    flat = all(one["rise"] <= GROWTH_MAX for one in result.values()) and not (dead or tracebacks)
    seconds = time.monotonic() - began
    if arguments.json:
        fields = {"minutes": arguments.minutes, **attrs.asdict(tally), "memory": result, "disk_mb": half[-1].disk_mb}
        print(json.dumps({"event": "result", **fields, "dead": dead, "tracebacks": tracebacks, "flat": flat}))
    else:
        print("\nsecond half    from MB     to MB   MB a minute    rise")
        for name, one in result.items():
            print(
                f"{name:10} {one['half_mb']:11.1f} {one['last_mb']:9.1f} "
                f"{one['slope_mb_per_minute']:13.3f} {one['rise']:7.1%}"
            )
        print(
            f"\n{tally.done} operations ({tally.done / seconds:.0f} a second), {tally.failed} failed as they should, "
        )
        print(f"{tally.unknown} of unknown outcome; disk {half[-1].disk_mb} MB; dead {dead}, tracebacks {tracebacks}")
        print("memory is flat" if flat else "MEMORY GROWS")
    if not tally.done:
        return 11
    return 0 if flat else 1


if __name__ == "__main__":
    raise SystemExit(main())
