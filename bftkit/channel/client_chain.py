"""How a client follows its group from epoch to epoch (SAFETY rule 28).

A member's proof of its link, or a reply, shows that there is a later epoch. The client asks for the hand-overs since
its own, checks each from where it stands, and goes where they lead; what cannot be checked leads nowhere, whoever
says it. It never goes back: a place is only ever left by a hand-over that its own members signed and its operators
asked for. Members may lie about later epochs, keep silent when asked, or show forged links: then the next one is
asked, and a forger is not listened to for a time that doubles with each forgery.

A hand-over that contradicts one that was followed, and is as genuine, is evidence that the members of that epoch broke
the rules. Nobody can say then which history is the group's, and the client stops. So that such a second history does
not stay unseen, a member whose proof or links do not fit the place is asked once for the links that led here.

A client may know a recent hand-over from elsewhere, which it trusts (`TrustedPoint`). Then it follows the chain up to
there and believes nobody before; where the chain has another hand-over in its place, the client stops.

*Long ago.* The newest links are kept, and only for their epochs can a contradiction be told. The keys of older epochs
are erased; whatever is made with them leads nowhere, since a client never looks at epochs that it has left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs

from bftkit.channel.client_face import (
    PATIENCE_TICKS,
    PATIENCE_TICKS_MAX,
    ClientOut,
    ClientSettings,
    History,
    LinkRefused,
)
from bftkit.channel.frames import CHAIN_BYTES, AskChain, pack_ask
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.membership.chain import ChainError, HandOver, Place, contradict, follow, signers_of_both

CHAIN_PATIENCE_TICKS: Final = 100
"""So long a member has to send the links that it was asked for; longer by as much each time it does not."""
SILENCES_MAX: Final = 8
"""A member that was silent so often is not asked again until it shows a later epoch once more."""
KEPT_LINKS: Final = 8
KEPT_BYTES: Final = 16 << 20
"""So many of the newest links are kept, or one: the more, the longer a contradiction is told as what it is."""


class _Untrusted(Exception):
    """A genuine link, where another one is to be trusted."""


@attrs.frozen
class Kept:
    """A hand-over that this client went by."""

    before: Place | None
    """Where it was then; None: in an earlier life, and no longer known."""
    link: HandOver
    raw: bytes


@attrs.define
class _Source:
    """A member as one that hands out links."""

    shown: int = 0
    """The latest epoch that it has shown."""
    asks: int = 0
    """So many questions over this link it has not answered."""
    silences: int = 0
    """How often in a row it was asked in vain."""
    deaf_until: int = 0
    """It showed a bad link, or old ones unasked: until then it is not asked and not listened to (in ticks)."""
    patience: int = PATIENCE_TICKS
    refused: int = 0
    reason: str = ""
    suspect: bool = False
    """Something it said does not fit this place: to be asked for the links that led here."""
    asked_back: int = -1
    """In which epoch that was done last."""


@attrs.define
class _Walk:
    """The whole chain is being fetched."""

    place: Place
    links: list[HandOver] = attrs.field(factory=list[HandOver])
    asked: MemberId | None = None
    until: int = 0
    """When the asked member's time is over; or, if nobody is asked, when to go on."""
    turn: int = 0


class Following:
    """The part of a client that knows where it is in the chain."""

    def __init__(self, settings: ClientSettings) -> None:
        """With `settings.place` set."""
        assert settings.place is not None
        assert settings.verifiers is not None
        self._group = settings.group
        self._verifiers = settings.verifiers
        self._verify = settings.verify
        self._founding = settings.founding or settings.place
        self._trusted = settings.trusted
        self.place = settings.place
        self.kept: deque[Kept] = deque()
        self.contradiction: str | None = None
        """Two histories were shown: the reason for stopping."""
        self._sources: dict[MemberId, _Source] = {}
        self._now = 0
        self._asked: MemberId | None = None
        self._asked_until = 0
        self._turn = 0
        self._doubts = 0
        """So many members are still to be asked although they showed no later epoch."""
        self._doubt_due = 0
        self._walk: _Walk | None = None
        self._remember(settings.chain)

    def _remember(self, chain: Sequence[HandOver]) -> None:
        before = self._founding if chain and chain[0].ending.epoch == self._founding.configuration.epoch else None
        for link in chain:
            self._keep(Kept(before, link, link.encode()))
            if self.contradiction is None and self._trusted is not None:
                self.contradiction = self._trusted.contradicted_by(link)
            before = Place(link.next, link.ending.opening)
        assert not chain or before == self.place, "the chain leads to the place"

    @property
    def epoch(self) -> int:
        """The epoch that this client is in."""
        return self.place.configuration.epoch

    @property
    def waits_for(self) -> int | None:
        """The epoch before which nobody is believed, if the client has not come there yet."""
        trusted = self._trusted
        return trusted.epoch if trusted is not None and self.epoch < trusted.epoch else None

    @property
    def members(self) -> tuple[MemberId, ...]:
        """The members of that epoch."""
        return self.place.configuration.members

    @property
    def refused(self) -> dict[MemberId, tuple[int, str]]:
        """Which members showed links that do not hold: how many, and why the last one was refused."""
        return {name: (one.refused, one.reason) for name, one in sorted(self._sources.items()) if one.refused}

    @property
    def waiting(self) -> bool:
        """Whether something is to be done when time has passed."""
        if self._asked is not None or self._walk is not None:
            return True
        return any(one.deaf_until > self._now or one.suspect for one in self._sources.values())

    # ------------------------------------------------------------------------------------------ what shows it

    def on_shown(self, member: MemberId, epoch: int, out: ClientOut) -> None:
        """A member of this epoch says that there is a later one."""
        source = self._source(member)
        if epoch > source.shown:
            source.shown = epoch
        self._pursue(out)

    def doubt(self, out: ClientOut) -> None:
        """No answers come, or members say that they take no part: perhaps the group has moved on without a word."""
        if self._now >= self._doubt_due:
            self._doubt_due = self._now + PATIENCE_TICKS
            self._doubts = len(self.members)
            self._pursue(out)

    def suspect(self, member: MemberId) -> None:
        """What this member said does not fit the place: is there another one, with as good a chain?"""
        source = self._source(member)
        if source.asked_back != self.epoch and self._oldest() is not None:
            source.suspect = True

    def on_link(self, member: MemberId) -> None:
        """A new link: what was asked over the one before will not be answered."""
        self._source(member).asks = 0
        if self._asked == member:
            self._asked = None
        if self._walk is not None and self._walk.asked == member:
            self._walk.asked, self._walk.until = None, 0

    def start_walk(self, out: ClientOut) -> None:
        """Fetch the whole chain."""
        self._walk = _Walk(self._founding)
        self._walk_on(out)

    def on_tick(self, now: int, out: ClientOut) -> None:
        """Time has passed: who was asked and did not answer?"""
        self._now = now
        oldest = self._oldest()
        for member, source in sorted(self._sources.items()):
            if source.suspect and source.deaf_until <= now:
                source.suspect, source.asked_back = False, self.epoch
                if oldest is not None:
                    self._ask(member, oldest, out)
        self._pursue(out)
        if self._walk is not None:
            self._walk_on(out)

    # ------------------------------------------------------------------------------------------ asking

    def _source(self, member: MemberId) -> _Source:
        return self._sources.setdefault(member, _Source())

    def _pursue(self, out: ClientOut) -> None:
        """Ask one member for later links, if there seem to be any and nobody is being asked."""
        if self._asked is not None:
            if self._now < self._asked_until:
                return
            silent = self._source(self._asked)
            silent.silences += 1
            if silent.silences >= SILENCES_MAX:
                silent.shown, silent.silences = 0, 0
            self._asked = None
        members = self.members
        order = [members[(self._turn + step) % len(members)] for step in range(len(members))]
        chosen = next((name for name in order if self._source(name).shown > self.epoch and self._listens(name)), None)
        if chosen is None and self._doubts:
            self._doubts -= 1
            chosen = next((name for name in order if self._listens(name)), None)
        if chosen is None:
            return
        self._turn = members.index(chosen) + 1
        self._asked = chosen
        self._asked_until = self._now + CHAIN_PATIENCE_TICKS * (1 + self._source(chosen).silences)
        self._ask(chosen, self.epoch, out)

    def _ask(self, member: MemberId, epoch: int, out: ClientOut) -> None:
        self._source(member).asks += 1
        out.send(member, pack_ask(AskChain(epoch)))

    def _listens(self, member: MemberId) -> bool:
        return self._source(member).deaf_until <= self._now

    # ------------------------------------------------------------------------------------------ answers

    def on_answer(self, sender: MemberId, packed: Sequence[bytes], out: ClientOut) -> bool:
        """Links came, asked for or not; says whether they led on. Look at `contradiction` after each."""
        source = self._source(sender)
        unasked = source.asks == 0
        source.asks -= not unasked
        if not self._listens(sender):
            return False
        before = self.place
        walk = self._walk
        asked = self._asked == sender
        walked = walk is not None and walk.asked == sender
        try:
            links = _unpacked(packed)
            for link, raw in links:
                self._take(sender, link, raw)
                if self.contradiction is not None:
                    return self.place is not before
            if walk is not None and walked:
                self._take_walk(walk, [link for link, _ in links])
        except _Untrusted as error:
            self.contradiction = str(error)
            return self.place is not before
        except ChainError as error:
            source.refused += 1
            source.reason = str(error)
            source.shown = 0
            source.deaf_until = self._now + source.patience
            source.patience = min(2 * source.patience, PATIENCE_TICKS_MAX)
            self.suspect(sender)
            if walk is not None and walked:
                self._walk_past(walk)
            out.deliver(LinkRefused(sender, source.reason))
        source.silences = 0
        moved = self.place is not before
        if unasked and not moved:
            # Reading links costs much more than sending them: nobody gets that for nothing again and again.
            source.deaf_until = max(source.deaf_until, self._now + PATIENCE_TICKS)
        if moved:
            self._entered()
        elif asked:
            source.shown = 0  # it had nothing to show
        if moved or asked:
            self._asked = None
        if self.contradiction is None:
            self._pursue(out)
            if walk is not None:
                self._walk_on(out)
        return moved

    def _entered(self) -> None:
        """What is remembered of those that are no members any more goes."""
        members = set(self.members)
        self._sources = {name: one for name, one in self._sources.items() if name in members}
        self._turn = 0
        self._doubts = 0

    def _take(self, sender: MemberId, link: HandOver, raw: bytes) -> None:
        """Go by one link, if it leads on from here. Raises `ChainError`."""
        epoch = link.ending.epoch
        if epoch > self.epoch:
            raise ChainError(f"a hand-over of epoch {epoch} leads nowhere from epoch {self.epoch}")
        if epoch < self.epoch:
            self._compare(sender, link)
            return
        place = self._followed(self.place, link)
        self._keep(Kept(self.place, link, raw))
        self.place = place

    def _followed(self, place: Place, link: HandOver) -> Place:
        there = follow(self._group, place, link, self._verifiers, self._verify)
        reason = None if self._trusted is None else self._trusted.contradicted_by(link)
        if reason is not None:
            raise _Untrusted(reason)
        return there

    def _compare(self, sender: MemberId, link: HandOver) -> None:
        """A link of an epoch that was left: the same again, or a second history? Raises `ChainError`."""
        epoch = link.ending.epoch
        known = next((one for one in self.kept if one.link.ending.epoch == epoch), None)
        if known is None or not contradict(known.link, link):
            return
        if known.before is None:
            raise ChainError(f"the hand-over from epoch {epoch} to {epoch + 1} is another one than was followed")
        self._followed(known.before, link)
        both = ", ".join(signers_of_both(known.link, link))
        self.contradiction = (
            f"epoch {epoch} has two hand-overs to epoch {epoch + 1}, both signed by its members ({both} signed both): "
            f"nobody can say which history is the group's"
        )

    def _keep(self, kept: Kept) -> None:
        self.kept.append(kept)
        size = sum(len(one.raw) for one in self.kept)
        while len(self.kept) > 1 and (len(self.kept) > KEPT_LINKS or size > KEPT_BYTES):
            size -= len(self.kept.popleft().raw)

    def _oldest(self) -> int | None:
        """The oldest epoch for which a contradiction could be told."""
        return next((one.link.ending.epoch for one in self.kept if one.before is not None), None)

    # ------------------------------------------------------------------------------------------ the whole chain

    def _take_walk(self, walk: _Walk, links: Sequence[HandOver]) -> None:
        """Go on from where the walk is. Raises `ChainError`."""
        at = walk.place.configuration.epoch
        for link in links:
            if walk.place.configuration.epoch == link.ending.epoch < self.epoch:
                walk.place = self._followed(walk.place, link)
                walk.links.append(link)
        if walk.place.configuration.epoch == at:
            self._walk_past(walk)
        else:
            walk.asked, walk.until = None, 0
        if walk.place.configuration.epoch == self.epoch and walk.place != self.place:
            self.contradiction = (
                f"there are two genuine chains of hand-overs to epoch {self.epoch}: the one that this client followed, "
                "and the one that the members show now. Nobody can say which history is the group's"
            )

    def _walk_on(self, out: ClientOut) -> None:
        walk = self._walk
        assert walk is not None
        if walk.place.configuration.epoch == self.epoch:
            if self.waits_for is not None:
                return  # there is more to come before any of it may be told
            self._walk = None
            out.deliver(History(tuple(walk.links)))
            return
        if self._now < walk.until:
            return
        if walk.asked is not None:
            self._walk_past(walk)
            if self._now < walk.until:
                return
        members = self.members
        walk.asked = members[walk.turn % len(members)]
        walk.until = self._now + CHAIN_PATIENCE_TICKS * (1 + walk.turn // len(members))
        self._ask(walk.asked, walk.place.configuration.epoch, out)

    def _walk_past(self, walk: _Walk) -> None:
        """A member had nothing, or did not answer: the next one; and after all of them, some time later."""
        walk.asked, walk.until = None, 0
        walk.turn += 1
        if walk.turn % len(self.members) == 0:
            walk.until = self._now + CHAIN_PATIENCE_TICKS


def _unpacked(packed: Sequence[bytes]) -> list[tuple[HandOver, bytes]]:
    """The links of an answer. Raises `ChainError`."""
    if len(packed) > 1 and sum(map(len, packed)) > CHAIN_BYTES:
        raise ChainError(f"an answer with {len(packed)} hand-overs and more than {CHAIN_BYTES} bytes")
    try:
        return [(HandOver.decode(raw), raw) for raw in packed]
    except WireError as error:
        raise ChainError(f"a hand-over cannot be read: {error}") from None
