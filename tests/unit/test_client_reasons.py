"""Why there is no answer: what a caller is told is about its own request, and in words of members that are there."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from bftkit.channel import frames
from bftkit.channel.bundles import OK
from bftkit.channel.client import PATIENCE_TICKS, AskRead
from bftkit.channel.client_session import InFlight
from bftkit.channel.frames import LinkProof, ReadRefusal, Refusal, pack_answer
from bftkit.channel.glances import GLANCE_PATIENCE_TICKS
from bftkit.client import NoAnswer, SyncClient, TooFewAgreed
from bftkit.client.core import ClientCore, Pending
from bftkit.core.digest import digest
from bftkit.network.hub import Event, LinkDown, LinkUp, Received
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from tests.unit.test_client_machine import GROUP, MEMBERS, SESSION, Client, read_answer


def refuse(client: Client, member: str, text: str, first: int = 1, *, session: int = SESSION) -> None:
    client.hear(member, pack_answer(Refusal(session, first, frames.BUSY, text)))


# ------------------------------------------------------------------------------------------------ the machine


def test_a_refusal_is_told_of_the_operation_that_was_refused_and_of_no_other() -> None:
    client = Client()
    client.open()
    client.submit(b"second", b"third")
    refuse(client, "m1", "the pool is full")
    refuse(client, "m2", "the pool is full")
    refuse(client, "m3", "no room for this", first=2)
    assert client.machine.reasons(1) == {"m1": "the pool is full", "m2": "the pool is full"}
    assert client.machine.reasons(2) == client.machine.reasons(3) == {"m3": "no room for this"}
    assert set(client.machine.reasons(1, 3)) == {"m1", "m2", "m3"}
    client.reply("m0", 1, [(OK, b"")])
    client.reply("m1", 1, [(OK, b"")])
    assert client.machine.reasons(1) == {}
    assert client.machine.reasons(2) == {"m3": "no room for this"}


def test_without_a_session_the_opening_is_what_is_refused() -> None:
    client = Client()
    client.submit(b"first")
    refuse(client, "m1", "not listed", 0, session=0)
    assert client.machine.reasons(1) == {"m1": "not listed"}


def test_a_member_that_answered_since_refuses_no_more() -> None:
    client = Client()
    client.open()
    refuse(client, "m1", "the pool is full")
    refuse(client, "m1", "the disk is full")
    refuse(client, "m2", "the pool is full")
    assert client.machine.reasons(1) == {"m1": "the disk is full", "m2": "the pool is full"}
    client.reply("m1", 1, [(OK, b"")])
    assert client.machine.reasons(1) == {"m2": "the pool is full"}


def test_who_is_silent_after_two_more_sendings_is_not_quoted_any_more() -> None:
    client = Client()
    client.open()
    refuse(client, "m1", "the pool is full")
    client.tick(PATIENCE_TICKS)
    assert client.machine.reasons(1) == {"m1": "the pool is full"}, "its answer to the new sending may be on its way"
    refuse(client, "m2", "the disk is full")
    client.tick(2 * PATIENCE_TICKS)
    assert client.machine.reasons(1) == {"m2": "the disk is full"}


def test_in_a_new_epoch_nothing_has_been_refused() -> None:
    bundle = InFlight(b"raw", 1, 1, 300)
    bundle.reasons["m1"] = (1, "this epoch has ended")
    bundle.keep({"m0", "m1"})
    assert bundle.present_reasons == {}


def test_of_a_read_the_members_words_about_it_are_told() -> None:
    client = Client()
    client.open()
    client.submit(b"other")
    refuse(client, "m3", "no room for this", first=2)
    client.step("on_input", AskRead(77, b"question", "strong"))
    client.hear("m1", pack_answer(ReadRefusal(1, "behind")))
    assert client.machine.reasons_of_read(77) == {"m1": "behind"}
    assert client.machine.reasons_of_read(78) == {}
    read_answer(client, "m1", 1, b"answer")
    assert client.machine.reasons_of_read(77) == {}
    client.tick(PATIENCE_TICKS)
    refuse(client, "m2", "the pool is full", first=3)
    assert client.machine.reasons_of_read(77) == {"m2": "the pool is full"}, "it was ordered meanwhile"


def test_of_a_best_effort_read_too() -> None:
    client = Client()
    client.step("on_input", AskRead(77, b"question", "best-effort"))
    client.hear("m1", pack_answer(ReadRefusal(1, "behind")))
    client.hear("m3", pack_answer(ReadRefusal(1, "nobody asked it")))
    assert client.machine.reasons_of_read(77) == {"m1": "behind"}
    client.tick(len(MEMBERS) * (GLANCE_PATIENCE_TICKS + 50))  # everybody is asked again, m1 among them
    assert client.machine.reasons_of_read(77) == {}


# ------------------------------------------------------------------------------------------------ what is told


class Scripted(MemoryHub):
    """Says what a test wants said."""

    def __init__(self) -> None:
        self.happened: list[Event] = []
        self.received: Received = []
        super().__init__(MemoryNetwork(), Identity.from_seed(b"c" * 32), GROUP)

    def poll(self, timeout: float | None = 0.0) -> Received:
        received, self.received = self.received, []
        return received

    def events(self) -> list[Event]:
        happened, self.happened = self.happened, []
        return happened


@pytest.fixture
def core() -> Generator[ClientCore]:
    core = ClientCore(Client(linked=False).machine.settings, Scripted(), {})
    yield core
    core.close()


def turn(core: ClientCore, *events: Event, said: Received | None = None) -> None:
    assert isinstance(core.hub, Scripted)
    core.hub.happened, core.hub.received = list(events), said or []
    core.turn()


def up(member: str) -> LinkUp:
    return LinkUp(member, b"", b"", b"binding of " + member.encode(), dialled=True, first=True)


def proof(member: str) -> bytes:
    rings = Client(linked=False).rings
    return pack_answer(LinkProof(0, rings[member].sign(frames.LINK_PURPOSE, b"binding of " + member.encode())))


def unanswered(core: ClientCore, pending: Pending) -> str:
    error = core.give_up(pending)
    assert isinstance(error, TooFewAgreed)
    return str(error)


def test_the_text_names_who_answered_and_why_they_refuse_this_request(core: ClientCore) -> None:
    one = core.submit([b"one"], lambda: None)
    for member in ("m0", "m1", "m2"):
        turn(core, up(member), said=[(member, [proof(member)])])
    full, other = (pack_answer(Refusal(0, 0, frames.BUSY, text)) for text in ("the pool is full", "starting"))
    turn(core, said=[("m0", [full]), ("m1", [other]), ("m2", [full])])
    read = core.read(b"question", lambda: None)
    told = "m0, m1, m2 answered, but too few agreed"
    assert unanswered(core, one) == f"{told}; m0, m2: the pool is full; m1: starting"
    assert unanswered(core, read) == told
    assert str(core.unanswered()) == told, "an operators' command has answers of its own"


def test_many_different_reasons_are_not_all_told(core: ClientCore) -> None:
    machine = core.machine
    machine.heard_from.add("m0")
    reasons = {f"m{index}": f"reason {min(index, 4)}" for index in range(7)}
    text = str(core.unanswered(1, reasons))
    assert text == "m0 answered, but too few agreed; m4, m5, m6: reason 4; m0: reason 0; m1: reason 1"


def test_who_is_gone_has_not_answered(core: ClientCore) -> None:
    pending = core.submit([b"one"], lambda: None)
    turn(core, up("m0"), up("m1"), said=[("m0", [proof("m0")]), ("m1", [proof("m1")])])
    assert "m0, m1 answered" in unanswered(core, pending)
    turn(core, LinkDown("m0", "reset", dialled=True, last=True), said=[("m0", [proof("m0")])])
    assert unanswered(core, pending).startswith("m1 answered")
    turn(core, LinkDown("m1", "reset", dialled=True, last=False))
    assert unanswered(core, pending).startswith("m1 answered"), "another link leads to it"
    turn(core, LinkDown("m1", "reset", dialled=True, last=True), up("m1"))
    assert unanswered(core, pending).startswith("m1 answered"), "it is back"
    turn(core, LinkDown("m1", "reset", dialled=True, last=True))
    with pytest.raises(NoAnswer, match="no member answered"):
        SyncClient(core).wait(pending.first, timeout=0.01)


def test_a_digest_that_does_not_fit_withdraws_no_refusal() -> None:
    client = Client()
    client.step("on_input", AskRead(77, b"question", "strong"))
    client.hear("m1", pack_answer(ReadRefusal(1, "behind")))
    bad = frames.ReadAnswer(1, 0, 9, 0, digest(b"\0", b"answer"), b"other")
    client.hear("m1", pack_answer(bad))
    assert client.machine.reasons_of_read(77) == {"m1": "behind"}
