"""Compares the protocols on the shelf: counts what they send, measures what they do, and writes the page about it.

    python simulations/compare_protocols.py count                       # messages and bytes a batch, in the simulator
    python simulations/compare_protocols.py count --protocol cks
    python simulations/compare_protocols.py bench --protocol pbft --members 4,7   # real processes, `bftkit bench`
    python simulations/compare_protocols.py write                       # docs/protocols/comparison.md, from all of it

`count` and `bench` keep what they find in docs/protocols/measured.json, where it takes the place of what was there for
the same protocol and size; `write` makes the page from that file and from the plug-ins' records, so it can be
written again without measuring anything. ``--data`` and ``--page`` name other files. A protocol of your own is
compared when it is installed and named: it needs no change here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

import attrs

from bftkit.channel.frames import PROTOCOL
from bftkit.channel.interface import Limits
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol, protocol_names
from bftkit.membership.founding import default_faults
from bftkit.sim.costs import Costs
from bftkit.sim.links import Network
from bftkit.sim.world import World

ROOT: Final = Path(__file__).resolve().parents[1]
DATA: Final = ROOT / "docs" / "protocols" / "measured.json"
PAGE: Final = ROOT / "docs" / "protocols" / "comparison.md"
ORDER: Final = ("coordinator", "paxos", "pbft", "cks")
"""The shelf from the cheapest to the most careful; others follow by name."""

SIZES: Final = (4, 7, 10)
"""Members, where messages are counted."""
ALONE: Final = 40
"""Batches that are counted one at a time, one operation in each."""
SATURATED: Final = 100
"""Batches of the run in which the protocol always has more to do."""
UNDER_WAY: Final = 32
"""Operations that each of eight clients has outstanding in that run: many more than the batches under way hold."""
BEFORE: Final = 20
"""Batches of that run before those that are counted."""
BATCH: Final = 8
"""Operations in a batch at most, in that run."""
OUTSTANDING: Final = (1, 100, 400, 4000)
DURABILITIES: Final = ("memory", "fsync")

Data: TypeAlias = dict[str, Any]

TIMING: Final = {
    "synchronous": "every message arrives within a known time",
    "partial": "delays stay bounded for some time, now and then",
    "asynchronous": "messages arrive at some time; nothing else",
}

HEAD: Final = """\
# The protocols compared

Written by `python simulations/compare_protocols.py write`; not to be edited. The first table is what the plug-ins say
of themselves, and what they say there of faults [is tried](index.md#what-a-protocol-says-about-itself). The others
were measured: `docs/protocols/measured.json` holds the figures, and the top of the command's file says how to take
them anew.
"""

STEPS: Final = """\
*Steps* are message delays from a proposal to its decision, without faults. No protocol's safety depends on the network.
"""

COUNTED: Final = """\
## Messages and bytes a batch

Counted in the simulator, over the whole group and for each batch that is not empty: frames with a message of the
protocol, each receiver counted, and the bytes of these frames without those of the batches that they carry. *Alone*:
one batch at a time, in a group that has nothing else to do. *Saturated*: there is always more to do than fits, {batch}
operations a batch, so that what can be said together is. What the protocol repeats from time to time is counted; what
the channels say to each other (checkpoints, bundles passed on) is not. Links take 1 ms and lose nothing; f and c are
the largest that so many members bear.
"""

BENCHED: Final = """\
## Throughput and latency

`bftkit bench`, with all members and the client as separate processes on one machine ({machine}): one client, its
bundles signed, links encrypted, results that f + 1 members agree on. One run of a few seconds a row ({seconds:g}
in the last ones), after {warm_up:g} seconds of the same load; figures of a shared machine vary by a third from
minute to minute. Memory is
summed over the members, CPU time over all processes. Just before a row began, other work took {busy} % of the
processors' time in the median, and {busiest} % at most: the busier, the lower the figures.
"""


# ------------------------------------------------------------------------------------------------ counting


@attrs.define
class Tally:
    """The frames with a protocol's messages, and their bytes without the batches that they carry."""

    messages: int = 0
    size: int = 0

    def see(self, sender: MemberId, receiver: MemberId, frame: bytes) -> None:
        """One frame leaves for one receiver."""
        if frame[0] == PROTOCOL:
            self.messages += 1
            self.size += len(frame) - carried_bytes(frame)


def carried_bytes(frame: bytes) -> int:
    """How much of a protocol's frame is batches (see `bftkit.channel.frames`)."""
    place, total = 10, 0
    for _ in range(frame[9]):
        size = int.from_bytes(frame[place : place + 4])
        place, total = place + 4 + size, total + size
    return total


def count(protocol: str, members: int) -> Data:
    """Messages and bytes a batch, alone and saturated."""
    f, c = default_faults(load_protocol(protocol).record, members, None, None)
    return {"f": f, "c": c, "alone": _alone(protocol, members), "saturated": _saturated(protocol, members)}


def _world(protocol: str, members: int, clients: int) -> World:
    return World(
        7,
        protocol,
        members,
        clients=clients,
        network=Network(delay_min=1, delay_max=1),
        interval=64,
        window=256,
        limits=Limits(batch_requests=BATCH),
        costs=Costs.measured(),
    )


def _open_sessions(world: World) -> None:
    """Every client's first operation, and then rest."""
    world.run(200)
    for client in world.actors.values():
        client.put(b"key")
        client.send_now()
    world.run_until(lambda: world.outstanding == 0, 60_000, "the first answers")
    world.run(500)


def _batches(world: World) -> int:
    """Batches that were executed where most were."""
    return max(world.replica(member).counters.batches for member in world.members)


def _told(tally: Tally, batches: int) -> Data:
    return {"messages": round(tally.messages / batches, 1), "bytes": round(tally.size / batches)}


def _alone(protocol: str, members: int) -> Data:
    world = _world(protocol, members, clients=1)
    _open_sessions(world)
    (client,) = world.actors.values()
    tally = Tally()
    world.observers.append(tally.see)
    before = _batches(world)
    for _ in range(ALONE):
        client.put(b"key")
        client.send_now()
        world.run_until(lambda: world.outstanding == 0, 60_000, "the answer")
        # The answer needs some members only: the others, and whatever else is said about this batch, come to an end.
        world.run(25)
    return _told(tally, _batches(world) - before)


def _saturated(protocol: str, members: int) -> Data:
    world = _world(protocol, members, clients=8)
    _open_sessions(world)
    tally = Tally()
    begin, end = _batches(world) + BEFORE, 0
    before = 0
    while not end or _batches(world) < end:
        for client in world.actors.values():
            while len(client.pending) < UNDER_WAY:
                client.put(b"key")
                client.send_now()  # one operation a bundle, so that batches are closed where they are full
        world.run(1)
        if not end and _batches(world) >= begin:
            world.observers.append(tally.see)
            before = _batches(world)
            end = before + SATURATED
    if world.view_changes:
        raise SystemExit(f"{protocol}, {members} members: the leader was changed; this is not what was to be counted")
    return _told(tally, _batches(world) - before)


# ------------------------------------------------------------------------------------------------ measuring


def bench(protocol: str, members: int, outstanding: int, size: int, durability: str, times: Times) -> Data:
    """One row: what `bftkit bench` says."""
    others = busy()
    words = f"bench --json --protocol {protocol} --members {members} --outstanding {outstanding} --size {size}"
    words += f" --durability {durability} --seconds {times.seconds} --warm-up {times.warm_up}"
    done = subprocess.run([sys.executable, "-m", "bftkit", *words.split()], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bftkit {words}: exit code {done.returncode}\n{done.stderr}")
    told: Data = json.loads(done.stdout.splitlines()[-1])
    return {**{name: told[name] for name in (*ROW, *FIGURES)}, "busy": round(others, 2)}


def busy(seconds: float = 0.5) -> float:
    """The share of the processors' time that others take, while nothing of ours runs."""

    def ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # idle, and waiting for disks

    total, idle = ticks()
    time.sleep(seconds)
    later, still_idle = ticks()
    return 1 - (still_idle - idle) / max(1, later - total)


@attrs.frozen
class Times:
    """Seconds of measuring, and before it."""

    seconds: float
    warm_up: float


ROW: Final = ("protocol", "members", "durability", "size", "outstanding")
FIGURES: Final = ("ops_per_second", "p50_ms", "p99_ms", "memory_mb", "cpu_us_per_op")


def machine() -> str:
    """What is measured on, in a few words."""
    return (
        f"{os.cpu_count()} cores, {platform.system()}, {platform.python_implementation()} {platform.python_version()}"
    )


# ------------------------------------------------------------------------------------------------ the page


def written(data: Data, records: Mapping[str, ProtocolRecord]) -> str:
    """The page, from the data file and the records of the protocols that it speaks of."""
    names = ordered(data["counted"])
    parts = [HEAD, _said(names, records), COUNTED.format(batch=BATCH), _counted(names, data["counted"])]
    if data["bench"]:
        shares = [round(100 * row.get("busy", 0)) for row in data["bench"]]
        others = {"busy": f"{median(shares):.0f}", "busiest": max(shares)}
        parts += [BENCHED.format(**data["conditions"], **others), *_benched(data["bench"])]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def ordered(names: Iterable[str]) -> list[str]:
    """The protocols in the order of the page."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def _said(names: Sequence[str], records: Mapping[str, ProtocolRecord]) -> str:
    rows = [
        (
            f"`{name}`",
            _faults(records[name]),
            _smallest(records[name]),
            TIMING[records[name].timing],
            records[name].steps,
            records[name].messages,
            records[name].when,
        )
        for name in names
    ]
    head = ("protocol", "survives", "smallest n", "what it needs of the network", "steps", "messages a batch", "when")
    return f"{_table(head, rows)}\n{STEPS}"


def _faults(record: ProtocolRecord) -> str:
    if not record.byzantine:
        away = "c crashes" if "leader-crash" in record.survives else "c crashes, if the leader comes back"
    else:
        away = "f liars and c crashes"
    cut = ", and a power cut of all" if "power-cut" in record.survives else ""
    return away + cut


def _smallest(record: ProtocolRecord) -> str:
    if not record.byzantine:
        crashes = [record.members_needed(0, c) for c in (1, 2)]
        return f"{crashes[0]} for one crash, {crashes[1]} for two"
    liars = [record.members_needed(f) for f in (1, 2)]
    text = f"{liars[0]} for one liar, {liars[1]} for two"
    return f"{text}; {record.members_needed(0, 1)} for one crash"


def _counted(names: Sequence[str], counted: Mapping[str, Data]) -> str:
    rows: list[Sequence[object]] = []
    for name in names:
        for size in sorted(counted[name], key=int):
            cell = counted[name][size]
            figures = [f"{cell[mode][unit]:,}" for mode in ("alone", "saturated") for unit in ("messages", "bytes")]
            rows.append((f"`{name}`", size, cell["f"], cell["c"], *figures))
    head = ("protocol", "n", "f", "c", "messages, alone", "bytes, alone", "messages, saturated", "bytes, saturated")
    return _table(head, rows)


def _benched(bench: Sequence[Data]) -> list[str]:
    parts: list[str] = []
    for durability, title in (("memory", "Decisions in memory"), ("fsync", "Every decision on the disk first")):
        rows = [row for row in bench if row["durability"] == durability]
        if rows:
            names = ordered({row["protocol"] for row in rows})
            rows.sort(key=lambda row: (names.index(row["protocol"]), row["members"], row["size"], row["outstanding"]))
            head = ("protocol", "n", "bytes", "outstanding", "ops/s", "p50 ms", "p99 ms", "memory MB", "CPU µs/op")
            parts += [f"\n### {title}\n", _table(head, [_bench_row(row) for row in rows])]
    return parts


def _bench_row(row: Data) -> Sequence[object]:
    return (
        f"`{row['protocol']}`",
        row["members"],
        row["size"],
        f"{row['outstanding']:,}",
        *(three_digits(row[figure]) for figure in FIGURES),
    )


def three_digits(number: float) -> str:
    """``12,345``, ``123``, ``12.3``, ``1.23``: no more digits than a measurement has."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


# ------------------------------------------------------------------------------------------------ command


def _key(row: Data) -> list[Any]:
    """What the row is about."""
    return [row[name] for name in ROW]


def load(path: Path) -> Data:
    """The data file, or an empty one."""
    if path.exists():
        data: Data = json.loads(path.read_text(encoding="utf-8"))
        return data
    return {"conditions": {}, "counted": {}, "bench": []}


def save(path: Path, data: Data) -> None:
    """Write the data file, in a form that shows well what has changed."""
    data["counted"] = {name: data["counted"][name] for name in ordered(data["counted"])}
    data["bench"].sort(key=_key)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in data["bench"])
    counted = ",\n".join(
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"   {json.dumps(size)}: {json.dumps(cell)}" for size, cell in data["counted"][name].items())
        + "\n  }"
        for name in data["counted"]
    )
    text = f' "conditions": {json.dumps(data["conditions"])},\n "counted": {{\n{counted}\n }},\n "bench": [\n{rows}\n ]'
    path.write_text("{\n" + text + "\n}\n", encoding="utf-8")


def page_of(data: Data) -> str:
    """The page of this data, with the records of what is installed. Raises `UnknownProtocol`."""
    return written(data, {name: load_protocol(name).record for name in data["counted"]})


def numbers(text: str) -> list[int]:
    """``4,7`` as a list."""
    return [int(part) for part in text.split(",")]


def main() -> int:
    """Count, measure or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("count", "bench", "write"))
    parser.add_argument("--protocol", help="several with commas between them; default: all that are installed")
    parser.add_argument("--members", type=numbers, help=f"default: {SIZES} to count, (4, 7) to bench")
    parser.add_argument("--outstanding", type=numbers, default=list(OUTSTANDING))
    parser.add_argument("--size", type=numbers, default=[0])
    parser.add_argument("--durability", default=",".join(DURABILITIES))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=3.0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    given = parser.parse_args()
    data = load(given.data)
    names = given.protocol.split(",") if given.protocol else list(protocol_names())
    if given.what == "write":
        page = page_of(data)
        if given.check:
            return int(given.page.read_text(encoding="utf-8") != page)
        given.page.write_text(page, encoding="utf-8")
        return 0
    for name in names:
        if given.what == "count":
            for members in given.members or SIZES:
                cell = count(name, members)
                print(json.dumps({"protocol": name, "members": members, **cell}), flush=True)
                data["counted"].setdefault(name, {})[str(members)] = cell
                save(given.data, data)
            continue
        times = Times(given.seconds, given.warm_up)
        data["conditions"] = {"machine": machine(), **attrs.asdict(times)}
        for members in given.members or (4, 7):
            for durability in given.durability.split(","):
                for size in given.size:
                    for outstanding in given.outstanding:
                        row = bench(name, members, outstanding, size, durability, times)
                        print(json.dumps(row), flush=True)
                        data["bench"] = [old for old in data["bench"] if _key(old) != _key(row)] + [row]
                        save(given.data, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
