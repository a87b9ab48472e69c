"""An answer counts for the question that it answers: one of this call, of this order, of this life."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from bftkit.channel import frames
from bftkit.channel.bundles import OK
from bftkit.channel.client import (
    AskRead,
    ClientMachine,
    ClientOutput,
    CommandState,
    Enough,
    MemberStatus,
    Order,
    ReadDone,
)
from bftkit.channel.client_face import NUMBERS
from bftkit.channel.client_orders import ASK_TICKS
from bftkit.channel.frames import ASK_CODEC, AskCommand, AskStatus, CommandAnswer, StatusAnswer, pack_answer
from bftkit.client import AsyncClient, SyncClient
from bftkit.client.connect import client_settings
from bftkit.client.core import ClientCore
from bftkit.core.machine import MemberId, Out
from bftkit.core.wire import WireError
from bftkit.crypto.keys import SigningKey
from bftkit.network.hub import Event, Peer, Received
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from tests.chains import Group, asks
from tests.unit import following_client, test_glances
from tests.unit.test_client_machine import GROUP, MEMBERS, Client, asked, read_answer

FIRST = 1
"""The number of a client's first question, if it has no earlier life."""

Script = Callable[[MemberId, int], Sequence[int]]
"""Who is asked which number, and the numbers of the questions that it answers then."""


class Members(MemoryHub):
    """A hub whose members answer by a script. Its clock goes on as long as somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self.script: Script = lambda _, number: [number]
        self.views: list[Sequence[Peer]] = [MEMBERS]
        """With whom there are links, each time that somebody looks; the last one stays."""
        self.core: ClientCore | None = None
        self._answers: Received = []
        super().__init__(MemoryNetwork(), Identity.from_seed(b"c" * 32), GROUP, clock=lambda: self.now)

    def send(self, peer: Peer, frame: bytes) -> bool:
        try:
            ask = ASK_CODEC.decode(frame[1:])
        except WireError:
            return True
        if isinstance(ask, AskStatus) and isinstance(peer, str):
            texts = [(number, f'{{"said_to": {number - FIRST}}}') for number in self.script(peer, ask.number)]
            self._answers.append((peer, [pack_answer(StatusAnswer(number, text)) for number, text in texts]))
        return True

    def poll(self, timeout: float | None = 0.0) -> Received:
        received, self._answers = self._answers, []
        self.now += 0.0 if received else min(timeout or 0.0, 0.25)
        return received

    def events(self) -> list[Event]:
        return []

    def up(self) -> list[Peer]:
        return list(self.views.pop(0) if len(self.views) > 1 else self.views[0])

    def wake(self) -> None:
        if self.core is not None:  # as the loop does that drives an asynchronous client
            self.core.turn()


@pytest.fixture
def hub() -> Members:
    return Members()


@pytest.fixture
def core(hub: Members) -> Generator[ClientCore]:
    core = ClientCore(Client(linked=False).machine.settings, hub, {})
    yield core
    core.close()


def numbers(statuses: Mapping[MemberId, Mapping[str, int]]) -> dict[MemberId, int]:
    """To which question each member's answer was; 0 is the client's first."""
    return {member: status["said_to"] for member, status in statuses.items()}


# ------------------------------------------------------------------------------------------------ how members are


def late_member(member: MemberId, number: int) -> Sequence[int]:
    """m3 answers the first question when it is asked another one, and no other."""
    if member == "m3":
        return [FIRST] if number > FIRST else []
    return [number]


def test_a_late_answer_to_an_earlier_call_is_none_to_this_one(hub: Members, core: ClientCore) -> None:
    hub.script = late_member
    client = SyncClient(core)
    assert numbers(client.status()) == {"m0": 0, "m1": 0, "m2": 0}
    assert numbers(client.status()) == {"m0": 1, "m1": 1, "m2": 1}, "m3 may have stopped since it said that"


def test_a_late_answer_to_this_call_counts_and_links_that_come_up_bring_the_question(
    hub: Members, core: ClientCore
) -> None:
    hub.views = [MEMBERS[:2], MEMBERS[:3]]  # so that all are asked twice
    hub.script = late_member
    assert numbers(SyncClient(core).status()) == {"m0": 1, "m1": 1, "m2": 1, "m3": 0}


def test_whose_link_was_lost_is_asked_again_over_the_next_one(hub: Members, core: ClientCore) -> None:
    """What was asked over the link before is lost, or its answer is (regression)."""
    hub.views = [MEMBERS, MEMBERS[:3], MEMBERS]
    hub.script = lambda member, number: [] if member == "m3" and number == FIRST else [number]
    assert numbers(SyncClient(core).status()) == {"m0": 1, "m1": 1, "m2": 1, "m3": 1}


async def test_a_late_answer_to_an_earlier_call_is_none_to_this_one_for_tasks_either(
    hub: Members, core: ClientCore, autojump_clock: MockClock
) -> None:
    hub.core = core
    client = AsyncClient(core)
    hub.script = lambda member, number: [] if member == "m3" else [number]
    assert sorted(await client.status()) == ["m0", "m1", "m2"]
    last = core.machine.status_number
    hub.script = lambda member, number: [last] if member == "m3" else [number]
    assert sorted(await client.status()) == ["m0", "m1", "m2"]
    new = core.machine.status_number + 1
    hub.script = lambda member, number: [number] if member != "m3" else [new] if number > new else []
    assert numbers(await client.status())["m3"] == new - FIRST, "the question was repeated before this answer came"


async def test_calls_under_way_at_the_same_time_do_not_disturb_each_other(
    hub: Members, core: ClientCore, autojump_clock: MockClock
) -> None:
    """m0 and m1 answer the first call's first question only; m2 and m3 answer once the second call is under way."""
    hub.core = core
    client = AsyncClient(core)
    found: dict[str, Mapping[MemberId, Mapping[str, int]]] = {}
    since: list[int] = []

    def script(member: MemberId, number: int) -> Sequence[int]:
        if member in ("m0", "m1"):
            return [number] if number == FIRST else []
        return [number] if since and number > since[0] else []

    async def ask(name: str) -> None:
        found[name] = await client.status()

    hub.script = script
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        await trio.sleep(1)
        since.append(core.machine.status_number)
        nursery.start_soon(ask, "second")
    assert sorted(found["first"]) == list(MEMBERS)
    assert sorted(found["second"]) == ["m2", "m3"], "the others said nothing since it was called"


def test_what_was_never_asked_is_not_answered() -> None:
    client = Client()
    client.step("ask_status")
    for number in (0, FIRST + 1):
        client.hear("m0", pack_answer(StatusAnswer(number, "{}")))
    assert client.said == []
    client.hear("m0", pack_answer(StatusAnswer(FIRST, "{}")))
    assert client.said == [MemberStatus("m0", "{}", FIRST)]


# ------------------------------------------------------------------------------------------------ two lives


def later_life() -> Client:
    """The same client, started again in the next millisecond."""
    client = Client(linked=False)
    client.machine = ClientMachine(attrs.evolve(client.machine.settings, started_ms=2, asked_before=2 * NUMBERS))
    for member in MEMBERS:
        client.link(member)
    return client


def test_each_life_has_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()

    def started(at: float) -> ClientMachine:
        monkeypatch.setattr("time.time", lambda: at)
        return ClientMachine(client_settings(group.genesis, SigningKey(b"c" * 32)))

    one, next_one = started(1_800_000_000.0), started(1_800_000_000.001)
    assert next_one.status_number - one.status_number == NUMBERS
    out: Out[bytes, ClientOutput] = Out()
    next_one.ask_status(out)  # the number fits into its field, also when this century ends
    started(4_200_000_000.0).ask_status(out)


def test_a_read_of_an_earlier_life_answers_no_read_of_this_one() -> None:
    """Members let reads wait until what they voted for is decided, and then answer whoever has the key."""
    before, client = Client(), later_life()
    before.step("on_input", AskRead(1, b"one question"))
    client.step("on_input", AskRead(1, b"another question"))
    for member, number in asked(before):
        read_answer(client, member, number, b"to the one")
    assert client.said == []
    for member, number in asked(client)[:3]:
        read_answer(client, member, number, b"to the other")
    assert client.said == [ReadDone(1, OK, b"to the other")]


def test_nor_does_a_best_effort_read_of_an_earlier_life() -> None:
    before, client = Client(), later_life()
    for one in (before, client):
        test_glances.ask(one)
    for member in MEMBERS:
        test_glances.answer(client, member, test_glances.asked(before)[0][1])
    assert test_glances.done(client) == []
    ((member, number),) = test_glances.asked(client)
    test_glances.answer(client, member, number)
    assert len(test_glances.done(client)) == 1


def test_nor_what_a_member_said_of_itself_then() -> None:
    client = later_life()
    client.step("ask_status")
    client.hear("m0", pack_answer(StatusAnswer(FIRST, "{}")))
    assert client.said == []
    assert client.machine.status_number == 2 * NUMBERS + 1


# ------------------------------------------------------------------------------------------------ commands


def test_what_was_said_of_an_earlier_order_is_not_said_of_this_one() -> None:
    """All doors were shut then; it is ordered once more since they may be open now."""
    group = Group()
    client = following_client.Client(group)
    signed = group.command(asks(protocol="paxos"))
    client.step("on_input", Order(signed))
    client.step("on_input", Enough(signed.name))
    client.sent.clear()
    client.step("on_input", Order(signed))
    (number,) = {ask.number for _, ask in client.asked() if isinstance(ask, AskCommand)}
    client.tick(ASK_TICKS)
    for said, state in ((FIRST, frames.REFUSED), (number, frames.TAKEN), (number + 2, frames.REFUSED)):
        for member in client.members:
            client.tell(member, CommandAnswer(said, signed.name, state, "text"))
    states = {(one.state, one.final) for one in client.outputs(CommandState) if one.by}
    assert states == {(frames.TAKEN, False)}
