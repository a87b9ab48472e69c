"""Coming back after a crash: the rounds are made again from what this member said, so that it contradicts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.core.machine import Out as AnyOut
from bftkit.core.machine import Record

from . import exchange
from . import messages as m
from .rounds import Out, Round

if TYPE_CHECKING:
    from .machine import CksMachine


def restore(machine: CksMachine, records: Sequence[Record], out: Out) -> None:
    """Be again what the records say: with the same offers, echoes and votes in the same rounds.

    Raises `WireError` if a record is not this protocol's: one's own disk is no peer.
    """
    machine.restoring = True
    rounds = m.read_records(records)
    for number in sorted(rounds):
        machine.begun = max(machine.begun, number)
        state = machine.round(number)
        state.serial = len(rounds[number])
        blocks: dict[tuple[int, int], list[Record]] = {}
        for own in rounds[number]:
            blocks.setdefault((own.kind, own.index), []).append(own.record)
        # The agreement first: in a group of one, an offer is proposed as soon as it is here.
        for kind, index in sorted(blocks, reverse=True):
            restore_block(machine, state, kind, index, blocks[kind, index], out)
    machine.restoring = False
    machine.exchange.restored = bool(records)


def restore_block(
    machine: CksMachine, state: Round, kind: int, index: int, records: Sequence[Record], out: Out
) -> None:
    if kind == m.OFFER:
        if index == machine.index:
            state.offered = offered(records)
            machine.highest = max(machine.highest, state.number)
        if state.agreed:
            return
        child: AnyOut[cb.Message, cb.Output] = AnyOut()
        state.offer(machine.setup, index).on_restore(records, child)
        machine.adopt_offer(state, index, child, out)
    else:
        inner: AnyOut[va.Part, va.Agreed] = AnyOut()
        state.agree(machine.setup).on_restore(records, inner)
        machine.note_vote(state)
        machine.adopt_agreement(state, inner, out)


def offered(statements: Sequence[Record]) -> bytes | None:
    """The digest that this member's own offer named."""
    for statement in statements:
        message = cb.CODEC.decode(statement)
        if isinstance(message, cb.Send):
            return message.value
    return None


def resume(machine: CksMachine, out: Out) -> None:
    """Go on where the records end: fetch what is agreed on, and ask the others what else there is."""
    for number in sorted(machine.rounds):
        if machine.rounds[number].agreed:
            machine.fetch(machine.rounds[number], out)
    if machine.exchange.restored:
        exchange.ask(machine, out)
