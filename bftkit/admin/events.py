"""The chronicle as a numbered feed, and the feed as a stream of server-sent events.

An event's id is the time at which it happened and its number among those of the same millisecond: the same after a
restart as before, since both stand in the chronicle's file. Whoever was cut off says the last id that it has
(``Last-Event-ID``, which browsers send by themselves) and gets what came after.

A stream is one response that does not end by itself. Three things end it: the caller goes away, the caller does not
read for a while (`serving`), or the member stops, which ends all streams at once. So that a proxy does not think it
dead there is a heartbeat, a comment that means nothing. How many streams there may be is bounded.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bftkit.admin.refusals import Refused

EVENTS_KEPT: Final = 4096
STREAMS_MAX: Final = 16
HEARTBEAT_SECONDS: Final = 15.0
RETRY_MS: Final = 2000
"""So soon a browser comes back after a stream has ended."""
BATCH: Final = 64
"""So many events leave in one piece."""


@attrs.frozen
class Numbered:
    """An event with its place in the feed."""

    number: int
    """Counted in this process's life; no id."""
    id: str
    entry: Mapping[str, Any]

    def told(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"id": self.id, **self.entry}

    def frame(self) -> bytes:
        """As a server-sent event. JSON has no line ends outside of texts, and escapes them inside."""
        return f"id: {self.id}\nevent: {self.entry.get('event', 'event')}\ndata: {json.dumps(self.told())}\n\n".encode()


class Feed:
    """The events of one member, the newest `EVENTS_KEPT`."""

    def __init__(self, past: Iterable[Mapping[str, Any]] = (), kept: int = EVENTS_KEPT) -> None:
        """`past`: what happened before this process began, the oldest first."""
        self._events: deque[Numbered] = deque(maxlen=kept)
        self._count = 0
        self._last_ms = (0, 0)
        self._news = trio.Event()
        self.closed = False
        self.streams = 0
        for entry in past:
            self.add(entry)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Something happened. What a file says may be anything; what is no event is passed over."""
        when, what = entry.get("time_ms"), entry.get("event")
        if type(when) is not int or not 0 <= when < 1 << 53 or not isinstance(what, str) or not what.isidentifier():
            return
        number = self._last_ms[1] + 1 if self._last_ms[0] == when else 0
        self._last_ms = (when, number)
        self._count += 1
        self._events.append(Numbered(self._count, f"{when}-{number}", entry))
        self._news.set()
        self._news = trio.Event()

    def close(self) -> None:
        """The member stops: all streams end."""
        self.closed = True
        self._news.set()

    def place_of(self, last: str | None) -> int:
        """The number of the event with this id, or of the newest one before it. Raises `Refused`.

        None: before all that are kept.
        """
        if last is None:
            return 0
        when, dash, count = last.partition("-")
        digits = when + count
        if not dash or not digits.isascii() or not digits.isdigit() or not when or not count or len(digits) > 24:
            raise Refused(422, "this is no event's id", "after", "an id as events have it")
        for event in reversed(self._events):
            if event.id == last:
                return event.number
        # It was forgotten, or is of a chronicle that is lost: clocks say what came after.
        wanted = (int(when), int(count))
        return max((event.number for event in self._events if _moment(event.id) <= wanted), default=0)

    def after(self, number: int, most: int) -> list[Numbered]:
        """What came after the event with this number, the oldest first."""
        found: list[Numbered] = []
        if not self._events or self._events[-1].number <= number:
            return found
        first = max(0, number + 1 - self._events[0].number)
        for index in range(first, min(len(self._events), first + most)):
            found.append(self._events[index])
        return found

    @property
    def newest(self) -> int:
        """The number of the newest event."""
        return self._count

    async def news(self) -> None:
        """Wait for the next event, or for the end."""
        if not self.closed:
            await self._news.wait()


class EventStream(Response):
    """A response that tells events as they happen."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, number: int, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        """Begins after the event with this number. Raises `Refused` if there are too many streams."""
        if feed.streams >= STREAMS_MAX:
            raise Refused(503, f"there are {STREAMS_MAX} streams already", "", "try again, or ask another member")
        super().__init__()
        del self.headers["content-length"]
        self._feed = feed
        self._number = number
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        feed = self._feed
        feed.streams += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await self._tell(send)
                nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            feed.streams -= 1

    async def _tell(self, send: Send) -> None:
        feed = self._feed
        await send({"type": "http.response.body", "body": b"retry: %d\n\n" % RETRY_MS, "more_body": True})
        while not feed.closed:
            events = feed.after(self._number, BATCH)
            if events:
                self._number = events[-1].number
                body = b"".join(event.frame() for event in events)
            else:
                with trio.move_on_after(self._heartbeat) as waiting:
                    await feed.news()
                if not waiting.cancelled_caught:
                    continue
                body = b": all is quiet\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _moment(identifier: str) -> tuple[int, int]:
    when, _, count = identifier.partition("-")
    return int(when), int(count)
