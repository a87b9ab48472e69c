"""`bftkit bench`: what a group on this machine does, as separate processes, with everything switched on.

Clients are authenticated, links are encrypted, every operation has its own sequence number, its session check, its
`apply`, and a result that f + 1 members agree on. The load is closed: so many operations are outstanding at any time,
shared among the clients. All of it runs on the same cores as the members, so compare ratios and not absolutes.
"""

from __future__ import annotations

import resource
import secrets
import selectors
import shutil
import tempfile
import time
from array import array
from pathlib import Path
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter, validators

from bftkit.channel.client import Executed
from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.ending import uninterrupted
from bftkit.cli.quiet import found_group
from bftkit.client.connect import open_core
from bftkit.client.core import ClientCore
from bftkit.node.processes import ProcessGroup

SERVICE = "bftkit.service.null:NullService"
STALLED_SECONDS = 20.0


@attrs.define(eq=False)
class _Generator:
    """One client identity with its share of the outstanding operations."""

    share: int
    operation: bytes
    core: ClientCore = attrs.field(init=False)
    due: int = 0
    """Operations to submit at the next turn."""
    done: int = 0
    failed: int = 0
    measuring: bool = False
    submitted: array[float] = attrs.field(factory=lambda: array("d"))
    """When each operation was submitted, by sequence number, from `base` on."""
    base: int = 1
    latencies: array[float] = attrs.field(factory=lambda: array("d"))

    def on_executed(self, executed: Executed) -> None:
        """Results came: count them, and owe as many new operations."""
        count = len(executed.results)
        self.done += count
        self.due += count
        self.failed += sum(status != 0 for status, _ in executed.results)
        if self.measuring:
            now = time.perf_counter()
            first = executed.first - self.base
            self.latencies.extend(now - then for then in self.submitted[first : first + count])

    def turn(self) -> None:
        """Take in results, and submit as many operations as were answered."""
        self.core.turn()
        if self.due:
            count, self.due = self.due, 0
            self.submitted.extend([time.perf_counter()] * count)
            self.core.submit_bulk([self.operation] * count)
            self.core.turn()


class _Load:
    def __init__(self, group: ProcessGroup, clients: int, outstanding: int, size: int) -> None:
        operation = b"" if size == 0 else size.to_bytes(4, "big") + bytes(max(0, size - 4))
        shares = [outstanding // clients + (index < outstanding % clients) for index in range(clients)]
        self.generators = [_Generator(share, operation) for share in shares]
        self._selector = selectors.DefaultSelector()
        for generator in self.generators:
            generator.core = open_core(group.genesis, secrets.token_bytes(32), on_executed=generator.on_executed)
            generator.due = generator.share
            self._selector.register(generator.core.hub.fileno(), selectors.EVENT_READ, generator)

    @property
    def done(self) -> int:
        return sum(generator.done for generator in self.generators)

    def run(self, seconds: float) -> None:
        """Keep the operations outstanding for so long."""
        end = time.monotonic() + seconds
        last, last_change = self.done, time.monotonic()
        for generator in self.generators:
            generator.turn()
        while (now := time.monotonic()) < end:
            deadline = min(generator.core.deadline for generator in self.generators)
            for key, _ in self._selector.select(max(0.0, min(end, deadline) - now)):
                key.data.turn()
            now = time.monotonic()
            if now >= deadline:
                for generator in self.generators:
                    generator.turn()
            done = self.done
            if done != last:
                last, last_change = done, now
            elif now - last_change > STALLED_SECONDS:
                raise CommandFailed(ExitCode.PROGRESS_MISSED, f"no operation was answered for {STALLED_SECONDS} s")

    def measure(self, on: bool) -> None:
        for generator in self.generators:
            generator.measuring = on

    def close(self) -> None:
        for generator in self.generators:
            generator.core.close()
        self._selector.close()


def bench(
    *,
    protocol: Annotated[str, Parameter(help="The ordering protocol.")] = "pbft",
    members: Annotated[int, Parameter(help="How many members.")] = 4,
    clients: Annotated[int, Parameter(help="Separate client identities that share the outstanding operations.")] = 1,
    outstanding: Annotated[int, Parameter(help="Operations outstanding at any time.")] = 400,
    size: Annotated[
        int, Parameter(help="Bytes of an operation, and of its result.", validator=validators.Number(gte=0))
    ] = 0,
    durability: Annotated[Literal["memory", "async", "fsync"], Parameter(help="See `bftkit init`.")] = "memory",
    seconds: Annotated[float, Parameter(help="How long to measure.", validator=validators.Number(gt=0))] = 10.0,
    warm_up: Annotated[
        float, Parameter(help="Seconds of the same load before that.", validator=validators.Number(gte=0))
    ] = 3.0,
    parameter: Annotated[
        tuple[str, ...], Parameter(help="A setting of the protocol, as name=number.", negative="")
    ] = (),
) -> None:
    """Measure throughput, latency, memory and CPU of a group on this machine."""
    if outstanding < 1:
        raise CommandFailed(ExitCode.USAGE, f"--outstanding {outstanding}: at least 1")
    if not 1 <= clients <= outstanding:
        raise CommandFailed(ExitCode.USAGE, f"--clients {clients}: between 1 and the {outstanding} outstanding")
    directory = Path(tempfile.mkdtemp(prefix="bftkit-bench-"))
    try:
        found_group(
            directory / "group",
            members=members,
            protocol=protocol,
            durability=durability,
            service=SERVICE,
            name="bench",
            parameter=parameter,
        )
        group = ProcessGroup(directory / "group")
        try:
            for member in group.members:
                group.start(member)
            for member in group.members:
                group.wait_ready(member)
            result = _measure(group, clients, outstanding, size, seconds, warm_up)
        finally:
            with uninterrupted():
                group.stop()
    finally:
        with uninterrupted():
            shutil.rmtree(directory, ignore_errors=True)
    told: dict[str, object] = {
        "protocol": protocol,
        "members": members,
        "clients": clients,
        "outstanding": outstanding,
        "size": size,
        "durability": durability,
        **result,
    }
    output().event("result", **told)
    output().plain(
        f"{protocol}, {members} members, {clients} clients, {outstanding} outstanding, {size} bytes, {durability}: "
        f"{result['ops_per_second']:,.0f} ops/s, p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms, "
        f"{result['memory_mb']} MB, {result['cpu_us_per_op']} µs of CPU an operation"
    )


def _measure(
    group: ProcessGroup, clients: int, outstanding: int, size: int, seconds: float, warm_up: float
) -> dict[str, float]:
    load = _Load(group, clients, outstanding, size)
    try:
        load.run(warm_up)
        if not load.done:
            load.run(STALLED_SECONDS)
        cpu, done, began = _cpu_seconds(group), load.done, time.perf_counter()
        load.measure(True)
        load.run(seconds)
        elapsed = time.perf_counter() - began
        cpu, done = _cpu_seconds(group) - cpu, load.done - done
        failed = sum(generator.failed for generator in load.generators)
        latencies = sorted(latency for generator in load.generators for latency in generator.latencies)
        if not done or failed:
            raise CommandFailed(ExitCode.FAILED, f"{done} operations were answered and {failed} of them failed")
        return {
            "operations": done,
            "ops_per_second": round(done / elapsed, 1),
            "p50_ms": round(latencies[len(latencies) // 2] * 1000, 3),
            "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 3),
            "memory_mb": round(sum(_memory_mb(group.pid(member)) for member in group.members), 1),
            "cpu_us_per_op": round(cpu / done * 1e6, 2),
        }
    finally:
        load.close()


def _cpu_seconds(group: ProcessGroup) -> float:
    """CPU time of all members and of this process."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for member in group.members:
        # Nanoseconds on a core; finer than the ticks of /proc/PID/stat.
        text = Path(f"/proc/{group.pid(member)}/schedstat").read_text()
        total += int(text.split()[0]) / 1e9
    return total


def _memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
