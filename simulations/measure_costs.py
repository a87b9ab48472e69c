"""What a member's work costs on this machine: measures the table of `bftkit.sim.costs` with the real code.

    python simulations/measure_costs.py

Takes about ten seconds; prints the table as it stands in `bftkit/sim/costs.py`, and one JSON object. Each figure is
the best of many, so that what else the machine does counts little; syncs are measured on the disk of the present
folder, and are the lower quartile. Frames are those of a group of four under pbft.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Final

from bftkit.channel.application import Context
from bftkit.core.digest import digest
from bftkit.crypto.keys import SigningKey, verify_signature
from bftkit.crypto.merkle import root as merkle_root
from bftkit.network.addresses import Address
from bftkit.network.hub import Admission
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.coins import real_coins
from bftkit.sim.host import Host
from bftkit.sim.world import World
from bftkit.storage.log import Log
from bftkit.storage.memory_files import MemoryDirectory

TIMES: Final = 5


def best(call: Callable[[], object], count: int) -> int:
    """Nanoseconds a call."""
    figures: list[int] = []
    for _ in range(4 * TIMES):
        began = perf_counter_ns()
        for _ in range(count):
            call()
        figures.append((perf_counter_ns() - began) // count)
    return min(figures)


class Timed(Host):
    """A host that measures what its replica takes."""

    spent: dict[str, list[int]]

    def start(self) -> None:
        """Put a stopwatch around the replica."""
        super().start()
        replica: Any = self.replica
        self.spent = {"message": [], "client": [], "end": [], "bytes": []}
        on_message, on_input = replica.on_message, replica.on_input

        def message(sender: str, frame: bytes, out: Any) -> None:
            began = perf_counter_ns()
            on_message(sender, frame, out)
            self.spent["message"].append(perf_counter_ns() - began)
            self.spent["bytes"].append(len(frame))

        def given(value: Any, out: Any) -> None:
            began = perf_counter_ns()
            on_input(value, out)
            kind = type(value).__name__
            if kind in ("FromClient", "RoundEnd"):
                self.spent["client" if kind == "FromClient" else "end"].append(perf_counter_ns() - began)

        replica.on_message, replica.on_input = message, given


def steps() -> tuple[int, int]:
    """Nanoseconds for one frame in the replica, and for the end of a round."""
    frames: list[int] = []
    ends: list[int] = []
    for seed in range(TIMES):
        world = World(seed, interval=128, window=256, host=Timed)
        world.load(600, keys=16, pipeline=8)
        world.run_until(lambda world=world: world.outstanding == 0, 100_000)  # type: ignore[misc]
        for host in world.hosts.values():
            assert isinstance(host, Timed)
            spent = host.spent
            taken = spent["message"] + spent["client"]
            frames.append(sum(taken) // len(taken))
            ends.append(sum(spent["end"]) // len(spent["end"]))
    return min(frames), min(ends)


def hub_costs(size: int) -> tuple[int, int]:
    """Nanoseconds to send one frame of this size over TCP, encrypted, and to receive it: ten frames a flush."""
    server = TcpHub(Identity.from_seed(b"s" * 32), bytes(32), accept=lambda key, payload: Admission("client"))
    client = TcpHub(Identity.from_seed(b"c" * 32), bytes(32), accept=lambda key, payload: None)
    address = server.listen(Address("tcp", "127.0.0.1", 0))
    client.connect("server", server.public_key, [address])
    while not (client.is_up("server") and server.is_up("client")):
        server.poll(0.001)
        client.poll(0.001)
    sends: list[int] = []
    receives: list[int] = []
    frame = bytes(size)
    for _ in range(200):
        began = perf_counter_ns()
        for _ in range(10):
            client.send("server", frame)
        client.flush()
        sends.append((perf_counter_ns() - began) // 10)
        got = 0
        spent = 0
        while got < 10:
            began = perf_counter_ns()
            received = server.poll(1.0)
            spent += perf_counter_ns() - began
            got += sum(len(frames) for _, frames in received)
            client.poll(0)
        receives.append(spent // 10)
    client.close()
    server.close()
    return sorted(sends)[len(sends) // 4], sorted(receives)[len(receives) // 4]


def sync_us() -> int:
    """Microseconds for a sync of 4 KiB that were appended."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        number = os.open(os.path.join(folder, "log"), os.O_CREAT | os.O_WRONLY)
        figures: list[int] = []
        for _ in range(60):
            os.write(number, bytes(4096))
            began = perf_counter_ns()
            os.fdatasync(number)
            figures.append((perf_counter_ns() - began) // 1000)
        os.close(number)
    return sorted(figures)[len(figures) // 4]


def main() -> None:
    """Measure and print."""
    key = SigningKey(bytes(32))
    statement = bytes(100)
    signature = key.sign(statement)
    chunk = bytes(1 << 16)
    hash_ns = best(lambda: digest(chunk), 200)
    filled = KeyValueStore()
    for number in range(200):
        place = Context(bytes(32), 1, number, 0, bytes(32), bytes(32))
        filled.apply(keyvalue.put(b"key%d" % number, bytes(100)), place)
    small_send, small_receive = hub_costs(100)
    large_send, large_receive = hub_costs(20_000)
    step_ns, end_ns = steps()
    store, operation = KeyValueStore(), keyvalue.put(b"key", b"value")
    context = Context(bytes(32), 1, 0, 0, bytes(32), bytes(32))
    directory = MemoryDirectory()
    Log.create(directory, group=bytes(32), identity=bytes(32), salt=bytes(16))
    log, _ = Log.open(directory, group=bytes(32), identity=bytes(32))
    record = bytes(200)

    def apply() -> None:
        store.mark()
        store.apply(operation, context)

    def write() -> None:
        log.append(record, 1)
        log.flush()

    def checkpoint() -> None:
        for number in range(10):
            filled.apply(keyvalue.put(b"key%d" % number, bytes(100)), context)
        view = filled.snapshot()
        merkle_root([view.leaf(index) for index in range(view.count)])

    members = ("m0", "m1", "m2", "m3")
    coins = real_coins(bytes(32), bytes(32), 0, bytes(32), members, 3)
    shares = {member: part.share(b"coin") for member, part in coins.items()}
    names = (b"coin %d" % number for number in itertools.count())
    judge = coins["m0"]

    table = {
        "round_ns": end_ns + 30_000,  # the end of a round, and a turn of the event loop (select, trio)
        "frame_ns": step_ns + small_receive,
        "byte_ns": 1 + (large_receive - small_receive) // 19_900 + hash_ns // len(chunk),
        "send_ns": small_send,
        "send_byte_ns": 1 + (large_send - small_send) // 19_900,
        "sign_ns": best(lambda: key.sign(statement), 2000),
        "verify_ns": best(lambda: verify_signature(key.public, statement, signature), 1000),
        "coin_share_ns": best(lambda: judge.share(next(names)), 50),  # with the coin's point, which checks then know
        "coin_verify_ns": best(lambda: judge.verify("m1", b"coin", shares["m1"]), 50),
        "coin_combine_ns": best(lambda: judge.combine(b"coin", shares), 50) // judge.threshold,
        "apply_ns": best(apply, 5000),
        "chunk_ns": best(checkpoint, 50) // filled.snapshot().count,
        "record_ns": best(write, 5000),
        "sync_us": sync_us(),
        "sync_kib_us": 1,
    }
    print("MEASURED = Costs(")
    for name, figure in table.items():
        print(f"    {name}={figure:_},")
    print(")")
    print(json.dumps({"event": "result", **table}))


if __name__ == "__main__":
    main()
