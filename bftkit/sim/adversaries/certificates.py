"""New leaders and view changes that prove too little: for protocols that have such messages.

Nothing here imports a protocol. Messages are known by the names of their classes and fields: a ``ViewChange`` or
``NewView`` with a signed ``body`` within, whose content (a codec of `Plugin.inside`) has ``prepared`` certificates and
a proof of the ``low`` mark, or the view ``changes`` and the leader's ``votes``. For a protocol without them, these
adversaries do nothing, and say so in their status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import attrs

from bftkit.channel.replica import Replica, ReplicaSettings
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.wire import Codec
from bftkit.crypto.signed import Certificate
from bftkit.sim.adversaries.honest import Rewriting, Said, protocol_names

VIEW_CHANGE = "ViewChange"
NEW_VIEW = "NewView"


def statement_of(certificate: Certificate) -> tuple[int, int, bytes]:
    """(view, slot, digest) that a prepared certificate's votes are for."""
    body = certificate.body
    return int.from_bytes(body[:8], "big"), int.from_bytes(body[8:16], "big"), body[16:]


class Bodies(Rewriting):
    """What these have in common: changing what stands within a signed body."""

    kind: ClassVar[str]

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.able = {VIEW_CHANGE, NEW_VIEW} <= protocol_names(settings)
        """Whether the protocol has such messages."""
        self.forged = 0
        self.ways: list[str] = []
        """What was forged, in words, the newest last."""

    def status(self) -> dict[str, Any]:
        """How often it forged what, or that it cannot."""
        told = {"kind": self.kind, "able": self.able, "forged": self.forged, "last": self.ways[-3:]}
        return {"adversary": told}

    def changed(self, message: Any, change: Callable[[Any], Any | None]) -> Any | None:
        """The message with another body, signed again; None if the change yields none."""
        within: tuple[Codec[Any], Any] | None = self.inside(message.body)
        if within is None:
            return None
        codec, body = within
        other = change(body)
        if other is None or other == body:
            return None
        return self.resigned(attrs.evolve(message, body=codec.encode(other)))

    def lied(self, line: int, what: str) -> None:
        """Count it."""
        self.forged += 1
        self.ways = [*self.ways[-9:], what]
        self.act(line)

    def leads(self, view: int) -> bool:
        """Whether this member leads that view."""
        members = self.settings.members
        return members[view % len(members)] == self.settings.me

    def view_change(self, view: int, low: Sequence[Any], prepared: Sequence[Certificate]) -> Any | None:
        """This member's own view change, made by hand."""
        for codec in self.settings.plugin.inside:
            for cls in codec.messages.values():
                if {"view", "low", "prepared"} <= {field.name for field in attrs.fields(cls)}:
                    body = codec.encode(cls(view, tuple(low), tuple(prepared)))
                    return self.resigned(self.message(VIEW_CHANGE)(self.settings.me, body, bytes(64)))
        return None

    def with_votes(self, body: Any) -> Any:
        """A new view's body with this leader's votes for what its view changes yield."""
        lows, slots = [0], [0]
        for change in body.changes:
            within = self.inside(change.body)
            if within is not None:
                lows.append(min((vote.slot for vote in within[1].low), default=0))
                slots += [statement_of(each)[1] for each in within[1].prepared]
        return self.resigned(attrs.evolve(body, votes=(bytes(64),) * (max(lows + slots) - max(lows))))

    def header(self, view: int, slot: int, name: bytes) -> bytes | None:
        """This member's signature, as the view's leader, under a batch in a slot."""
        for cls in self.settings.plugin.codec.messages.values():
            if {"view", "slot", "digest", "signature"} == {field.name for field in attrs.fields(cls)}:
                signature: bytes = self.resigned(cls(view, slot, name, bytes(64))).signature
                return signature
        return None


class ForgedCertificates(Bodies):
    """Its view changes and new views have certificates with votes that are missing, repeated, or from a wrong view.

    Whatever needs its own signature has it, so the forgery is behind the signature. Besides, it says forged view
    changes without any need, one after some rounds. FAULTS 23. The defence: each vote of a certificate is checked, by
    everybody alike, so a signed forgery is a proof against its signer (SAFETY rules 1 and 6).
    """

    lines: ClassVar[tuple[int, ...]] = (23,)
    kind = "forged-certificates"

    def __init__(self, settings: ReplicaSettings, every: int = 30) -> None:
        """`every`: a forged view change without need at the end of each so-manyth round; 0: never."""
        super().__init__(settings)
        self._every = every
        self._rounds = 0
        self._turn = 0

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Forged in the place of true ones."""
        found = self.unpacked(frame) if self.able else None
        forged = self._forged(found[1]) if found is not None else None
        yield to, frame if forged is None else self.packed(forged)

    def besides(self, replica: Replica) -> Iterator[Said]:
        """A view change that nobody needs."""
        machine: Any = replica.machine
        self._rounds += 1
        if not self.able or not self._every or self._rounds % self._every:
            return
        certificates = [held.certificate for _, held in sorted(getattr(machine, "held", {}).items())]
        if not certificates:
            return
        low: int = getattr(machine, "low", 0)
        prepared = [each for each in certificates if statement_of(each)[1] > low]
        change = self.view_change(machine.view + 1, getattr(machine, "low_votes", ()), prepared)
        forged = None if change is None else self._forged(change)
        if forged is not None:
            yield replica.others, self.packed(forged)

    def _forged(self, message: Any) -> Any | None:
        name = type(message).__name__
        if name == VIEW_CHANGE and message.signer == self.settings.me:
            change = self._forge_view_change
        elif name == NEW_VIEW and self._opens(message):
            change = self._forge_new_view
        else:
            return None
        for _ in range(8):
            self._turn += 1
            forged = self.changed(message, change)
            if forged is not None:
                return forged
        return None

    def _opens(self, message: Any) -> bool:
        """Whether it is this member's own new view, and not one that it passes on."""
        within = self.inside(message.body)
        return within is not None and self.leads(within[1].view)

    def _forge_view_change(self, body: Any) -> Any | None:
        prepared: tuple[Certificate, ...] = body.prepared
        way = self._turn % 6
        if way == 5:
            if not body.low:
                return None
            self.lied(23, "a proof of the low mark with one vote too few")
            return attrs.evolve(body, low=body.low[:-1] if len(body.low) > 1 else body.low * 2)
        if not prepared:
            return None
        last = prepared[-1]
        votes = last.votes
        if way == 0:
            what, other = "a vote missing", Certificate(last.body, votes[:-1])
        elif way == 1:
            what, other = "a vote repeated", Certificate(last.body, (votes[0], *votes[:-1]))
        elif way == 2 and (view := int.from_bytes(last.body[:8], "big")) > 0:
            self.lied(23, "certificates of the view that it changes to")
            return attrs.evolve(body, view=view)
        elif way == 2:
            moved = body.view.to_bytes(8, "big") + last.body[8:]
            what, other = "votes of another view", Certificate(moved, votes)
        elif way == 3:
            # The dangerous one: of the newest view that there can be, for something that was never proposed.
            invented = (body.view - 1).to_bytes(8, "big") + last.body[8:-32] + digest(last.body)
            what, other = "votes that nobody signed", Certificate(invented, votes)
        else:
            self.lied(23, "a certificate twice")
            return attrs.evolve(body, prepared=(*prepared, last))
        self.lied(23, f"a certificate with {what}")
        return attrs.evolve(body, prepared=(*prepared[:-1], other))

    def _forge_new_view(self, body: Any) -> Any | None:
        changes: tuple[Any, ...] = body.changes
        way = self._turn % 3
        if way == 0:
            self.lied(23, "a new view with a view change missing")
            return attrs.evolve(body, changes=changes[:-1])
        if way == 1:
            self.lied(23, "a new view with a view change repeated")
            return attrs.evolve(body, changes=(changes[0], *changes[:-1]))
        own = [index for index, each in enumerate(changes) if each.signer == self.settings.me]
        if not own:
            return None
        stale = self.changed(changes[own[0]], lambda inner: attrs.evolve(inner, view=inner.view + 1))
        self.lied(23, "a new view with a view change for another view")
        return attrs.evolve(body, changes=(*changes[: own[0]], stale, *changes[own[0] + 1 :]))


class OmitPrepared(Bodies):
    """As the new leader it leaves out what was prepared; in its view changes it claims that it prepared nothing.

    FAULTS 24. The defence: everybody computes from the view changes what a new view must begin with, and a new view
    that begins with anything else convicts its leader; what a member keeps to itself, others of the quorum know (see
    "Why nothing decided is lost" in the protocol).
    """

    lines: ClassVar[tuple[int, ...]] = (24,)
    kind = "omit-prepared"

    def __init__(self, settings: ReplicaSettings, shorten: bool = False) -> None:
        """`shorten`: leave out the last slot as a whole, in the place of what is in it; else by turns."""
        super().__init__(settings)
        self._shorten = shorten
        self._turn = 0
        self._opening: Any = None

    def outgoing(self, replica: Replica, out: Any) -> Any:
        """See `say`; which slots a new view of this member fills, its machine knows."""
        self._opening = getattr(replica.machine, "opening", None)
        return super().outgoing(replica, out)

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Less than it should say."""
        found = self.unpacked(frame) if self.able else None
        less = self._less(found[1]) if found is not None else None
        yield to, frame if less is None else self.packed(less)

    def _less(self, message: Any) -> Any | None:
        name = type(message).__name__
        if name == VIEW_CHANGE and message.signer == self.settings.me:
            return self.changed(message, self._claim_nothing)
        if name == NEW_VIEW:
            return self.changed(message, self._omit)
        return None

    def _claim_nothing(self, body: Any) -> Any | None:
        if not body.prepared:
            return None
        self.lied(24, f"a view change without {len(body.prepared)} prepared certificates")
        return attrs.evolve(body, prepared=())

    def _omit(self, body: Any) -> Any | None:
        if not self.leads(body.view) or not body.votes:
            return None
        self._turn += 1
        choices = getattr(self._opening, "choices", ())
        full = [index for index, choice in enumerate(choices) if choice.digest != NO_DIGEST]
        if self._turn % 2 and not self._shorten and full and len(choices) == len(body.votes):
            at = full[-1]
            header = self.header(body.view, choices[at].slot, NO_DIGEST)
            if header is not None:
                self.lied(24, f"a new view with nothing in slot {choices[at].slot}")
                return attrs.evolve(body, votes=(*body.votes[:at], header, *body.votes[at + 1 :]))
        self.lied(24, "a new view without its last slot")
        return attrs.evolve(body, votes=body.votes[:-1])
