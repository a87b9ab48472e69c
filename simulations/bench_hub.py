"""How fast two processes talk through `TcpHub` on loopback: ping-pong latency and one-way throughput.

    python simulations/bench_hub.py [--seconds 2]

Prints one JSON object a line. The driver loop is the plain synchronous one (poll, send, flush), or trio's.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from multiprocessing.connection import Connection

import trio

from bftkit.network.addresses import Address, parse_address
from bftkit.network.hub import Admission, Limits
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub

GROUP = bytes(32)
LIMITS = Limits()
STOP = b"stop"


def serve(pipe: Connection, under_trio: bool) -> None:
    """Echoes frames that begin with p; counts the others and answers each `poll` full of them with their number."""
    hub = TcpHub(Identity.from_seed(b"s" * 32), GROUP, accept=lambda key, payload: Admission("client"), limits=LIMITS)
    address = hub.listen(Address("tcp", "127.0.0.1", 0))
    pipe.send(str(address))

    def handle() -> bool:
        for peer, frames in hub.poll(0 if under_trio else None):
            if frames[0] == STOP:
                return False
            if frames[0][:1] == b"p":
                for frame in frames:
                    hub.send(peer, frame)
            else:
                hub.send(peer, len(frames).to_bytes(8, "big"))
        hub.flush()
        return True

    async def loop() -> None:
        running = True
        while running:
            await trio.lowlevel.wait_readable(hub.fileno())
            running = handle()

    if under_trio:
        trio.run(loop)
    else:
        while handle():
            pass
    hub.close()


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def measure(address: str, seconds: float, label: str) -> None:
    """Runs both measurements against a server and prints the results."""
    hub = TcpHub(Identity.from_seed(b"c" * 32), GROUP, limits=LIMITS)
    hub.connect("server", Identity.from_seed(b"s" * 32).public_key, [parse_address(address)])
    while not hub.is_up("server"):
        hub.poll(None)
    for size in (64, 1024):
        times: list[float] = []
        end = time.perf_counter() + seconds
        frame = b"p" * size
        while (start := time.perf_counter()) < end:
            hub.send("server", frame)
            hub.flush()
            while not hub.poll(None):
                pass
            times.append(time.perf_counter() - start)
        result = {
            "event": "latency",
            "server": label,
            "bytes": size,
            "p50_us": round(percentile(times, 0.5) * 1e6, 1),
            "p99_us": round(percentile(times, 0.99) * 1e6, 1),
        }
        print(json.dumps(result), flush=True)
    for size, many in ((64, 256), (1024, 64), (65536, 16)):
        frame = b"b" * size
        sent = arrived = 0
        start = time.perf_counter()
        end = start + seconds
        while time.perf_counter() < end or arrived < sent:
            if time.perf_counter() < end and sent - arrived < 4 * many:
                for _ in range(many):
                    sent += hub.send("server", frame)
                hub.flush()
            for _, frames in hub.poll(None if sent - arrived >= 4 * many or time.perf_counter() >= end else 0):
                arrived += sum(int.from_bytes(frame_, "big") for frame_ in frames)
        took = time.perf_counter() - start
        result = {
            "event": "throughput",
            "server": label,
            "bytes": size,
            "frames_per_second": round(sent / took),
            "megabytes_per_second": round(sent * size / took / 1e6, 1),
        }
        print(json.dumps(result), flush=True)
    hub.send("server", STOP)
    hub.flush()
    hub.close()


def main() -> None:
    """Starts a server process for each kind of loop and measures against it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for label, under_trio in (("plain", False), ("trio", True)):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, under_trio))
        process.start()
        measure(ours.recv(), options.seconds, label)
        process.join()


if __name__ == "__main__":
    main()
