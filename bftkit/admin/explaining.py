"""Configurations and hand-overs in the words of the HTTP interface."""

from __future__ import annotations

import base64

from bftkit.admin.models import ConfigurationBody, FullLink, Link, PendingChange, QuorumSizes
from bftkit.admin.wish_models import Needs, PolicyTerms
from bftkit.channel.reconfiguring import Pending
from bftkit.configuration.manager import Refusal, choose, founded_without_disk, present_needs
from bftkit.configuration.qos import DurabilityName
from bftkit.configuration.shelf import BrokenPolicy, UnknownPolicy
from bftkit.configuration.text import ConfigurationError
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol, protocol_names
from bftkit.core.quorum import Quorum
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import Change
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import Genesis


def quorum_sizes(quorum: Quorum) -> QuorumSizes:
    """How many members it takes."""
    return QuorumSizes(
        n=quorum.n, byzantine=quorum.f, crash=quorum.c, certificate=quorum.certificate, available=quorum.available
    )


def configuration_body(configuration: Configuration) -> ConfigurationBody:
    """A configuration."""
    return ConfigurationBody(
        epoch=configuration.epoch,
        protocol=configuration.protocol,
        parameters=dict(configuration.parameters),
        members=list(configuration.members),
        quorum=quorum_sizes(configuration.quorum),
        operators=[key.hex() for key in configuration.operators],
        operator_threshold=configuration.operator_threshold,
        checkpoint_interval=configuration.checkpoint_interval,
        window=configuration.window,
        coin=configuration.coin is not None,
        qos=Needs.of(configuration.qos),
        policy=PolicyTerms.of(configuration.policy),
        digest=configuration.digest.hex(),
    )


def installed() -> tuple[ProtocolRecord, ...]:
    """What the protocols say of themselves that this member could run."""
    found: list[ProtocolRecord] = []
    for name in protocol_names():
        try:
            found.append(load_protocol(name).record)
        except BrokenProtocol:
            continue
    return tuple(found)


def needs_in_words(here: Configuration, durability: DurabilityName) -> list[str]:
    """What is needed of the group, what that led to, and how other protocols compare."""
    told = [] if here.qos is not None else ["Nobody has said what is needed; this is what the group gives."]
    try:
        timing = load_protocol(here.protocol).record.timing
        found = choose(present_needs(here, durability, timing), here.members, installed(), here, protocol=here.protocol)
    except (UnknownProtocol, BrokenProtocol, ConfigurationError, UnknownPolicy, BrokenPolicy) as error:
        return [*told, str(error)]
    if isinstance(found, Refusal):
        return [*told, f"{here.protocol} alone does not give that: {found.text}"]
    needs = [f"{one.field} = {one.value}: {one.led_to}" for one in found.because]
    return [*told, found.summary, *needs, *(f"{one.protocol}: {one.text}" for one in found.protocols), *found.notes]


def unmet(change: Change, genesis: Genesis) -> list[str]:
    """Which needs a change names that it does not meet: members would order it all the same."""
    if change.qos is None:
        return []
    ids, without_disk = [seat.id for seat in change.members], founded_without_disk(genesis, change.members)
    try:
        found = choose(change.qos, ids, installed(), protocol=change.protocol, without_disk=without_disk)
    except (ConfigurationError, UnknownPolicy, BrokenPolicy) as error:
        return [str(error)]
    return [f"The needs are not met: {found.text}."] if isinstance(found, Refusal) else []


def pending_body(pending: Pending | None) -> PendingChange | None:
    """The change that is under way."""
    if pending is None:
        return None
    return PendingChange(
        command=pending.signed.name.hex(),
        protocol=pending.next.protocol,
        members=list(pending.next.members),
        slot=pending.slot,
        committed=pending.committed,
        ends_after_slot=pending.boundary or None,
    )


def link_body(link: HandOver, *, verified: bool) -> Link:
    """A hand-over, without its bytes."""
    there, ending, signed = link.next, link.ending, link.signed
    return Link(
        epoch=there.epoch,
        kind="forced" if signed.command.forced else "planned",
        cause="policy" if signed.command.by_policy else "operators",
        reason=signed.command.reason,
        protocol=there.protocol,
        members=list(there.members),
        byzantine=there.f,
        crash=there.c,
        after_slot=ending.slot,
        state=ending.root.hex(),
        opening=ending.opening.hex(),
        command=ending.command.hex(),
        signed_by=[vote.member for vote in link.certificate.votes],
        operators=[item.operator.hex() for item in signed.signatures],
        verified=verified,
    )


def full_link_body(link: HandOver, *, verified: bool) -> FullLink:
    """A hand-over with its bytes."""
    return FullLink(
        **link_body(link, verified=verified).model_dump(),
        handover=base64.b64encode(link.encode()).decode("ascii"),
        configuration=configuration_body(link.next),
    )
