"""Best-effort reads: one member answers at once, and what it says is marked as its own."""

from __future__ import annotations

import pytest

from bftkit.channel import frames
from bftkit.channel.bundles import FAILED, OK
from bftkit.channel.client import AskRead, ReadDone
from bftkit.channel.frames import ASK_CODEC, Glance, ReadAnswer, ReadRefusal, pack_answer
from bftkit.channel.glances import GLANCE_PATIENCE_TICKS
from bftkit.client import OperationFailed
from bftkit.client.local import local_group, local_group_sync
from bftkit.configuration.qos import QoS
from bftkit.core.digest import digest
from bftkit.service.keyvalue import KeyValueStore, get, parse_value, put
from tests.chains import Group, asks
from tests.unit import following_client
from tests.unit.test_client_machine import MEMBERS, Client

TIMEOUT = 60.0


def ask(client: Client, token: int = 1) -> None:
    client.sent.clear()
    client.step("on_input", AskRead(token, b"?", "best-effort"))


def asked(client: Client) -> list[tuple[str, int]]:
    found = [(to, ASK_CODEC.decode(frame[1:])) for to, frame in client.sent if frame[0] == frames.ASK]
    return [(to, one.number) for to, one in found if isinstance(one, Glance)]


def answer(client: Client, member: str, number: int, result: bytes = b"!", *, failed: int = 0, slot: int = 7) -> None:
    name = digest(bytes((failed,)), result)
    client.hear(member, pack_answer(ReadAnswer(number, 0, slot, failed, name, result)))


def done(client: Client) -> list[ReadDone]:
    return [one for one in client.said if isinstance(one, ReadDone)]


def test_one_member_is_asked_and_its_answer_is_marked() -> None:
    client = Client()
    ask(client)
    ((member, number),) = asked(client)
    answer(client, member, number)
    assert done(client) == [ReadDone(1, OK, b"!", member, 7)]
    answer(client, member, number)
    assert len(done(client)) == 1


def test_members_take_turns() -> None:
    client = Client()
    first: set[str] = set()
    for token in range(8):
        ask(client, token)
        first.add(asked(client)[0][0])
    assert first == set(MEMBERS)


def test_a_failure_is_an_answer() -> None:
    client = Client()
    ask(client)
    ((member, number),) = asked(client)
    answer(client, member, number, b"no", failed=1)
    assert done(client) == [ReadDone(1, FAILED, b"no", member, 7)]


def test_whoever_was_not_asked_is_not_believed_nor_whose_link_is_not_proved() -> None:
    client = Client()
    ask(client)
    ((member, number),) = asked(client)
    other = next(one for one in MEMBERS if one != member)
    answer(client, other, number)
    client.step("on_link", member, b"another binding")
    answer(client, member, number)
    assert done(client) == []


def test_a_silent_member_is_passed_over_and_a_refusal_passes_on_at_once() -> None:
    client = Client()
    ask(client)
    ((member, number),) = asked(client)
    client.tick(GLANCE_PATIENCE_TICKS + 50)
    second = asked(client)[1][0]
    assert second != member
    client.hear(second, pack_answer(ReadRefusal(number, "no part in this epoch")))
    third = asked(client)[2][0]
    assert third not in (member, second)
    answer(client, member, number, b"late")  # whoever was asked may answer
    assert done(client) == [ReadDone(1, OK, b"late", member, 7)]


def test_when_all_have_refused_they_are_asked_again_with_patience() -> None:
    client = Client()
    ask(client)
    for place in range(4):
        member, number = asked(client)[place]
        client.hear(member, pack_answer(ReadRefusal(number, "no")))
    assert len(asked(client)) == 4
    client.tick(GLANCE_PATIENCE_TICKS + 50)
    assert len(asked(client)) == 5


def test_a_link_that_comes_up_brings_the_question_again() -> None:
    client = Client(linked=False)
    ask(client)
    ((member, number),) = asked(client)
    client.link(member)
    assert asked(client) == [(member, number)] * 2
    answer(client, member, number)
    assert len(done(client)) == 1


def test_where_all_members_refuse_they_are_asked_whether_the_group_is_elsewhere() -> None:
    """The whole roster was replaced: those before prove nothing any more, and say nothing unasked."""
    group = Group()
    client = following_client.Client(group)
    link = group.go(asks("n0", "n1", "n2", "n3"))
    client.step("on_input", AskRead(1, b"?", "best-effort"))
    (number,) = (one.number for _, one in client.asked() if isinstance(one, Glance))
    for _ in client.members:
        for member in client.members:
            client.tell(member, ReadRefusal(number, "no part in this epoch"))
    assert client.asked_chain() == []
    client.tick(GLANCE_PATIENCE_TICKS)
    ((member, epoch),) = client.asked_chain()
    assert epoch == 0
    client.links(member, [link])
    assert client.epoch == 1
    assert next(to for to, one in client.asked() if isinstance(one, Glance)) in link.next.members


async def test_the_groups_needs_say_how_reads_are_answered_and_a_call_may_say_otherwise() -> None:
    async with local_group(KeyValueStore, qos=QoS(consistency="best-effort")) as group:
        client = await group.client()
        await client.submit(put(b"k", b"v"), timeout=TIMEOUT)
        await group.in_step(TIMEOUT)
        weak = await client.read_marked(get(b"k"), timeout=TIMEOUT)
        assert parse_value(weak.result) == b"v"
        assert (weak.consistency, weak.member in group.members) == ("best-effort", True)
        assert weak.applied is not None
        assert weak.applied >= 2
        assert parse_value(await client.read(get(b"k"), timeout=TIMEOUT)) == b"v"
        strong = await client.read_marked(get(b"k"), timeout=TIMEOUT, consistency="strong")
        assert (strong.consistency, strong.member, strong.applied) == ("strong", None, None)
        with pytest.raises(ValueError, match="one of strong, best-effort"):
            await client.read(get(b"k"), consistency="weak")
        with pytest.raises(OperationFailed):
            await client.read(b"nonsense", timeout=TIMEOUT)


async def test_a_best_effort_read_needs_one_member_only() -> None:
    async with local_group(KeyValueStore) as group:
        client = await group.client()
        await client.submit(put(b"k", b"v"), timeout=TIMEOUT)
        await group.in_step(TIMEOUT)
        for member in ("m0", "m1", "m2"):
            await group.crash(member)
        found = await client.read_marked(get(b"k"), timeout=TIMEOUT, consistency="best-effort")
        assert (parse_value(found.result), found.member) == (b"v", "m3")


def test_plain_callers_read_the_same_way() -> None:
    with local_group_sync(KeyValueStore) as group:
        client = group.client()
        client.submit(put(b"k", b"v"), timeout=TIMEOUT)
        assert client.read_marked(get(b"k"), timeout=TIMEOUT).consistency == "strong"
        assert client.read_marked(get(b"k"), timeout=TIMEOUT, consistency="best-effort").member is not None
