"""Golden traces: a few short runs that a person can read, compared line by line with what was committed.

Each scenario below gives one text file beside this one. When a protocol is changed on purpose, write them anew with
``pytest tests/traces --rewrite-traces`` and read the diff: it is the change, as messages and effects.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from bftkit.blocks import agreement_messages, coin, consistent_broadcast, validated_messages
from bftkit.channel import frames
from bftkit.channel.bundles import CLOCK, OPEN, REQUESTS, Bundle, parse_batch, parse_bundle
from bftkit.channel.interface import FromClient
from bftkit.core.machine import Broadcast, MemberId, Out, Send
from bftkit.core.ordering import Neglected
from bftkit.core.plugin import load_protocol
from bftkit.core.trace import Trace
from bftkit.sim.host import Due, Event, FromMember, Host
from bftkit.sim.links import Network as Links
from bftkit.sim.ordering.parts import Node
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit.sim.register import Put
from bftkit.sim.world import World
from bftkit_cks import messages as cks_messages

HERE: Final = Path(__file__).parent
QUICK: Final = Network(delay_min=1, delay_max=4)
PROMPT: Final = Disk(sync_min=1, sync_max=2)


def lines(world: OrderingWorld) -> str:
    assert world.trace is not None
    return world.trace.text()


def pbft_one_batch() -> str:
    """The normal case: pre-prepare, prepare, commit."""
    world = OrderingWorld(load_protocol("pbft"), 4, 1, 0, 1, network=QUICK, disk=PROMPT, trace=True)
    world.submit(1)
    world.run_until(world.all_delivered, 90)
    return lines(world)


def pbft_view_change() -> str:
    """Slot 1 is known to the leader alone, slot 2 is prepared at two members; then the leader crashes.

    The new view puts the empty batch into the gap and keeps what was prepared.
    """
    world = OrderingWorld(load_protocol("pbft"), 4, 1, 0, 1, network=QUICK, disk=PROMPT, trace=True)
    world.partition(["m0"])
    world.submit(1, ["m0"])
    world.run(10)
    world.heal()
    world.partition(["m0", "m1", "m2"], ["m3"])
    (prepared,) = world.submit(1, ["m0"])
    world.run(8)
    world.crash("m0")
    world.run(12)
    assert [world.height(member) for member in ("m1", "m2", "m3")] == [0, 0, 0]
    world.heal()
    world.input("m1", Neglected("m0"))
    world.input("m2", Neglected("m0"))
    world.run_until(lambda: all(world.height(member) == 2 for member in ("m1", "m2", "m3")), 90)
    assert world.chosen[2] == prepared
    return lines(world)


def coordinator_one_batch() -> str:
    """There and back: append, acknowledge, commit."""
    world = OrderingWorld(load_protocol("coordinator"), 3, 0, 1, 1, network=QUICK, disk=PROMPT, trace=True)
    world.submit(1)
    world.run_until(world.all_delivered, 90)
    return lines(world)


def coordinator_restart() -> str:
    """The coordinator crashes when its append is out and nobody's answer has come.

    Back again, it holds the slot by its disk, and learns from the followers' statuses who else does.
    """
    world = OrderingWorld(load_protocol("coordinator"), 3, 0, 1, 1, network=QUICK, disk=PROMPT, trace=True)
    world.submit(1, ["m0"])
    world.run_until(lambda: any(len(world.records(member)) > 0 for member in ("m1", "m2")), 90)
    world.crash("m0")
    assert world.chosen == {}
    world.run(160)
    world.restart("m0")
    world.run_until(world.all_delivered, 100)
    assert len(world.chosen) == 1
    return lines(world)


def paxos_one_batch() -> str:
    """There and back: accept, accepted; then the commit."""
    world = OrderingWorld(load_protocol("paxos"), 3, 0, 1, 1, network=QUICK, disk=PROMPT, trace=True)
    world.submit(1)
    world.run_until(world.all_delivered, 35)
    return lines(world)


def paxos_leader_change() -> str:
    """Slot 1 is known to the leader alone, slot 2 is accepted at m1, too; then the leader crashes.

    The others ask each other first; the promise of m1 tells of slot 2, and the empty batch closes the hole.
    """
    quick = {"beat": 10, "spread": 8}
    world = OrderingWorld(load_protocol("paxos"), 3, 0, 1, 1, network=QUICK, disk=PROMPT, parameters=quick, trace=True)
    world.partition(["m0"])
    world.submit(1, ["m0"])
    world.run(10)
    world.heal()
    world.partition(["m0", "m1"], ["m2"])
    (accepted,) = world.submit(1, ["m0"])
    world.run_until(lambda: len(world.records("m1")) > 1, 30)
    world.crash("m0")
    assert world.chosen == {}
    world.heal()
    world.run_until(lambda: all(world.height(member) == 2 for member in ("m1", "m2")), 110)
    assert world.chosen[2] == accepted
    return lines(world)


@attrs.frozen
class Opened:
    """A message of a block, with what stands in its bytes."""

    block: str
    round: int
    index: int
    said: Any


def opened(message: Any) -> Any:
    """A message of cks as a person wants to read it; anything else as it is."""
    if not isinstance(message, cks_messages.Part):
        return message
    number, kind, index, body = message.round, message.kind, message.index, message.body
    match kind:
        case 0:
            return Opened("offer", number, index, consistent_broadcast.CODEC.decode(body))
        case validated_messages.PROPOSAL:
            return Opened("proposal", number, index, consistent_broadcast.CODEC.decode(body))
        case validated_messages.COMMITMENT:
            return Opened("commitment", number, index, consistent_broadcast.CODEC.decode(body))
        case validated_messages.ORDER:
            return Opened("order", number, index, coin.CODEC.decode(body))
        case validated_messages.AGREEMENT:
            return Opened("agreement", number, index, agreement_messages.CODEC.decode(body))
        case validated_messages.STATEMENT:
            return Opened("statement", number, index, "yes" if body else "no")
        case _:
            return Opened("outcome", number, index, validated_messages.PROOFS.decode(body))


class OpenedWorld(OrderingWorld):
    """A world whose trace shows what stands in the messages of blocks."""

    def _note(self, node: Node, event: str, values: tuple[Any, ...], out: Out[Any, Any]) -> None:
        shown: Out[Any, Any] = Out()
        for effect in out.effects:
            match effect:
                case Send(to, message, carry):
                    shown.send(to, opened(message), carry)
                case Broadcast(message, carry):
                    shown.broadcast(opened(message), carry)
                case _:
                    shown.effects.append(effect)
        super()._note(node, event, tuple(opened(value) for value in values), shown)


def cks_one_round() -> str:
    """One request: its member offers it, the others offer nothing, and all agree on three of the four offers."""
    world = OpenedWorld(load_protocol("cks"), 4, 1, 0, 1, network=QUICK, disk=PROMPT, trace=True)
    world.submit(1)
    world.run_until(world.all_delivered, 190)
    return lines(world)


class WatchedWorld(World):
    """The whole-stack world; each frame that reaches a member, and each that leaves for a client, is a line."""

    def __init__(self, seed: int, network: Links) -> None:
        self.story = Trace()
        self.codec = load_protocol("pbft").codec
        super().__init__(seed, clients=1, network=network)
        self.inputs.append(self.hear)

    def hear(self, member: MemberId, event: Event) -> None:
        match event:
            case FromMember(sender, frame):
                self.story.input(self.now, member, f"< {sender}", *self.read(frame))
            case FromClient(_, frame):
                self.story.input(self.now, member, "< c0", *self.read(frame))
            case Due(key):
                self.story.input(self.now, member, "due", key)
            case _:
                self.story.input(self.now, member, type(event).__name__)

    def carry_to_client(self, host: Host, client: bytes, frame: bytes) -> None:
        self.story.input(self.now, host.me, "> c0", *self.read(frame))
        super().carry_to_client(host, client, frame)

    def read(self, frame: bytes) -> tuple[object, ...]:
        """What the frame says."""
        body = frame[1:]
        match frame[0]:
            case frames.PROTOCOL:
                _, message, carried = frames.unpack_protocol(frame)
                shown = ("carrying", *(self.batch(batch) for batch in carried)) if carried else ()
                return (self.codec.decode(message), *shown)
            case frames.BUNDLE:
                return (self.bundle(parse_bundle(body, bytes_max=1 << 20)),)
            case frames.CONTROL:
                return (frames.CONTROL_CODEC.decode(body),)
            case frames.ASK:
                return (frames.ASK_CODEC.decode(body),)
            case frames.REPLY:
                return (frames.unpack_reply(frame),)
            case _:
                return (frames.ANSWER_CODEC.decode(body),)

    def bundle(self, bundle: Bundle) -> str:
        kind = {REQUESTS: "requests", OPEN: "open session", CLOCK: "clock report"}[bundle.kind]
        return f"bundle({kind}, session={bundle.session}, first={bundle.first}, count={bundle.count})"

    def batch(self, batch: bytes) -> tuple[str, ...]:
        _, bundles = parse_batch(batch, bundle_bytes_max=1 << 20)
        return tuple(self.bundle(bundle) for bundle in bundles)


def client_put_and_read() -> str:
    """The whole stack: a client opens its session, puts a value and reads it back without ordering the read."""
    world = WatchedWorld(1, Links(delay_min=1, delay_max=4))
    client = world.actors["c0"]
    world.run(40)
    put = client.ask(Put(b"colour", b"blue"))
    world.run_until(lambda: world.outstanding == 0, 500)
    world.story.lines.append(f"{world.now:>8} c0   put colour: {client.answers[put]}")
    read = client.read(b"colour")
    world.run_until(lambda: world.outstanding == 0, 500)
    world.story.lines.append(f"{world.now:>8} c0   read colour: {client.reads[read]}")
    return world.story.text()


SCENARIOS: Final[dict[str, Callable[[], str]]] = {
    "pbft-one-batch": pbft_one_batch,
    "pbft-view-change": pbft_view_change,
    "paxos-one-batch": paxos_one_batch,
    "paxos-leader-change": paxos_leader_change,
    "coordinator-one-batch": coordinator_one_batch,
    "coordinator-restart": coordinator_restart,
    "cks-one-round": cks_one_round,
    "client-put-and-read": client_put_and_read,
}


def golden(name: str) -> str:
    """The file's text: the scenario's description, then its lines."""
    scenario = SCENARIOS[name]
    story = (scenario.__doc__ or "").strip().splitlines()
    return "".join(f"# {line.strip()}".rstrip() + "\n" for line in story) + "\n" + scenario()


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_trace_is_the_one_that_was_committed(name: str, request: pytest.FixtureRequest) -> None:
    path = HERE / f"{name}.txt"
    text = golden(name)
    if request.config.getoption("--rewrite-traces", default=False):
        path.write_text(text, encoding="utf-8")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines(), (
        f"{path.name} differs; if the change is meant: pytest tests/traces --rewrite-traces, and read the diff"
    )


def test_every_trace_has_its_scenario() -> None:
    assert sorted(path.stem for path in HERE.glob("*.txt")) == sorted(SCENARIOS)


def test_traces_do_not_depend_on_the_hash_seed() -> None:
    """Whatever decides walks nothing in an undefined order: sets of texts and bytes change theirs with this seed."""

    def under(seed: str) -> str:
        done = subprocess.run(
            [sys.executable, __file__],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return done.stdout

    first = under("1")
    assert first == "".join(golden(name) for name in SCENARIOS)
    assert first == under("4242")


if __name__ == "__main__":
    sys.stdout.write("".join(golden(name) for name in SCENARIOS))
