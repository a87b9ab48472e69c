"""The feed of events, and its stream: nothing is lost on a reconnection, and a member that stops ends it at once."""

from __future__ import annotations

import json
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing

from bftkit.admin.events import HEARTBEAT_SECONDS, STREAMS_MAX, EventStream, Feed
from bftkit.admin.guard import Message
from bftkit.admin.refusals import Refused
from bftkit.node.chronicle import Chronicle

from .admin_site import check_problem, served

SCOPE: dict[str, Any] = {"type": "http"}


def feed_of(*times: int, kept: int = 100) -> Feed:
    return Feed(({"event": "noted", "time_ms": time, "n": n} for n, time in enumerate(times)), kept)


def ids(feed: Feed, after: str | None) -> list[str]:
    return [one.id for one in feed.after(feed.place_of(after), 100)]


def test_an_event_has_the_same_id_after_a_restart() -> None:
    feed = feed_of(5, 7, 7, 7, 9)
    assert ids(feed, None) == ["5-0", "7-0", "7-1", "7-2", "9-0"]
    assert ids(feed_of(5, 7, 7, 7, 9), None) == ids(feed, None)


def test_what_came_after_an_event_is_told_whether_or_not_it_is_still_known() -> None:
    feed = feed_of(5, 7, 7, 9)
    assert ids(feed, "7-0") == ["7-1", "9-0"]
    assert ids(feed, "9-0") == []
    assert ids(feed, "6-0") == ["7-0", "7-1", "9-0"]
    assert ids(feed, "0-0") == ["5-0", "7-0", "7-1", "9-0"]
    assert ids(feed, "99-0") == []
    forgetful = feed_of(5, 7, 7, 9, kept=2)
    assert ids(forgetful, "5-0") == ["7-1", "9-0"]


def test_a_clock_that_was_set_back_hides_nothing() -> None:
    feed = feed_of(50, 60, 10, 20)
    assert ids(feed, "60-0") == ["10-0", "20-0"]
    assert ids(feed, "10-0") == ["20-0"]


@pytest.mark.parametrize("text", ["", "-", "1", "1-", "-1", "a-b", "1-1-1", "1.0-1", "9" * 40 + "-1", "١-١", "1 -1"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        feed_of(1).place_of(text)


def test_what_is_no_event_is_passed_over() -> None:
    """The file is people's to edit, and an event's kind stands in a line of the stream by itself."""
    bad: list[dict[str, Any]] = [
        {},
        {"event": "noted"},
        {"event": "noted", "time_ms": -1},
        {"event": "noted", "time_ms": True},
        {"event": "a\nid: 1", "time_ms": 1},
        {"event": 7, "time_ms": 1},
    ]
    assert ids(Feed(bad), None) == []


def test_a_frame_is_one_event_whatever_is_in_its_texts() -> None:
    feed = Feed([{"event": "blamed", "time_ms": 1, "fault": "x\n\nevent: y\r\ndata: z\u2028\x00"}])
    (one,) = feed.after(0, 10)
    lines = one.frame().decode().split("\n")
    assert lines[:2] == ["id: 1-0", "event: blamed"]
    assert lines[3:] == ["", ""]
    assert "\r" not in lines[2]
    assert json.loads(lines[2].removeprefix("data: "))["fault"].startswith("x\n\nevent")


# ------------------------------------------------------------------------------------------------- the stream


@attrs.define
class Reader:
    """Reads one stream."""

    feed: Feed
    number: int = 0
    sent: list[Message] = attrs.field(factory=list[Message])
    gone: trio.Event = attrs.field(factory=trio.Event)
    news: trio.Event = attrs.field(factory=trio.Event)

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.news.set()
        self.news = trio.Event()

    async def run(self) -> None:
        await EventStream(self.feed, self.number)(SCOPE, self.receive, self.send)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent[1:]).decode()

    @property
    def ids(self) -> list[str]:
        return [line.removeprefix("id: ") for line in self.text.splitlines() if line.startswith("id: ")]

    @property
    def heartbeats(self) -> int:
        return self.text.count("\n: all is quiet\n")

    async def until(self, count: int) -> None:
        with trio.fail_after(60):
            while len(self.ids) < count:
                await self.news.wait()


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


async def test_a_stream_tells_what_was_and_what_comes_and_ends_with_the_member(clock: trio.testing.MockClock) -> None:
    feed = feed_of(1, 2)
    reader = Reader(feed, number=1)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await reader.until(1)
        chronicle = Chronicle(None, wall_clock=lambda: 0.003)
        chronicle.listeners.append(feed.add)
        chronicle.note("resumed", epoch=1)
        await reader.until(2)
        assert reader.ids == ["2-0", "3-0"]
        assert feed.streams == 1
        feed.close()
    assert trio.current_time() == began  # not one heartbeat later
    assert reader.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert feed.streams == 0


async def test_a_quiet_stream_has_a_heartbeat_that_is_no_event(clock: trio.testing.MockClock) -> None:
    reader = Reader(feed_of())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        for number in range(1, 4):
            while reader.heartbeats < number:
                await reader.news.wait()
            assert trio.current_time() - began == pytest.approx(number * HEARTBEAT_SECONDS)
        assert reader.ids == []
        reader.gone.set()


async def test_a_reader_that_goes_away_is_forgotten(clock: trio.testing.MockClock) -> None:
    reader = Reader(feed_of(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await reader.until(1)
        reader.gone.set()
    assert reader.feed.streams == 0


async def test_a_reader_that_falls_behind_gets_the_newest_and_no_more_memory_is_used() -> None:
    feed = feed_of(1, kept=3)
    for number in range(2, 1000):
        feed.add({"event": "noted", "time_ms": number})
    assert [one.id for one in feed.after(1, 100)] == ["997-0", "998-0", "999-0"]


async def test_there_are_only_so_many_streams() -> None:
    feed = feed_of()
    feed.streams = STREAMS_MAX
    with pytest.raises(Refused) as refused:
        EventStream(feed, 0)
    assert refused.value.code == 503


async def test_events_are_listed_and_resumed_through_the_interface() -> None:
    async with served(3, protocol="coordinator", checkpoint_interval=2) as (group, sites):
        async with sites["m0"].client("read") as client:
            before = (await client.get("/v1/events")).json()
            assert [one["event"] for one in before["events"]] == ["started"]
            await group.switch("paxos", timeout=60.0)
            # In the new epoch m0 still has its disk to wait for before it tells of it.
            await group.until(lambda: len(group.node("m0").chronicle.newest) > 1, 60.0)
            after = (await client.get("/v1/events", params={"after": before["last"]})).json()
            assert after["events"][0]["event"] == "entered"
            assert (after["events"][0]["from"], after["events"][0]["to"]) == ("coordinator", "paxos")
            for wrong in ("x", "1", "1-1\n", "../..", "1-1%00"):
                check_problem(await client.get("/v1/events", params={"after": wrong}), 422)
                headers = {"Last-Event-ID": wrong} if wrong.isprintable() else {}
                params = {} if headers else {"after": wrong}
                check_problem(await client.get("/v1/events/stream", headers=headers, params=params), 422)
        site = sites["m0"]
        site.facade.feed.close()  # so that the answer has an end
        async with site.client("read", {"Last-Event-ID": before["last"]}) as client:
            answer = await client.get("/v1/events/stream")
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert isinstance(answer, httpx.Response)
