"""Best-effort reads: one member's present state answers, at once, and the answer says whose it is.

Nothing is promised of the answer's freshness, and a lying member may answer anything: that is why it is marked. What a
member that does not lie says was the state after some slot that it had executed. Members take turns; one that is silent
or refuses is passed over, and when all were, they are asked again from the beginning.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

import attrs

from bftkit.channel.bundles import FAILED, OK
from bftkit.channel.client_face import ClientOut, ReadDone
from bftkit.channel.frames import Glance, ReadAnswer, pack_ask
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId

GLANCE_PATIENCE_TICKS: Final = 150
"""A member that has not answered for so long is passed over."""


@attrs.define(eq=False)
class _Looking:
    token: int
    operation: bytes
    due: int = 0
    member: MemberId = ""
    """Who is asked now; "" if nobody is."""
    asked: set[MemberId] = attrs.field(factory=set[MemberId])
    reasons: dict[MemberId, str] = attrs.field(factory=dict[MemberId, str])
    """Why those that were asked in this round cannot answer."""


class Glances:
    """The best-effort reads of a client that wait for an answer, by their numbers."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Looking] = {}

    @property
    def waiting(self) -> bool:
        """Whether any read waits."""
        return bool(self._waiting)

    def reasons(self, token: int) -> dict[MemberId, str]:
        """Why members cannot answer the read of this token, in their newest words."""
        looking = next((one for one in self._waiting.values() if one.token == token), None)
        return {} if looking is None else dict(looking.reasons)

    def start(
        self,
        number: int,
        token: int,
        operation: bytes,
        members: tuple[MemberId, ...],
        proved: Set[MemberId],
        now: int,
        out: ClientOut,
    ) -> None:
        """Ask one member; `proved`: those whose links are known to be up."""
        self._waiting[number] = looking = _Looking(token, operation)
        self._ask(number, looking, members, proved, now, out)

    def on_answer(self, sender: MemberId, answer: ReadAnswer, out: ClientOut) -> bool:
        """Says whether the answer is one to such a read. Whoever was asked may answer, also late."""
        looking = self._waiting.get(answer.number)
        if looking is None:
            return False
        fits = digest(bytes((answer.failed,)), answer.result) == answer.digest
        if fits and sender in looking.asked:
            del self._waiting[answer.number]
            status = FAILED if answer.failed else OK
            out.deliver(ReadDone(looking.token, status, answer.result, sender, answer.slot))
        return True

    def on_refusal(
        self,
        sender: MemberId,
        number: int,
        text: str,
        members: tuple[MemberId, ...],
        proved: Set[MemberId],
        now: int,
        out: ClientOut,
    ) -> bool:
        """This member cannot answer; says whether that was about such a read."""
        looking = self._waiting.get(number)
        if looking is None:
            return False
        if sender in looking.asked:
            looking.reasons[sender] = text
        if sender == looking.member and not looking.asked.issuperset(members):
            self._ask(number, looking, members, proved, now, out)
        return True  # when all have refused, the next round is a matter of patience

    def on_link(self, member: MemberId, out: ClientOut) -> None:
        """A link came up: what was asked over the one before may be lost."""
        for number, looking in self._waiting.items():
            if looking.member == member:
                out.send(member, pack_ask(Glance(number, looking.operation)))

    def on_tick(self, members: tuple[MemberId, ...], proved: Set[MemberId], now: int, out: ClientOut) -> bool:
        """Whoever is silent is passed over; says whether anybody was, or all have refused."""
        late = [(number, looking) for number, looking in self._waiting.items() if looking.due <= now]
        for number, looking in late:
            self._ask(number, looking, members, proved, now, out)
        return bool(late)

    def on_moved(self, members: tuple[MemberId, ...], now: int, out: ClientOut) -> None:
        """Another epoch, with other members: everything is asked again."""
        for number, looking in self._waiting.items():
            looking.asked = set()
            looking.reasons = {}
            self._ask(number, looking, members, frozenset(), now, out)

    def clear(self) -> None:
        """Nobody is believed any more."""
        self._waiting.clear()

    def _ask(
        self,
        number: int,
        looking: _Looking,
        members: tuple[MemberId, ...],
        proved: Set[MemberId],
        now: int,
        out: ClientOut,
    ) -> None:
        if looking.asked.issuperset(members):
            looking.asked = set()
        left = [member for member in members if member not in looking.asked]
        choice = [member for member in left if member in proved] or left
        looking.member = member = choice[number % len(choice)]  # so that all share the work
        looking.reasons.pop(member, None)
        looking.asked.add(member)
        looking.due = now + GLANCE_PATIENCE_TICKS
        out.send(member, pack_ask(Glance(number, looking.operation)))


__all__ = ["GLANCE_PATIENCE_TICKS", "Glances"]
