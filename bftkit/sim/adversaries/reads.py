"""Members that lie about reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

from bftkit.channel import frames
from bftkit.channel.frames import ANSWER_CODEC, ASK_CODEC, Read, ReadAnswer
from bftkit.channel.replica import ReplicaSettings
from bftkit.core.digest import digest
from bftkit.core.wire import WireError
from bftkit.sim.adversaries.equivocation import answered
from bftkit.sim.adversaries.honest import Rewriting, Said, chosen

QUESTIONS_MAX: Final = 4096
"""So many questions are remembered."""


def _read_answer(frame: bytes) -> ReadAnswer | None:
    if frame[:1] != bytes((frames.ANSWER,)):
        return None
    answer = ANSWER_CODEC.decode(frame[1:])
    return answer if isinstance(answer, ReadAnswer) else None


class StaleReads(Rewriting):
    """Answers strong reads with what it answered to the same question first, however long ago that is.

    Or with what was true before it changed last: then it agrees with a correct member that is only a little behind.

    FAULTS 33. The defence: a read counts when a quorum gives one answer (SAFETY rule 13); of f + 1 that agree, all but
    one could be behind.
    """

    lines: ClassVar[tuple[int, ...]] = (33,)

    def __init__(self, settings: ReplicaSettings, previous: bool = False) -> None:
        """`previous`: what was true before the last change, not what was true first."""
        super().__init__(settings)
        self._previous = previous
        self._newest: dict[bytes, tuple[int, bytes]] = {}
        self._asked: dict[tuple[bytes, int], bytes] = {}
        self._first: dict[bytes, tuple[int, bytes]] = {}
        self.stale = 0

    def status(self) -> dict[str, Any]:
        """How many answers were out of date."""
        return {"adversary": {"kind": "stale-reads", "stale": self.stale}}

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        """Remembers the questions."""
        if frame[:1] == bytes((frames.ASK,)):
            try:
                ask = ASK_CODEC.decode(frame[1:])
            except WireError:
                return frame
            if isinstance(ask, Read):
                if len(self._asked) >= QUESTIONS_MAX:
                    del self._asked[next(iter(self._asked))]
                self._asked[client, ask.number] = ask.operation
        return frame

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        """The first answer to this question."""
        answer = _read_answer(frame)
        question = self._asked.pop((client, answer.number), None) if answer is not None else None
        if answer is None or question is None:
            return frame
        if question not in self._first and len(self._first) >= QUESTIONS_MAX:
            return frame
        if self._previous:
            newest = self._newest.get(question)
            self._newest[question] = (answer.failed, answer.result)
            if newest is not None and newest != self._newest[question]:
                self._first[question] = newest
        failed, result = self._first.setdefault(question, (answer.failed, answer.result))
        if (failed, result) == (answer.failed, answer.result):
            return frame
        self.stale += 1
        self.act(33)
        return answered(answer, failed, result)


class ReadsBlocker(Rewriting):
    """Keeps one member in the dark and answers reads wrongly, so that a quorum of equal answers is never there.

    The liveness attack of Berger, Reiser and Bessani, "Making Reads in BFT State Machine Replication Fast,
    Linearizable, and Live" (2021, arXiv 2107.11144): a leader that says nothing to one correct member, and answers no
    read truly, leaves clients with too few equal answers for ever. FAULTS 21 and 33.

    The defence: a member that is left behind learns what the others decided (SAFETY rule 17), and a read that cannot
    be confirmed falls back to an ordered one (rule 13).
    """

    lines: ClassVar[tuple[int, ...]] = (21, 33)

    def __init__(self, settings: ReplicaSettings, dark: str = "", silent: bool = False) -> None:
        """`dark`: the id of the member that it says nothing to; nothing: the last of the others. `silent`: no answers
        in the place of wrong ones.

        Raises ValueError for an id that is no member's.
        """
        super().__init__(settings)
        self._dark = chosen(settings, dark or self.others[-1:], ())
        self._silent = silent
        self.blocked = 0

    def status(self) -> dict[str, Any]:
        """How many reads it did not confirm."""
        return {"adversary": {"kind": "reads-blocker", "blocked": self.blocked}}

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Nothing of the protocol to the one in the dark."""
        spoken = [member for member in to if member not in self._dark]
        if frame[0] != frames.PROTOCOL or len(spoken) == len(to):
            yield to, frame
            return
        self.act(21)
        yield spoken, frame

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        """Each time another wrong answer."""
        answer = _read_answer(frame)
        if answer is None:
            return frame
        self.blocked += 1
        self.act(33)
        return None if self._silent else answered(answer, 0, digest(frame, self.settings.me.encode()))
