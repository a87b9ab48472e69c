"""Liars that wait for a view change: what they leave out, sign twice or make up there could undo what was decided.

As in `certificates`, nothing here imports a protocol, and for one without such messages nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Final

import attrs

from bftkit.channel.bundles import make_batch
from bftkit.channel.replica import Replica, ReplicaOut, ReplicaSettings
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.crypto.signed import Certificate, Vote
from bftkit.sim.adversaries.certificates import NEW_VIEW, VIEW_CHANGE, Bodies, statement_of
from bftkit.sim.adversaries.honest import Said, hand_out

REMEMBERED: Final = 1000
"""So many certificates are remembered."""


def _checked(every: int) -> int:
    if every < 1:
        raise ValueError(f"every {every}th round makes no sense")
    return every


class ForgetfulChange(Bodies):
    """Claims in its view changes to have prepared nothing, or less, or in older views than it did.

    It believes that itself, so when its turn comes to lead it opens the view with what is left. And it does not hear
    those who could tell it better, as long as a quorum is left without them. All that it says is valid: nobody can
    tell. FAULTS 24. The defence is arithmetic (SAFETY rules 1 and 22): of each q view changes, one is of a correct
    member that prepared what was decided.
    """

    lines: ClassVar[tuple[int, ...]] = (24,)
    kind = "forgetful-change"
    _WAYS: ClassVar[tuple[str, ...]] = ("all", "newest", "all", "older")

    def __init__(self, settings: ReplicaSettings, way: str = "turns") -> None:
        """`way`: forgets ``all``, the ``newest`` ones, shows ``older`` ones, or by ``turns``.

        Raises ValueError for another.
        """
        super().__init__(settings)
        if way not in (*self._WAYS, "turns"):
            raise ValueError(f"{way}: neither all, newest, older nor turns")
        self._way = way
        self._machine: Any = None
        self._oldest: dict[int, Certificate] = {}
        self._told: dict[bytes, Any] = {}
        """View changes by the bodies of the true ones and of their own."""
        self._unheard: tuple[int, frozenset[str]] = (0, frozenset())
        self.ignored = 0

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """See `say`; what is prepared, its machine knows."""
        self._machine = replica.machine
        for slot, held in getattr(replica.machine, "held", {}).items():
            self._oldest.setdefault(slot, held.certificate)
        while len(self._oldest) > REMEMBERED:
            del self._oldest[next(iter(self._oldest))]
        return super().outgoing(replica, out)

    def incoming(self, sender: str, frame: bytes) -> bytes | None:
        """As the coming leader it is deaf to who knows more than it does."""
        found = self.unpacked(frame) if self.able and self._machine is not None else None
        if found is None or type(found[1]).__name__ != VIEW_CHANGE or found[1].signer != sender:
            return frame
        within = self.inside(found[1].body)
        if within is None or not self.leads(view := within[1].view) or not within[1].prepared:
            return frame
        unheard = self._unheard[1] if self._unheard[0] == view else frozenset[str]()
        if sender not in unheard:
            if len(unheard) >= len(self.settings.members) - self.settings.quorum.certificate:
                return frame
            self._unheard = (view, unheard | {sender})
        self.ignored += 1
        return None

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Less than it knows."""
        found = self.unpacked(frame) if self.able else None
        if found is None or type(found[1]).__name__ != VIEW_CHANGE or found[1].signer != self.settings.me:
            yield to, frame
            return
        yield to, self.packed(self._less(found[1]))

    def _less(self, message: Any) -> Any:
        if message.body not in self._told:
            less = self.changed(message, self._forget) or message
            self._told = {message.body: less, less.body: less}
            within = self.inside(less.body)
            if within is not None and less is not message and self.settings.me in self._machine.changes:
                self._machine.changes[self.settings.me] = (less, within[1])
        return self._told[message.body]

    def _forget(self, body: Any) -> Any | None:
        prepared: tuple[Certificate, ...] = body.prepared
        if not prepared:
            return None
        view: int = body.view
        way = self._WAYS[view % len(self._WAYS)] if self._way == "turns" else self._way
        self.lied(24, f"a view change that forgets {way} of {len(prepared)} certificates")
        if way == "newest":
            return attrs.evolve(body, prepared=prepared[: len(prepared) // 2])
        if way == "older":
            older = [self._oldest.get(statement_of(each)[1], each) for each in prepared]
            if older != list(prepared):
                return attrs.evolve(body, prepared=tuple(older))
        return attrs.evolve(body, prepared=(), low=())


class BadNewLeader(Bodies):
    """Opens its view with something else than the view changes yield, and then proposes nothing.

    By turns: a slot's choice signed for another batch, for none, or by nobody; gaps that are not filled; and two new
    views, one for each half, each of which would do by itself. That it stays silent brings the next view change, with
    what came of this one. FAULTS 24. The defence: everybody computes what a new view begins with, and the leader's
    signature counts for nothing else (SAFETY rule 22).
    """

    lines: ClassVar[tuple[int, ...]] = (24,)
    kind = "bad-new-leader"
    _WAYS: ClassVar[tuple[str, ...]] = ("two", "other", "unsigned", "nothing", "gaps")

    def __init__(self, settings: ReplicaSettings, way: str = "turns") -> None:
        """`way`: one of ``two``, ``other``, ``unsigned``, ``nothing`` and ``gaps``, or all by ``turns``.

        Raises ValueError for another.
        """
        super().__init__(settings)
        if way not in (*self._WAYS, "turns"):
            raise ValueError(f"{way}: none of {', '.join(self._WAYS)} and turns")
        self._way = way
        self._turn = 0
        self._told: dict[bytes, Any] = {}

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """A new view that is none."""
        found = self.unpacked(frame) if self.able else None
        name = type(found[1]).__name__ if found is not None else ""
        if found is None or name not in (NEW_VIEW, "PrePrepare"):
            yield to, frame
            return
        if name == "PrePrepare":
            if found[1].view == 0 or not self.leads(found[1].view):
                yield to, frame
            return
        message = found[1]
        within = self.inside(message.body)
        if within is None or not self.leads(within[1].view):
            yield to, frame
            return
        if message.body not in self._told:
            self._told = {message.body: self._bad(message)}
        bad, all_hear_it = self._told[message.body]
        deceived = [member for member in to if all_hear_it or member in self.last_half]
        yield [member for member in to if member not in deceived], frame
        yield deceived, self.packed(bad)

    def _bad(self, message: Any) -> tuple[Any, bool]:
        """What it says in its place, and whether all hear that."""
        for _ in self._WAYS:
            way = self._WAYS[self._turn % len(self._WAYS)] if self._way == "turns" else self._way
            self._turn += 1
            bad = self.changed(message, partial(self._other, way))
            if bad is not None:
                self.lied(24, f"a new view: {way}")
                return bad, way != "two"
        return message, True

    def _other(self, way: str, body: Any) -> Any | None:
        return self._second(body) if way == "two" else self._wrong(way, body)

    def _second(self, body: Any) -> Any | None:
        """A new view with a view change of its own that forgets everything."""
        changes = list(body.changes)
        own = [index for index, each in enumerate(changes) if each.signer == self.settings.me]
        if not own:
            return None
        changes[own[0]] = self.view_change(body.view, (), ())
        return self.with_votes(attrs.evolve(body, changes=tuple(changes)))

    def _wrong(self, way: str, body: Any) -> Any | None:
        votes: tuple[bytes, ...] = body.votes
        if not votes:
            return None
        if way == "gaps":
            return attrs.evolve(body, votes=votes[1:])
        found: list[Certificate] = []
        for change in body.changes:
            within = self.inside(change.body)
            found += within[1].prepared if within is not None else ()
        last = max(statement_of(each)[1] for each in found) if found else len(votes)
        name = NO_DIGEST if way == "nothing" else digest(b"something else", votes[-1])
        vote = digest(votes[-1]) * 2 if way == "unsigned" else self.header(body.view, last, name)
        return None if vote is None else attrs.evolve(body, votes=(*votes[:-1], vote))


class FarViews(Bodies):
    """Says again and again that it goes to a view far ahead, each time further.

    FAULTS 29. The defence: f + 1 members draw others after them, and not to the furthest of their views.
    """

    lines: ClassVar[tuple[int, ...]] = (29,)
    kind = "far-views"

    def __init__(self, settings: ReplicaSettings, every: int = 10, far: int = 1000, most: int = 200) -> None:
        """`every`: at the end of each so-manyth round. `far`: how far. `most`: it ends after so many.

        Raises ValueError if a number is not positive.
        """
        super().__init__(settings)
        if far < 1 or most < 1:
            raise ValueError("the far views lie ahead, and there is at least one of them")
        self._every = _checked(every)
        self._far = far
        self._most = most
        self._rounds = 0

    def besides(self, replica: Replica) -> Iterator[Said]:
        """Further ahead."""
        machine: Any = replica.machine
        self._rounds += 1
        if not self.able or self._rounds % self._every or self.forged >= self._most:
            return
        view = machine.view + self._far * (self.forged + 1)
        change = self.view_change(view, getattr(machine, "low_votes", ()), ())
        if change is not None:
            self.lied(29, f"a change to view {view}")
            yield replica.others, self.packed(change)


class RepeatedVotes(Bodies):
    """Makes certificates for batches of its own and new views of its own words, by repeating its one voice q times.

    What it invents it hands out, too. FAULTS 23. The defence: a quorum is q *different* members (SAFETY rule 1).
    """

    lines: ClassVar[tuple[int, ...]] = (23,)
    kind = "repeated-votes"

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        batch = make_batch(1, ())
        self._batches = {digest(batch): batch}

    def incoming(self, sender: str, frame: bytes) -> bytes | None:
        """Hands out what it invented."""
        for answer in hand_out(self._batches, frame):
            self.later(0, (sender,), answer)
        return frame

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Its own voice, again and again."""
        found = self.unpacked(frame) if self.able else None
        bad = None
        if found is not None and type(found[1]).__name__ == VIEW_CHANGE and found[1].signer == self.settings.me:
            bad = self.changed(found[1], self._certified)
        elif found is not None and type(found[1]).__name__ == NEW_VIEW:
            bad = self.changed(found[1], self._all_by_itself)
        if bad is not None:
            self.lied(23, f"its own voice in the place of a quorum, in a {type(bad).__name__}")
        yield to, frame if bad is None else self.packed(bad)

    def _certified(self, body: Any) -> Any | None:
        prepared = tuple(self._alone(body.view - 1, statement_of(each)[1]) for each in body.prepared)
        return attrs.evolve(body, prepared=prepared) if prepared else None

    def _alone(self, view: int, slot: int) -> Certificate:
        statement = view.to_bytes(8, "big") + slot.to_bytes(8, "big") + next(iter(self._batches))
        own = Vote(self.settings.me, self.header_or_vote(statement))
        return Certificate(statement, (own,) * self.settings.quorum.certificate)

    def header_or_vote(self, statement: bytes) -> bytes:
        """This member's signature under a vote's statement."""
        signature = self.header(*statement_of(Certificate(statement, ())))
        return signature or bytes(64)

    def _all_by_itself(self, body: Any) -> Any | None:
        if not self.leads(body.view):
            return None
        own = [each for each in body.changes if each.signer == self.settings.me]
        forged = self.changed(own[0], self._certified) if own else self.view_change(body.view, (), ())
        if forged is None:
            return None
        return self.with_votes(attrs.evolve(body, changes=(forged,) * self.settings.quorum.certificate))
