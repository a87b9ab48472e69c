"""Wishes as JSON, and how they become those that `bftkit.membership.wishes` thinks through."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import attrs
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bftkit.admin.refusals import Refused
from bftkit.configuration.policy import MODES_MAX, REASON_MAX, Mode, Policy
from bftkit.configuration.qos import QoS
from bftkit.configuration.text import ConfigurationError
from bftkit.membership.card import MemberCard
from bftkit.membership.commands import Seat
from bftkit.membership.wishes import Wish

Name: TypeAlias = Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9_.-]{0,31}$")]
"""An id, or the name of a protocol or parameter."""
Hex32: TypeAlias = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Number: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 62)]
Small: TypeAlias = Annotated[int, Field(ge=0, le=255)]
Address: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class Strict(BaseModel):
    """Nothing is converted, nothing is passed over."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Needs(Strict):
    """What is needed of the group (QoS)."""

    byzantine: Small = 1
    crash: Small = 0
    replicas: Small = 0
    consistency: Literal["strong", "best-effort"] = "strong"
    order: Literal["total", "causal", "fifo", "none"] = "total"
    delivery: Literal["exactly-once", "at-least-once", "best-effort"] = "exactly-once"
    deadline_ms: Number = 0
    durability: Literal["fsync", "async", "memory"] = "fsync"
    network: Literal["synchronous", "partial", "asynchronous"] = "partial"

    @classmethod
    def of(cls, qos: QoS | None) -> Needs | None:
        """As JSON."""
        return None if qos is None else cls(**attrs.asdict(qos))

    def to_qos(self) -> QoS:
        """As operators sign it."""
        return QoS(**self.model_dump())


class ModeTerms(Strict):
    """A protocol with its parameters."""

    protocol: Name
    parameters: dict[Name, Number] = Field(default_factory=dict[str, int])


class PolicyTerms(Strict):
    """A policy as operators sign it."""

    name: Name
    modes: Annotated[list[ModeTerms], Field(max_length=MODES_MAX)] = Field(
        default_factory=list[ModeTerms], description="From the least robust to the most."
    )
    forced: Small = Field(default=0, description="The mode for a protocol that has stopped, counted from 1; 0: none.")
    stall_ms: Number = 0
    parameters: dict[Name, Number] = Field(default_factory=dict[str, int])

    @classmethod
    def of(cls, policy: Policy | None) -> PolicyTerms | None:
        """As JSON."""
        if policy is None:
            return None
        modes = [ModeTerms(protocol=mode.protocol, parameters=dict(mode.parameters)) for mode in policy.modes]
        return cls(
            name=policy.name,
            modes=modes,
            forced=policy.forced,
            stall_ms=policy.stall_ms,
            parameters=dict(policy.parameters),
        )

    def to_policy(self) -> Policy:
        """As operators sign it."""
        modes = tuple(Mode(mode.protocol, dict(sorted(mode.parameters.items()))) for mode in self.modes)
        return Policy(self.name, modes, self.forced, self.stall_ms, dict(sorted(self.parameters.items())))


class WishIn(Strict):
    """What is to be different; whatever is not named stays as it is."""

    protocol: Name | None = None
    settings: dict[Name, Number] = Field(default_factory=dict[str, int], description="Parameters of the protocol.")
    byzantine: Small | None = None
    crash: Small | None = None
    add: Annotated[list[str], Field(max_length=64)] = Field(
        default_factory=list[str], description="Cards of new members: the content of their card.toml."
    )
    remove: Annotated[list[Name], Field(max_length=64)] = Field(default_factory=list[str])
    replace: dict[Name, str] = Field(
        default_factory=dict[str, str], description="The card of the one that takes a member's place."
    )
    addresses: dict[Name, Annotated[list[Address], Field(min_length=1, max_length=8)]] = Field(
        default_factory=dict[str, list[str]]
    )
    add_operators: Annotated[list[Hex32], Field(max_length=64)] = Field(default_factory=list[str])
    remove_operators: Annotated[list[Hex32], Field(max_length=64)] = Field(default_factory=list[str])
    operator_threshold: Small | None = None
    coin: bool = False
    forced: bool = False
    at: Number = 0
    accept_loss: bool = False
    qos: Needs | None = None
    policy: PolicyTerms | None = None
    reason: Annotated[str, StringConstraints(max_length=REASON_MAX)] = ""

    def to_wish(self, group: bytes) -> Wish:
        """The wish, for the group of this id. Raises `Refused` for a card that is none, or another group's."""
        return Wish(
            self.protocol,
            dict(self.settings),
            self.byzantine,
            self.crash,
            tuple(_seat(card, group, "wish.add") for card in self.add),
            tuple(self.remove),
            {member: _seat(card, group, "wish.replace") for member, card in self.replace.items()},
            {member: tuple(places) for member, places in self.addresses.items()},
            tuple(map(bytes.fromhex, self.add_operators)),
            tuple(map(bytes.fromhex, self.remove_operators)),
            self.operator_threshold,
            self.coin,
            self.forced,
            self.at,
            self.accept_loss,
            self.qos.to_qos() if self.qos is not None else None,
            self.policy.to_policy() if self.policy is not None else None,
            self.reason,
        )


def _seat(text: str, group: bytes, where: str) -> Seat:
    try:
        card = MemberCard.from_text(text)
    except ConfigurationError as error:
        raise Refused(422, error.wrong, f"{where}.{error.where}", error.suggestion) from None
    if card.group is not None and card.group != group:
        raise Refused(409, "the card was made for another group", where, "a card made with this group's genesis")
    return card.seat()
