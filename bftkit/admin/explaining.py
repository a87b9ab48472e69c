"""Configurations and hand-overs in the words of the HTTP interface."""

from __future__ import annotations

import base64

from bftkit.admin.models import ConfigurationBody, FullLink, Link, PendingChange, QuorumSizes
from bftkit.admin.wish_models import Needs, PolicyTerms
from bftkit.channel.reconfiguring import Pending
from bftkit.core.quorum import Quorum
from bftkit.membership.chain import HandOver
from bftkit.membership.epochs import Configuration


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
