"""Bytes by their digest: those that a member holds durably, and those that it looks for.

A large value is sent once to each member, and all that is said about it names its digest. A member writes the bytes
down before it says that it holds them (SAFETY rules 3 and 5); who lacks them asks one of those that said so, and the
next one when some time has passed.

Time is counted in *looks*, of which the host gives one about every second. A large value may be under way for longer
than that on a thin link, and sending it again meanwhile would only make it worse: so the waits between repetitions
double, up to `WAIT_MAX` looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from bftkit.blocks.bedrock_messages import RECORDS, Agreed, Bytes, Held, Message, Want
from bftkit.core.digest import digest as digest_of
from bftkit.core.machine import Digest, MemberId, Out, Record

GIVEN_MAX: Final = 2
"""So many values a peer is given between two looks: asking is cheap, answering is not."""

WAIT_MAX: Final = 4
"""The most looks between two repetitions."""


@attrs.define
class Shelf:
    """One member's bytes in one agreement."""

    held: dict[Digest, bytes] = attrs.field(factory=dict[Digest, bytes])
    """All of it is in this member's records."""
    wanted: dict[Digest, tuple[MemberId, ...]] = attrs.field(factory=dict[Digest, tuple[MemberId, ...]])
    """Who should hold what is looked for; the next one to be asked stands first."""
    given: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """How many values each peer was given since the last look."""
    looks: int = 0
    repeated: dict[MemberId | Digest, tuple[int, int]] = attrs.field(factory=dict[MemberId | Digest, tuple[int, int]])
    """How often a member was sent this member's value, or a digest was asked for; and the look for the next time."""

    def hold(self, value: bytes, out: Out[Message, Agreed]) -> Digest:
        """Write the bytes down and keep them; their digest."""
        digest = digest_of(value)
        if digest not in self.held:
            out.persist(RECORDS.encode(Held(value)))
            self.held[digest] = value
        self.wanted.pop(digest, None)
        return digest

    def keep_only(self, digests: Iterable[Digest]) -> None:
        """Nothing else matters any more."""
        kept = set(digests)
        self.held = {digest: value for digest, value in self.held.items() if digest in kept}
        self.wanted = {digest: holders for digest, holders in self.wanted.items() if digest in kept}

    def standing(self) -> list[Record]:
        """The records of what is held."""
        return [RECORDS.encode(Held(self.held[digest])) for digest in sorted(self.held)]

    def want(self, digest: Digest, holders: Iterable[MemberId], out: Out[Message, Agreed]) -> None:
        """Look for these bytes with these members, beginning now."""
        self.wanted[digest] = tuple(holders)
        self.sent(digest)
        self._ask(digest, out)

    def again(self, out: Out[Message, Agreed]) -> None:
        """One more look: ask the next holder of what is still wanted; peers may be given values anew."""
        self.looks += 1
        self.given.clear()
        for digest in sorted(self.wanted):
            if self.is_due(digest):
                self.sent(digest)
                self._ask(digest, out)

    def is_due(self, about: MemberId | Digest) -> bool:
        """Whether it is time to send this member one's value again, or to ask for this digest again."""
        return self.looks >= self.repeated.get(about, (0, 0))[1]

    def sent(self, about: MemberId | Digest) -> None:
        """It is under way, and given at least one whole interval between two looks; the next time a longer one."""
        times = self.repeated.get(about, (0, 0))[0]
        self.repeated[about] = (times + 1, self.looks + 1 + min(1 << times, WAIT_MAX))

    def _ask(self, digest: Digest, out: Out[Message, Agreed]) -> None:
        holders = self.wanted[digest]
        if holders:
            out.send(holders[0], Want(digest))
            self.wanted[digest] = (*holders[1:], holders[0])

    def may_give(self, member: MemberId) -> bool:
        """Whether this member is given one more value now; it is counted."""
        given = self.given.get(member, 0)
        if given < GIVEN_MAX:
            self.given[member] = given + 1
        return given < GIVEN_MAX

    def on_want(self, sender: MemberId, want: Want, out: Out[Message, Agreed]) -> None:
        """Give what is here, not too often."""
        if want.digest in self.held and self.may_give(sender):
            out.send(sender, Bytes(self.held[want.digest]))

    def on_bytes(self, message: Bytes, out: Out[Message, Agreed]) -> Digest | None:
        """Take what is looked for, whoever sends it; its digest. None: it is not looked for, and not kept."""
        digest = digest_of(message.value)
        return self.hold(message.value, out) if digest in self.wanted else None
