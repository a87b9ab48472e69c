"""The contract suite has teeth: each bug planted here, into every protocol, is caught by the check that names it.

The bugs are put around a machine, between it and the world, so that they say nothing about how the protocol works
inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, Self

import attrs
import pytest

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import (
    Deliver,
    Digest,
    DrawKey,
    Effect,
    MemberId,
    Out,
    Persist,
    Record,
    SetTimer,
    Slot,
    TimerKey,
)
from bftkit.core.ordering import (
    Available,
    Carried,
    Decided,
    Fetch,
    OrderingInput,
    OrderingMachine,
    Plugin,
    Setup,
)
from bftkit.core.plugin import load_protocol, protocol_names
from bftkit.core.state import fingerprint, fork
from bftkit.sim import contract

SEEDS = range(1, 13)


@attrs.define(eq=False)
class Around(OrderingMachine):
    """A machine with nothing wrong about it, yet: it passes all inputs and effects on."""

    inner: Any
    me: MemberId

    @property
    def room(self) -> int:
        return int(self.inner.room)

    @property
    def leader(self) -> MemberId | None:
        leader: MemberId | None = self.inner.leader
        return leader

    @property
    def view(self) -> int:
        return int(self.inner.view)

    @property
    def highest_voted(self) -> Slot:
        return int(self.inner.highest_voted)

    def standing(self) -> Sequence[Record]:
        records: Sequence[Record] = self.inner.standing()
        return records

    def fork(self) -> Self:
        return fork(self)

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def on_start(self, out: Out[Any, Any]) -> None:
        self.call(out, "on_start")

    def on_input(self, value: OrderingInput, out: Out[Any, Any]) -> None:
        self.call(out, "on_input", value)

    def on_message(self, sender: MemberId, message: Any, out: Out[Any, Any]) -> None:
        self.call(out, "on_message", sender, message)

    def on_timer(self, key: TimerKey, out: Out[Any, Any]) -> None:
        self.call(out, "on_timer", key)

    def on_draw(self, key: DrawKey, value: int, out: Out[Any, Any]) -> None:
        self.call(out, "on_draw", key, value)

    def on_restore(self, records: Sequence[Record], out: Out[Any, Any]) -> None:
        self.call(out, "on_restore", records)

    def on_stable(self, slot: Slot, digest: Digest, out: Out[Any, Any]) -> None:
        self.call(out, "on_stable", slot, digest)

    def on_stop(self, slot: Slot, out: Out[Any, Any]) -> None:
        self.call(out, "on_stop", slot)

    def call(self, out: Out[Any, Any], event: str, *values: Any) -> None:
        """One call of the inner machine; what it wants goes through `change`."""
        inner: Out[Any, Any] = Out()
        getattr(self.inner, event)(*values, inner)
        out.effects.extend(self.change(inner.effects))

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        """The effects as they leave."""
        return effects


class ForgetsToPersist(Around):
    """No record reaches the disk."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        return [effect for effect in effects if not isinstance(effect, Persist)]


class PersistsLate(Around):
    """Votes leave before their records are durable."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        return sorted(effects, key=lambda effect: isinstance(effect, Persist))


class RestoresNothing(Around):
    """A restart is a fresh start."""

    def on_restore(self, records: Sequence[Record], out: Out[Any, Any]) -> None:
        super().on_restore([], out)


class RestoresOneLess(Around):
    """The last record is taken for torn."""

    def on_restore(self, records: Sequence[Record], out: Out[Any, Any]) -> None:
        super().on_restore(records[:-1], out)


class SkipsASlot(Around):
    """Slot 7 is not delivered."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        return [effect for effect in effects if not (isinstance(effect, Deliver) and _slot(effect.output) == 7)]


class DecidesTwice(Around):
    """Slot 7 is delivered twice."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        return [
            copy
            for effect in effects
            for copy in [effect] * (1 + (isinstance(effect, Deliver) and _slot(effect.output) == 7))
        ]


class Disagrees(Around):
    """Member m2 takes slot 7 to be empty."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        wrong = self.me == "m2"
        return [
            Deliver(Decided(7, NO_DIGEST))
            if wrong and isinstance(effect, Deliver) and _slot(effect.output) == 7
            else effect
            for effect in effects
        ]


class Invents(Around):
    """Everybody decides in slot 7 what nobody submitted."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        return [
            Deliver(Decided(7, b"\7" * 32)) if isinstance(effect, Deliver) and _slot(effect.output) == 7 else effect
            for effect in effects
        ]


class VotesWithoutBytes(Around):
    """Does not wait for the bytes (SAFETY rule 3)."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        changed: list[Effect[Any, Any]] = []
        for effect in effects:
            changed.append(effect)
            if isinstance(effect, Deliver) and isinstance(effect.output, Fetch):
                more: Out[Any, Any] = Out()
                self.inner.on_input(Available(effect.output.digest), more)
                changed.extend(self.change(more.effects))
        return changed


class BlamesTheInnocent(Around):
    """Takes a message for a crime."""

    def on_message(self, sender: MemberId, message: Any, out: Out[Any, Any]) -> None:
        out.blame(sender, "it spoke")
        super().on_message(sender, message, out)


class Raises(Around):
    """Cannot bear a repeated message."""

    heard: ClassVar[set[tuple[str, str, str]]] = set()

    def on_message(self, sender: MemberId, message: Any, out: Out[Any, Any]) -> None:
        said = (self.me, sender, repr(message))
        if said in self.heard:
            raise KeyError(said)
        self.heard.add(said)
        super().on_message(sender, message, out)


class NeverRepeats(Around):
    """Says everything once: no timer, no retransmission."""

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        return [effect for effect in effects if not isinstance(effect, SetTimer)]


class IgnoresTheStop(Around):
    """Goes on beyond the end of the epoch (SAFETY rule 23)."""

    def on_stop(self, slot: Slot, out: Out[Any, Any]) -> None:
        return


class IsDifferentEachTime(Around):
    """Behaviour that comes from outside the machine, such as a clock, an address or a hash seed."""

    chance: ClassVar[Any] = count()

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        return [
            SetTimer(effect.key, effect.ticks + next(self.chance) % 5) if isinstance(effect, SetTimer) else effect
            for effect in effects
        ]


class SharesWithItsFork(Around):
    """A fork that is no copy."""

    def fork(self) -> Self:
        return self


@attrs.define(eq=False)
class Hoards(Around):
    """Remembers every slot for ever."""

    hoard: list[Slot] = attrs.field(factory=list[Slot])

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        self.hoard.extend(_slot(effect.output) for effect in effects if isinstance(effect, Deliver))
        return effects


class WritesTooMuch(Around):
    """Every decision becomes a standing record."""

    def standing(self) -> Sequence[Record]:
        return self.written

    written: ClassVar[list[Record]] = []

    def change(self, effects: list[Effect[Any, Any]]) -> list[Effect[Any, Any]]:
        self.written.extend(b"decided" for effect in effects if isinstance(effect, Deliver) and _slot(effect.output))
        return effects


def _slot(output: Any) -> Slot:
    return output.slot if isinstance(output, Decided) else 0


def loses_the_last_slot(plugin: Plugin) -> Plugin:
    """The continuation is one slot too short."""

    def carry(setup: Setup, stable: Slot, histories: Mapping[MemberId, bytes]) -> Carried:
        carried = plugin.carry(setup, stable, histories)
        return attrs.evolve(carried, slots=carried.slots[:-1])

    return attrs.evolve(plugin, carry=carry)


def believes_the_first_alone(plugin: Plugin) -> Plugin:
    """The continuation depends on who is asked first."""

    def carry(setup: Setup, stable: Slot, histories: Mapping[MemberId, bytes]) -> Carried:
        first = next(iter(histories.values()))
        return plugin.carry(setup, stable, dict.fromkeys(histories, first))

    return attrs.evolve(plugin, carry=carry)


def believes_everything(plugin: Plugin) -> Plugin:
    """Any bytes are a history."""

    def check_history(setup: Setup, member: MemberId, stable: Slot, history: bytes) -> bool:
        return True

    return attrs.evolve(plugin, check_history=check_history)


def around(cls: type[Around]) -> Callable[[Plugin], Plugin]:
    """The plug-in, with the bug around each machine."""

    def plant(plugin: Plugin) -> Plugin:
        def create(setup: Setup) -> OrderingMachine:
            return cls(plugin.create(setup), setup.me)

        return attrs.evolve(plugin, create=create)

    return plant


BUGS: Mapping[str, tuple[Callable[[Plugin], Plugin], str]] = {
    "forgets to persist": (around(ForgetsToPersist), "restarts_contradict_no_vote"),
    "forgets to persist (histories)": (around(ForgetsToPersist), "histories_lose_nothing"),
    "persists late": (around(PersistsLate), "restarts_contradict_no_vote"),
    "restores nothing": (around(RestoresNothing), "restarts_contradict_no_vote"),
    "restores one record less": (around(RestoresOneLess), "restarts_contradict_no_vote"),
    "skips a slot": (around(SkipsASlot), "fault_free"),
    "decides twice": (around(DecidesTwice), "fault_free"),
    "disagrees": (around(Disagrees), "fault_free"),
    "invents": (around(Invents), "fault_free"),
    "votes without bytes": (around(VotesWithoutBytes), "loss"),
    "blames the innocent": (around(BlamesTheInnocent), "fault_free"),
    "raises": (around(Raises), "duplication_and_reordering"),
    "never repeats": (around(NeverRepeats), "loss"),
    "ignores the stop": (around(IgnoresTheStop), "stop_and_successor"),
    "is different each time": (around(IsDifferentEachTime), "same_seed_same_run"),
    "shares with its fork": (around(SharesWithItsFork), "forks_are_equal_and_independent"),
    "hoards": (around(Hoards), "state_is_bounded"),
    "writes too much": (around(WritesTooMuch), "state_is_bounded"),
    "loses the last slot": (loses_the_last_slot, "histories_lose_nothing"),
    "believes the first alone": (believes_the_first_alone, "histories_lose_nothing"),
    "believes everything": (believes_everything, "garbage_histories"),
}


def cases(plugin: Plugin, seeds: Sequence[int], check: str) -> list[contract.Case]:
    """Small groups with a liar first: they are quick, and most bugs show there."""
    return sorted(contract.cases(plugin, seeds, [check]), key=lambda case: (case.shape.f == 0, case.shape.n))


def planted() -> list[tuple[str, str]]:
    """Every bug in every protocol."""
    return [(protocol, bug) for protocol in protocol_names() for bug in BUGS]


@pytest.mark.parametrize(("protocol", "bug"), planted())
def test_a_planted_bug_is_caught(protocol: str, bug: str) -> None:
    plant, check = BUGS[bug]
    Raises.heard.clear()
    WritesTooMuch.written.clear()
    for case in cases(plant(load_protocol(protocol)), SEEDS, check):
        try:
            contract.run(case)
        except AssertionError:
            return
    pytest.fail(f"{check} holds although the protocol {bug}")


@pytest.mark.parametrize("protocol", protocol_names())
def test_what_stands_around_the_machines_here_is_no_bug_itself(protocol: str) -> None:
    plugin = around(Around)(load_protocol(protocol))
    for check in sorted({check for _, check in BUGS.values()}):
        contract.run(cases(plugin, SEEDS, check)[0])
