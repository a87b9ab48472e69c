"""Operators' commands on their way: a client brings them to every member, and asks what became of them.

One member can neither swallow a command nor lie about it (FAULTS 44): the command goes to all of them, again and
again, and what is told is what f + 1 members say. That a command was carried out, or that its epoch ended otherwise,
the client sees for itself in the chain of hand-overs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import COMMAND, make_proved_bundle
from bftkit.channel.client_face import PATIENCE_TICKS, PATIENCE_TICKS_MAX, ClientOut, CommandState
from bftkit.channel.frames import AskCommand, CommandAnswer, pack_ask
from bftkit.core.machine import Digest, MemberId
from bftkit.core.quorum import Quorum
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import SignedCommand

ASK_TICKS: Final = 100
"""How often the members are asked what became of a command."""

_RANKS: Final = {
    state: rank
    for rank, state in enumerate(
        (
            frames.UNKNOWN_COMMAND,
            frames.TAKEN,
            frames.REFUSED,
            frames.PREPARED,
            frames.COMMITTED,
            frames.DONE,
        )
    )
}
"""Of two states that equally many members tell, the later one: those that tell the earlier one may be behind."""


@attrs.define(eq=False)
class _Order:
    signed: SignedCommand
    frame: bytes
    due: int
    ask_due: int
    first: int
    """The number of the first question about it: what answers an earlier one was said of an earlier order."""
    patience: int = PATIENCE_TICKS
    answers: dict[MemberId, tuple[int, str]] = attrs.field(factory=dict[MemberId, tuple[int, str]])
    told: CommandState | None = None


class Orders:
    """The part of a client that follows operators' commands."""

    def __init__(self, number: int = 0) -> None:
        """Questions are numbered from the one after `number` on."""
        self._orders: dict[Digest, _Order] = {}
        self._number = number
        self._now = 0

    @property
    def waiting(self) -> bool:
        """Whether members are to be asked again when time has passed."""
        return bool(self._orders)

    def start(
        self, signed: SignedCommand, members: Sequence[MemberId], epoch: int, kept: Iterable[HandOver], out: ClientOut
    ) -> None:
        """Bring a command to the members. `kept`: the newest hand-overs, of which one may have decided already."""
        name = signed.name
        frame = bytes((frames.BUNDLE,)) + make_proved_bundle(COMMAND, name, signed.encode())
        due, ask_due = self._now + PATIENCE_TICKS, self._now + ASK_TICKS
        order = self._orders[name] = _Order(signed, frame, due, ask_due, self._number + 1)
        for link in kept:
            if self._decided(order, link, out):
                return
        # In another epoch it means nothing any more, but members may remember what became of it.
        if signed.command.epoch >= epoch:
            out.send(members, frame)
        self._ask(order, members, out)

    def forget(self, name: Digest) -> None:
        """Do not ask any more."""
        self._orders.pop(name, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._orders.clear()

    def on_link(self, member: MemberId, out: ClientOut) -> None:
        """A new link to a member: what was sent over the one before may be lost."""
        for order in self._orders.values():
            out.send(member, order.frame)
            self._ask(order, (member,), out)

    def on_tick(self, now: int, members: Sequence[MemberId], out: ClientOut) -> bool:
        """Time has passed; says whether something was due."""
        self._now = now
        overdue = False
        for order in self._orders.values():
            if now >= order.due:
                order.patience = min(2 * order.patience, PATIENCE_TICKS_MAX)
                order.due = now + order.patience
                out.send(members, order.frame)
                overdue = True
            if now >= order.ask_due:
                order.ask_due = now + ASK_TICKS
                self._ask(order, members, out)
        return overdue

    def _ask(self, order: _Order, members: Sequence[MemberId], out: ClientOut) -> None:
        self._number += 1
        out.send(members, pack_ask(AskCommand(self._number, order.signed.name)))

    def on_answer(
        self,
        sender: MemberId,
        answer: CommandAnswer,
        members: Sequence[MemberId],
        quorum: Quorum,
        epoch: int,
        out: ClientOut,
    ) -> None:
        """What a member says over a link that is proved for this epoch."""
        order = self._orders.get(answer.command)
        said = (answer.state, answer.text)
        if order is None or answer.state not in _RANKS or order.answers.get(sender) == said:
            return
        if not order.first <= answer.number <= self._number:
            return  # it may have been refused then, and be taken in now
        order.answers[sender] = said
        answers = {name: order.answers[name] for name in members if name in order.answers}
        counts = Counter(state for state, _ in answers.values())
        state = max(counts, key=lambda one: (counts[one], _RANKS[one]))
        by = tuple(name for name, (one, _) in answers.items() if one == state)
        if len(by) < quorum.weak:
            state, by = frames.UNKNOWN_COMMAND, ()
        texts = Counter(answers[name][1] for name in by)
        text = next((one for one, count in texts.most_common(1) if count >= quorum.weak), "")
        # A refusal at some doors is not the last word: one correct member that takes the command in passes it on. And
        # whoever has not reached the command's epoch refuses it for the time being.
        refused = state == frames.REFUSED and len(by) >= quorum.available and order.signed.command.epoch <= epoch
        if state == frames.DONE and order.signed.command.epoch >= epoch:
            return  # the chain will say so itself: whoever is told it is in the new epoch then
        final = state == frames.DONE or refused
        self._tell(order, CommandState(answer.command, state, text, by, answers, final), out)

    def _tell(self, order: _Order, state: CommandState, out: ClientOut) -> None:
        if state != order.told:
            order.told = state
            out.deliver(state)
        if state.final:
            self.forget(state.name)

    def on_moved(self, links: Iterable[HandOver], members: Sequence[MemberId], out: ClientOut) -> None:
        """These hand-overs were followed: the chain itself says what became of their epochs' commands."""
        for order in list(self._orders.values()):
            if any(self._decided(order, link, out) for link in links):
                continue
            order.answers.clear()  # given over links that the new epoch's keys have not proved
            self._ask(order, members, out)

    def _decided(self, order: _Order, link: HandOver, out: ClientOut) -> bool:
        """Whether this hand-over says what became of the command."""
        signed, ended = order.signed, link.ending.epoch
        if signed.command.epoch != ended:
            return False
        state, text = frames.REFUSED, f"epoch {ended} was ended by another command; this one was for that epoch only"
        if link.ending.command == signed.name:
            state, text = frames.DONE, f"epoch {ended + 1}"
        self._tell(order, CommandState(signed.name, state, text, (), dict(order.answers), final=True), out)
        return True
