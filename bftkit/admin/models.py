"""What goes in and out of the HTTP interface, as pydantic models: the published schema is made from these.

Bytes are base64 where they are long and hexadecimal digits where people compare them (digests, public keys). Times are
milliseconds, `*_ms`; a slot is a position in the total order. Requests are strict: what is not known is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bftkit.admin.wish_models import Needs, PolicyTerms, WishIn

Hex32: TypeAlias = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""32 bytes as hexadecimal digits."""
Base64: TypeAlias = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9+/]*={0,2}$")]


class Body(BaseModel):
    """What all have in common: exactly these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Body):
    """Why there is no answer, in the one form that all errors have."""

    error: str = Field(description="What is wrong.")
    where: str = Field(description="Where in the request; empty if nowhere in particular.")
    right: str = Field(description="What would be right.")


class Status(BaseModel):
    """How this member is, as it says itself. There may be more fields than are named here."""

    model_config = ConfigDict(extra="allow")

    member: str
    epoch: int
    protocol: str
    view: int
    leader: str | None
    applied: int = Field(description="The last slot that was executed here.")
    stable: int = Field(description="The last slot whose state a quorum has signed.")
    waiting: int = Field(description="Requests that wait to be ordered.")
    stopped: str | None = Field(description="Why this member has stopped, if so.")
    silent: bool = Field(description="Whether it has forgotten what it promised, and says nothing in this epoch.")
    catching_up: bool
    uptime_s: float
    durability: str
    links: list[str] = Field(description="Members that it has a link with.")
    clients: int


class QuorumSizes(Body):
    """How many members it takes, in a group of n of which f may lie and c more may crash."""

    n: int
    byzantine: int
    crash: int
    certificate: int = Field(description="So many decide, and sign what is decided.")
    available: int = Field(description="So many must be up.")


class PendingChange(Body):
    """A change that is prepared or committed in the present epoch."""

    command: Hex32
    protocol: str
    members: list[str]
    slot: int = Field(description="Where it was prepared.")
    committed: bool
    ends_after_slot: int | None = Field(description="The epoch's last slot, once it is fixed.")


class ConfigurationBody(Body):
    """What an epoch runs under."""

    epoch: int
    protocol: str
    parameters: dict[str, int]
    members: list[str]
    quorum: QuorumSizes
    operators: list[Hex32]
    operator_threshold: int = Field(description="So many operators must sign a command.")
    checkpoint_interval: int
    window: int
    coin: bool = Field(description="Whether the epoch has a coin key.")
    qos: Needs | None
    policy: PolicyTerms | None
    digest: Hex32


class PresentConfiguration(ConfigurationBody):
    """What is in force now."""

    opening: Hex32 = Field(description="What opened the epoch; everything signed in it begins with it.")
    pending: PendingChange | None


class Link(Body):
    """A hand-over: how an epoch began."""

    epoch: int = Field(description="The epoch that it began.")
    kind: Literal["planned", "forced"]
    cause: Literal["operators", "policy"]
    reason: str = Field(description="Why, as the command says it; may be empty.")
    protocol: str
    members: list[str]
    byzantine: int
    crash: int
    after_slot: int = Field(description="The last slot of the epoch before.")
    state: Hex32 = Field(description="The digest of the state after that slot.")
    opening: Hex32
    command: Hex32 = Field(description="The name of the command that caused it.")
    signed_by: list[str] = Field(description="Members of the epoch before that signed it.")
    operators: list[Hex32] = Field(description="Operators that signed the command.")
    verified: bool = Field(description="Whether this member has checked it from the genesis on.")


class History(Body):
    """Part of the chain of hand-overs."""

    group: Hex32
    epoch: int = Field(description="The present epoch.")
    links: list[Link]
    next: int | None = Field(description="Ask from this epoch on for more; null: that is all.")


class FullLink(Link):
    """A hand-over with its bytes, for whoever verifies it."""

    handover: Base64 = Field(description="The hand-over: certificate, configuration and command.")
    configuration: ConfigurationBody


class GenesisBody(Body):
    """The group's genesis. Whoever verifies history must have it from somebody they trust, not from here."""

    group: Hex32
    name: str
    text: str


class MemberBody(Body):
    """A member of the present epoch, and what is known of it here."""

    id: str
    me: bool
    identity: Hex32
    epoch_root: Hex32 = Field(description="What its keys of all epochs commit to.")
    epochs_left: int = Field(description="For so many more epochs it has keys.")
    addresses: list[str] = Field(description="As the roster has them.")
    dialled: list[str] = Field(description="Where this member dials it now, in this order.")
    link: bool = Field(description="Whether there is a link to it now.")
    heard_ms: int | None = Field(description="How long ago it was last heard; null: never.")


class MembersBody(Body):
    """The members of the present epoch."""

    epoch: int
    members: list[MemberBody]


class MetricsBody(Body):
    """All numbers of this member at one moment, by name; `/metrics` has them as Prometheus wants them."""

    member: str
    epoch: int
    values: dict[str, int | float]


class EvidenceItem(Body):
    """A proof that a member lied."""

    name: str
    epoch: int
    member: str


class EvidenceList(Body):
    """The proofs that this member keeps."""

    evidence: list[EvidenceItem]


class Proof(Body):
    """One proof, with all that it takes to check it."""

    name: str
    epoch: int
    protocol: str
    member: str = Field(description="Who is said to have lied.")
    fault: str
    seen_by: str
    seen_ms: int = Field(description="When, by the clock of the member that keeps it: milliseconds since 1970.")
    file: str = Field(description="The proof as a file that `bftkit evidence verify` reads.")


class QosBody(Body):
    """What operators said they need, and how it is met."""

    qos: Needs | None
    explanation: list[str]


class PolicyBody(Body):
    """By what the members change their protocol themselves, and what it sees now."""

    policy: PolicyTerms | None
    state: dict[str, Any] | None = Field(description="Conditions, wishes and decisions; null: there is no policy.")
    explanation: list[str]


class Checkpoint(Body):
    """A state that a quorum has signed."""

    slot: int
    root: Hex32


class LogBody(Body):
    """The log, and what it may forget."""

    durability: str
    bytes: int
    segments: int
    applied: int
    stable: int
    checkpoints: list[Checkpoint]


class Event(BaseModel):
    """Something that happened, as this member saw it. What else is told depends on the event."""

    model_config = ConfigDict(extra="allow")

    id: str
    event: str
    time_ms: int


class EventsBody(Body):
    """Events in the order in which they happened."""

    events: list[Event]
    last: str | None = Field(description="Ask for what came after this one.")


class CommandBytes(BaseModel):
    """An operators' command as bytes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: Base64 = Field(description="The signed command.")


class CommandFile(BaseModel):
    """An operators' command as a file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file: str = Field(description="What `bftkit ... --out FILE` wrote.")


class WishBody(BaseModel):
    """What an operator wants to be different."""

    model_config = ConfigDict(extra="forbid", strict=True)

    wish: WishIn


CommandIn: TypeAlias = CommandBytes | CommandFile
DryRunIn: TypeAlias = CommandBytes | CommandFile | WishBody

State: TypeAlias = Literal["unknown", "taken", "prepared", "committed", "done", "refused"]


class CommandBody(Body):
    """What this member knows of a command. It may lie, or be behind: ask f + 1 of them, or look at the history."""

    name: Hex32
    state: State
    text: str


class Row(Body):
    """Something that is so now, and so afterwards."""

    what: str
    before: str
    after: str


class Signatures(Body):
    """Who has signed a command, of those who must."""

    signed_by: list[Hex32]
    needed: int
    good: bool = Field(description="Whether enough operators of this epoch have signed it.")
    text: str = Field(description="What is missing, if so.")


class DryRunBody(Body):
    """What a change would do, checked as the members would check it. Nothing is signed, nothing is sent."""

    kind: str
    epoch: int
    rows: list[Row]
    meanwhile: list[str] = Field(description="Who must be up meanwhile, and when and for how long service pauses.")
    warnings: list[str]
    quorum_before: QuorumSizes
    quorum_after: QuorumSizes
    last_pause_ms: float | None = Field(description="How long service paused at the last change seen here.")
    signatures: Signatures | None = Field(description="Of a command; null for a wish, which nobody has signed.")
