"""A block world with time, for the bedrock agreement: timers and draws, loss, crashes, and `Again` every second.

Each delivery takes a few ticks; a run goes on with whatever comes first, a message, a timer or the next `Again`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bftkit.blocks.bedrock import CODEC, Again, Agreed, Bedrock, Input, Message, Propose
from bftkit.core.machine import CancelTimer, Digest, Draw, DrawKey, MemberId, Out, SetTimer, TimerKey
from bftkit.core.ordering import Setup
from bftkit.sim.block_world import BlockWorld, Liar, block_setups

ID = b"ending"
VALUE_MAX = 4000
AGAIN_TICKS = 1000
STEPS_MAX = 30_000


def valid(value: bytes) -> bool:
    return value.startswith(b"good")


def anything(value: bytes) -> bool:
    return True


def value_of(name: MemberId) -> bytes:
    return b"good " + name.encode() * 100


class BedrockWorld(BlockWorld[Input, Message, Agreed]):
    """The members of one bedrock agreement; see the top of this file."""

    def __init__(
        self,
        n: int,
        f: int = 0,
        c: int = 0,
        *,
        seed: int = 1,
        loss: float = 0.0,
        absent: tuple[MemberId, ...] = (),
        liars: Mapping[MemberId, Liar[Message]] | None = None,
        create: Callable[[Setup], Bedrock] | None = None,
    ) -> None:
        """`absent` members join later, by `restart`. `loss` is the share of messages that never arrive."""
        self.setups = block_setups(n, f, c, seed=seed)
        self.now = 0
        self.loss = loss
        self.timers: dict[tuple[MemberId, TimerKey], int] = {}
        self.next_again = AGAIN_TICKS
        self.observed: list[Callable[[], None]] = []
        """Called after each step of the world."""
        self.launched: list[Callable[[Message], None]] = []
        """Called with each message, for each of its receivers."""
        self._draws: list[tuple[MemberId, DrawKey, int]] = []
        lying = liars or {}

        def make(name: MemberId) -> Bedrock:
            setup = self.setups[name]
            if create is not None:
                return create(setup)
            return Bedrock.create(setup, ID, anything if name in lying else valid, VALUE_MAX)

        super().__init__({name: make(name) for name in self.setups}, seed=seed, create=make, codec=CODEC, liars=liars)
        for name in absent:
            self.crash(name, lose=True)

    def machine(self, name: MemberId) -> Bedrock:
        found = self.machines[name]
        assert isinstance(found, Bedrock)
        return found

    def propose(self, *names: MemberId) -> None:
        for name in names or tuple(self.machines):
            self.input(name, Propose(value_of(name)))

    def crash(self, member: MemberId, *, lose: bool = False) -> None:
        super().crash(member, lose=lose)
        self.timers = {key: due for key, due in self.timers.items() if key[0] != member}

    def move(self) -> None:
        """Whatever comes next."""
        due = sorted((at, name, repr(key), key) for (name, key), at in self.timers.items())
        timed = min(due[0][0] if due else self.next_again, self.next_again)
        if self.flights and self.now < timed:
            self.now += self.random.randrange(8)
            if self.random.random() < self.loss:
                self.flights.pop(self.random.randrange(len(self.flights)))
            else:
                self.step()
        elif due and due[0][0] <= self.next_again:
            self.now, name, _, key = due[0]
            del self.timers[name, key]
            machine = self.machines[name]
            self._act(name, lambda out: machine.on_timer(key, out))
        else:
            self.now = self.next_again
            self.next_again += AGAIN_TICKS
            for name in tuple(self.machines):
                self.input(name, Again())
        for look in self.observed:
            look()

    def go(self, until: Callable[[], bool] | None = None) -> None:
        """Until all members that are up, or `until`, are done. Raises `AssertionError` if that takes for ever."""
        done = until or (lambda: all(self.machine(name).result for name in self.machines if name not in self.liars))
        for _ in range(STEPS_MAX):
            if done():
                return
            self.move()
        raise AssertionError(f"seed {self.seed}: not done after {self.now} ticks, {len(self.flights)} under way")

    def outcome(self) -> bytes:
        """The one value that honest members agreed on. Raises `AssertionError` if there is none, or two."""
        values = {result.value for name in self.honest for result in self.outputs[name]}
        assert len(values) == 1, f"seed {self.seed}: {values}"
        value = values.pop()
        assert valid(value)
        return value

    def _launch(self, sender: MemberId, receiver: MemberId, message: Message, carry: tuple[Digest, ...] = ()) -> None:
        super()._launch(sender, receiver, message, carry)
        for look in self.launched:
            look(message)

    def _act(self, member: MemberId, event: Callable[[Out[Message, Agreed]], None]) -> None:
        def without_time(out: Out[Message, Agreed]) -> None:
            inner = Out[Message, Agreed]()
            event(inner)
            for effect in inner.effects:
                match effect:
                    case SetTimer(key, ticks):
                        self.timers[member, key] = self.now + ticks
                    case CancelTimer(key):
                        self.timers.pop((member, key), None)
                    case Draw(key, choices):
                        self._draws.append((member, key, self.random.randrange(choices)))
                    case _:
                        out.effects.append(effect)

        super()._act(member, without_time)
        while self._draws and self._draws[0][0] == member:
            _, key, value = self._draws.pop(0)
            machine = self.machines[member]
            self._act(member, lambda out: machine.on_draw(key, value, out))  # noqa: B023 - called at once
