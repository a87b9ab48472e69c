"""What a change would do: the wish or the command, thought through as the command line and the members would."""

from __future__ import annotations

from typing import Final

from bftkit.admin.explaining import quorum_sizes, unmet
from bftkit.admin.facade import Facade
from bftkit.admin.models import DryRunBody, Row, Signatures
from bftkit.admin.refusals import Refused
from bftkit.channel.preparing import trial
from bftkit.core.ordering import Plugin
from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol
from bftkit.core.quorum import Quorum
from bftkit.crypto.keys import verify_signature
from bftkit.membership.commands import Command, CommandError, SignedCommand
from bftkit.membership.wishes import Prospect, Wish, explain, foresee

NO_NONCE: Final = bytes(16)
"""Of a command that is never signed."""


def of_wish(facade: Facade, wish: Wish) -> DryRunBody:
    """What carrying out a wish would mean. Raises `Refused` with the numbers for what the members would refuse."""
    here = facade.here
    present = _plugin(here.protocol)
    wished = _plugin(wish.protocol if wish.protocol is not None else here.protocol)
    try:
        prospect = foresee(
            here, facade.schedule, wish, present.record, wished.record, group=facade.group, nonce=NO_NONCE
        )
        _require_beginning(prospect)
    except CommandError as error:
        raise _refused(error, "wish") from None
    return _told(facade, prospect, None)


def of_command(facade: Facade, signed: SignedCommand) -> DryRunBody:
    """What a command would do in the present epoch, signed or not. Raises `Refused`."""
    here, command = facade.here, signed.command
    try:
        signed.check_epoch(facade.group, here.epoch)
        if command.by_policy:
            raise CommandError("only the group's own policy decides that; operators sign planned and forced changes")
        present = _plugin(here.protocol).record
        wished = _plugin(command.change.protocol).record if command.change is not None else present
        prospect = explain(here, facade.schedule, command, present, wished)
        _require_beginning(prospect)
    except CommandError as error:
        raise _refused(error, "command") from None
    return _told(facade, prospect, _signatures(facade, signed))


def _signatures(facade: Facade, signed: SignedCommand) -> Signatures:
    here = facade.here
    text = ""
    try:
        signed.check(facade.group, here.epoch, here.operators, here.operator_threshold, verify_signature)
    except CommandError as error:
        text = str(error)
    return Signatures(
        signed_by=[item.operator.hex() for item in signed.signatures],
        needed=here.operator_threshold,
        good=not text,
        text=text,
    )


def _told(facade: Facade, prospect: Prospect, signatures: Signatures | None) -> DryRunBody:
    switch = facade.node.chronicle.switch
    change = prospect.command.change
    return DryRunBody(
        kind=prospect.kind,
        epoch=prospect.here.epoch,
        rows=[Row(what=what, before=before, after=after) for what, before, after in prospect.rows],
        meanwhile=list(prospect.meanwhile),
        warnings=[*prospect.warnings, *(unmet(change, facade.genesis) if change is not None else ())],
        quorum_before=quorum_sizes(prospect.here.quorum),
        quorum_after=quorum_sizes(_quorum_after(prospect.command, prospect.here.quorum)),
        last_pause_ms=switch.pause_ms if switch is not None else None,
        signatures=signatures,
    )


def _quorum_after(command: Command, now: Quorum) -> Quorum:
    change = command.change
    return now if change is None else Quorum(len(change.members), change.f, change.c)


def _require_beginning(prospect: Prospect) -> None:
    there = prospect.next
    reason = trial(_plugin(there.protocol), there) if there is not None else None
    if reason is not None:
        raise CommandError(reason)


def _plugin(name: str) -> Plugin:
    try:
        return load_protocol(name)
    except (UnknownProtocol, BrokenProtocol) as error:
        raise Refused(409, str(error), "protocol", "a protocol that is installed at this member") from None


def _refused(error: CommandError, where: str) -> Refused:
    return Refused(409, str(error), where, "a change that the members would carry out")
