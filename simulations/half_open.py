"""What a thousand half-open connections cost a real group's clients (line 8 of docs/FAULTS.md).

    python simulations/half_open.py [--connections 1000] [--seconds 10] [--rounds 3]

A group of four real processes serves one client that asks for one thing after the other. In turns it is left alone,
and another process holds so many connections to the leader open that never finish a handshake: each sends a byte now
and then, and is opened again when it is let go. The client's 99th percentile may at most double, and the leader may
not hold more of these connections than its limits say.

Prints a table, or one JSON object a line with --json. Exit code 0: it held. 1: it did not. 11: the group stood still.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import selectors
import socket
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import trio

from bftkit.cli import main as bftkit
from bftkit.client.aio import driving
from bftkit.client.connect import open_core
from bftkit.network.addresses import parse_address
from bftkit.network.hub import Limits
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue

TRICKLE_SECONDS = 0.5
REOPEN_SECONDS = 2.0
WARM_SECONDS = 2.0


def trickle(host: str, port: int, connections: int, attack: Event, over: Event) -> None:
    """While `attack` is set: so many connections, a byte each now and then, opened again after they were closed."""
    selector = selectors.DefaultSelector()
    waiting = [0.0] * connections
    """When the connections that are not open may be opened again."""
    last: dict[socket.socket, float] = {}

    def close(link: socket.socket, now: float) -> None:
        selector.unregister(link)
        link.close()
        del last[link]
        waiting.append(now + REOPEN_SECONDS)

    while not over.is_set():
        if not attack.is_set():
            for link in list(last):
                close(link, 0.0)
            attack.wait(0.1)
            continue
        now = time.monotonic()
        for due in [due for due in waiting if due <= now][:50]:
            waiting.remove(due)
            link = socket.socket()
            link.setblocking(False)
            link.connect_ex((host, port))
            selector.register(link, selectors.EVENT_READ)
            last[link] = now
        for link, when in list(last.items()):
            if now - when >= TRICKLE_SECONDS:
                try:
                    link.send(b"\x04")
                    last[link] = now
                except OSError:
                    close(link, now)
        for key, _ in selector.select(0.05):
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            with contextlib.suppress(BlockingIOError):
                try:
                    closed = not ready.recv(64)
                except ConnectionError:
                    closed = True
                if closed:
                    close(ready, now)


def half_open(pid: int, port: int) -> int:
    """How many connections the process holds on this port, the client's own and its peers' included."""
    sockets: set[str] = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    held = 0
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        held += fields[3] == "01" and int(fields[1].split(":")[1], 16) == port and fields[9] in sockets
    return held


def quantile(values: list[float], percent: int) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


async def run(group: ProcessGroup, options: argparse.Namespace, attack: Event) -> tuple[list[list[float]], int]:
    """The latencies, left alone and under attack; and how many connections the leader held at most."""
    latencies: list[list[float]] = [[], []]
    held = 0
    place = parse_address(group.genesis.roster.entry("m0").addresses[0])
    async with driving(open_core(group.genesis, os.urandom(32))) as client:
        for turn in range(2 * options.rounds):
            if turn % 2:
                attack.set()
            else:
                attack.clear()
            began = time.monotonic()
            while (now := time.monotonic()) < began + WARM_SECONDS + options.seconds:
                await client.submit(keyvalue.put(b"k", b"v"), timeout=60)
                if now >= began + WARM_SECONDS:
                    latencies[turn % 2].append(time.monotonic() - now)
            held = max(held, half_open(group.pid("m0"), place.port))
    return latencies, held


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="of one turn alone and one under attack")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    attack, over = context.Event(), context.Event()
    with tempfile.TemporaryDirectory(prefix="bftkit-half-open-") as directory:
        folder = Path(directory) / "group"
        with contextlib.redirect_stdout(sys.stderr):
            code = bftkit(["init", str(folder)])
        if code:
            return code
        group = ProcessGroup(folder)
        place = parse_address(group.genesis.roster.entry("m0").addresses[0])
        words = (place.host, place.port, options.connections, attack, over)
        attacker = context.Process(target=trickle, args=words)
        try:
            group.start_all()
            attacker.start()
            (alone, attacked), held = trio.run(run, group, options, attack)
        finally:
            over.set()
            attack.set()
            attacker.join()
            group.stop()
    if not alone or not attacked:
        return 11
    before, after = quantile(alone, 99), quantile(attacked, 99)
    # Beside half-open connections, three members and one client are linked with the leader.
    most = Limits().half_open_per_host + 16
    ok = after <= 2 * before and held <= most
    if options.json:
        fields = {"alone": len(alone), "attacked": len(attacked), "p99_alone_ms": round(before, 2)}
        fields |= {"p99_attacked_ms": round(after, 2), "held": held, "ok": ok}
        print(json.dumps({"event": "result", "connections": options.connections, **fields}))
    else:
        print("              operations    p50 ms    p99 ms")
        for name, values in (("left alone", alone), ("attacked", attacked)):
            print(f"{name:12} {len(values):11} {quantile(values, 50):9.1f} {quantile(values, 99):9.1f}")
        print(f"the leader held at most {held} connections; {'held' if ok else 'NOT HELD'}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
