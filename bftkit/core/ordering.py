"""The one interface of all ordering protocols: what the group channel asks of them and what they answer.

A protocol puts *batches* into the slots of the one total order. It never touches a request: it sees a batch as a
digest and a length. The bytes travel beside its messages (`carry`) and are kept by the channel.

How a batch goes through a protocol:

1. The channel sees `room > 0`, forms a batch and gives `Propose(batch)`; its bytes are here and durable.
2. The protocol sends its proposal with ``carry=(batch.digest,)``, so that the bytes go with it.
3. A member that hears of a batch asks its channel with `Fetch(digest, slot, holders)`. The channel answers
   `Available(digest)` once the bytes are here, durable and made of authentic requests (at once, if they came with
   the message), or `Refused(digest)` if a request in it is not authentic. **No vote before `Available`** (SAFETY
   rules 3 and 4). If the bytes are missing, the channel asks the holders; the protocol may name more holders by
   another `Fetch` of the same digest.
4. The protocol says `Decided(slot, digest)`, slot by slot without a gap. "Decided" means delivered.

`NO_DIGEST` is the empty batch (a null request, a no-op): it needs no fetching.

The channel tells the protocol what it cannot see: that requests wait (`Waiting`), that a leader passes over a
request for too long (`Neglected`), that a slot was decided although this member missed it (`Learned`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, TypeAlias

import attrs

from bftkit.core.machine import STANDING, Digest, Machine, MemberId, Record, Slot
from bftkit.core.memo import Memo
from bftkit.core.quorum import Quorum, members_needed
from bftkit.core.state import SHARED
from bftkit.core.wire import Codec

__all__ = [
    "STANDING",
    "Available",
    "Batch",
    "BatchWanted",
    "Carried",
    "CoinProtocol",
    "Decided",
    "Fetch",
    "LeaderChanged",
    "Learned",
    "Neglected",
    "OrderingInput",
    "OrderingMachine",
    "OrderingOutput",
    "Parameter",
    "Plugin",
    "Propose",
    "ProtocolRecord",
    "Refused",
    "Returned",
    "Setup",
    "Waiting",
]


@attrs.frozen
class Batch:
    """What is decided in a slot, as a protocol sees it."""

    digest: Digest
    length: int


# ------------------------------------------------------------------------------------------------- inputs


@attrs.frozen
class Propose:
    """Order this batch. Given only while `room` > 0; the bytes are here, authentic and durable."""

    batch: Batch


@attrs.frozen
class Available:
    """The answer to `Fetch`: the bytes are here, authentic, and durable before whatever is sent next."""

    digest: Digest


@attrs.frozen
class Refused:
    """The other answer to `Fetch`: the bytes are here, and some request in them is not authentic. Never vote."""

    digest: Digest


@attrs.frozen
class Waiting:
    """Whether this member holds authentic requests that are not decided. Told when it changes."""

    waiting: bool


@attrs.frozen
class Neglected:
    """The leader has passed over a request that it holds, for too long (unfair to one client, or too slow)."""

    leader: MemberId


@attrs.frozen
class Learned:
    """Slot `slot` was decided as `digest`: f + 1 members said so (SAFETY rule 17). The bytes are here."""

    slot: Slot
    digest: Digest


OrderingInput: TypeAlias = Propose | Available | Refused | Waiting | Neglected | Learned


# ------------------------------------------------------------------------------------------------- outputs


@attrs.frozen
class Decided:
    """`digest` is decided in `slot`, for ever. Slots come in order, each once, without a gap."""

    slot: Slot
    digest: Digest


@attrs.frozen
class Fetch:
    """The bytes of this batch are wanted, for this slot; the named members should hold them."""

    digest: Digest
    slot: Slot
    holders: tuple[MemberId, ...]


@attrs.frozen
class LeaderChanged:
    """From now on this member expects proposals of `leader` (None: of everybody, or nobody yet), in `view`."""

    view: int
    leader: MemberId | None


@attrs.frozen
class BatchWanted:
    """A batch of this member is wanted now, an empty one (`NO_DIGEST`) if nothing waits: answered by `Propose`.

    For protocols without a leader, in which everybody's batch moves a round on (Cachin et al., CRYPTO 2001, section 5).
    """


@attrs.frozen
class Returned:
    """A batch that this member proposed will not be decided by that proposal: what is in it may be proposed again."""

    digest: Digest


OrderingOutput: TypeAlias = Decided | Fetch | LeaderChanged | BatchWanted | Returned


# ------------------------------------------------------------------------------------------------- set-up


class SignerProtocol(Protocol):
    """What a protocol signs and verifies with; `bftkit.crypto.keys.Keyring` is this."""

    def sign(self, purpose: str, statement: bytes) -> bytes:
        """This member's 64-byte signature under the statement, for this purpose only."""
        ...

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether the member made this signature. Never raises on a peer's input."""
        ...


class CoinProtocol(Protocol):
    """A member's part in the group's threshold coins; `bftkit.crypto.threshold.Coins` is this.

    A coin has a name and is 32 bytes that nobody knows before `threshold` members have released their shares, and
    that nobody can choose (Cachin, Kursawe, Shoup, PODC 2000). Purpose, group, epoch and opening are put in front of
    every name (SAFETY rule 2).
    """

    @property
    def threshold(self) -> int:
        """How many valid shares make a coin."""
        ...

    def share(self, name: bytes) -> bytes:
        """This member's share of the coin, with its proof; the same each time."""
        ...

    def verify(self, member: MemberId, name: bytes, share: bytes) -> bool:
        """Whether this is the member's share of the coin. Never raises on a peer's input."""
        ...

    def combine(self, name: bytes, shares: Mapping[MemberId, bytes]) -> bytes:
        """The coin, from at least `threshold` shares that were verified. Raises `ValueError` if there are fewer."""
        ...


@attrs.frozen
class Setup:
    """All that an instance of a protocol is given: one instance serves one member in one epoch."""

    me: MemberId
    members: tuple[MemberId, ...]
    """All members, in roster order; the same tuple everywhere."""
    quorum: Quorum
    keyring: SignerProtocol = attrs.field(metadata=SHARED)
    start: Slot = 0
    """The last slot before this instance: the first slot that it decides is ``start + 1``."""
    window: int = 256
    """No slot above (last stable checkpoint + window) is opened (SAFETY rule 18)."""
    parameters: Mapping[str, int] = attrs.field(factory=dict[str, int], metadata=SHARED)
    coins: CoinProtocol | None = attrs.field(default=None, metadata=SHARED)
    """For protocols whose record says `coins`."""
    memo: Memo = attrs.field(init=False, factory=Memo, eq=False, repr=False, metadata=SHARED)
    """What was checked with this set-up's keys. A changed copy of the set-up begins with an empty one."""

    def __attrs_post_init__(self) -> None:
        """Raises `ValueError` if the members are not those that the quorum counts, or `me` is none of them."""
        if len(set(self.members)) != self.quorum.n or len(self.members) != self.quorum.n:
            raise ValueError(f"the quorum counts {self.quorum.n} different members, not {', '.join(self.members)}")
        if self.me not in self.members:
            raise ValueError(f"{self.me} is none of the members {', '.join(self.members)}")

    def parameter(self, record: ProtocolRecord, name: str) -> int:
        """The parameter's value, or its default. Raises `KeyError` for a name that the record does not have."""
        return self.parameters.get(name, record.parameters[name].default)


@attrs.frozen
class Parameter:
    """One setting of a protocol: its default, its bounds and its meaning (with the unit)."""

    default: int
    minimum: int
    maximum: int
    meaning: str


@attrs.frozen
class ProtocolRecord:
    """What a protocol says of itself; the configuration manager chooses by it and the demo injects by it."""

    name: str
    title: str
    paper: str
    byzantine: bool
    """Whether f > 0 is allowed. If not, f must be 0."""
    timing: Literal["synchronous", "partial", "asynchronous"]
    """What must hold of the network for progress; safety never depends on it."""
    steps: int
    """Message delays from the leader's proposal to the decision, without faults."""
    messages: str
    """Messages a batch, as a function of n."""
    survives: frozenset[str]
    """Names of faults after which the group goes on by itself: see `FAULT_NAMES`."""
    when: str
    """When to choose it, in one sentence."""
    parameters: Mapping[str, Parameter] = attrs.field(factory=dict[str, Parameter])
    coins: bool = False
    """Whether it tosses threshold coins, so that the group needs coin keys."""
    crash_as_lie: bool = False
    """Whether a crash costs as many members as a lie: n >= 3 (f + c) + 1 in place of 3f + 2c + 1."""

    def members_needed(self, f: int, c: int = 0) -> int:
        """The smallest n with which it survives f Byzantine and c more crashing members."""
        return 3 * (f + c) + 1 if self.crash_as_lie else members_needed(f, c)


FAULT_NAMES: Mapping[str, str] = {
    "loss": "messages lost, duplicated and reordered",
    "partition": "partition and healing",
    "follower-crash": "up to f + c members other than the leader crash",
    "leader-crash": "the leader crashes and stays away",
    "leader-restart": "the leader crashes and comes back",
    "power-cut": "all members crash at once and come back",
    "liar": "up to f members are Byzantine, the leader among them",
    "slow-leader": "the leader delays its proposals on purpose",
}


class OrderingMachine(Machine[OrderingInput, Any, OrderingOutput], Protocol):
    """A protocol's machine: one member in one epoch."""

    __slots__ = ()

    @property
    def room(self) -> int:
        """How many proposals it would take now (0: not the leader, or the window is full)."""
        ...

    @property
    def leader(self) -> MemberId | None:
        """Whom this member expects proposals from; None if everybody proposes, or nobody can yet."""
        ...

    @property
    def view(self) -> int:
        """The current view, ballot or round; for people and for metrics."""
        ...

    @property
    def highest_voted(self) -> Slot:
        """The highest slot this member voted for or accepted: a strong read waits for it (SAFETY rule 13)."""
        ...

    def standing(self) -> Sequence[Record]:
        """The standing records that still matter, to be repeated at the head of a new log segment."""
        ...

    def fork(self) -> Self:
        """An independent copy."""
        ...

    def fingerprint(self) -> bytes:
        """Equal exactly for equal states."""
        ...


@attrs.frozen
class Carried:
    """What survives an epoch that was ended by force (SAFETY rule 22): these slots, right above `start`."""

    start: Slot
    slots: tuple[tuple[Slot, Digest], ...]


@attrs.frozen
class Plugin:
    """An algorithm on the shelf: found through the entry-point group ``bftkit.protocols``.

    The three functions beside the machine work from durable records alone, so that the group can leave a protocol
    whose machine has failed (SAFETY rules 22 and 29):

    - ``history(setup, stable, records)`` what this member may have helped to decide above the checkpoint `stable`;
    - ``check_history(setup, member, stable, history)`` whether another member's history is well formed and proved;
    - ``carry(setup, stable, histories)`` the continuation, from n - f - c checked histories; everybody computes the
      same. A slot that was delivered anywhere is never lost by it.
    """

    record: ProtocolRecord
    codec: Codec[Any]
    create: Callable[[Setup], OrderingMachine]
    history: Callable[[Setup, Slot, Sequence[Record]], bytes]
    check_history: Callable[[Setup, MemberId, Slot, bytes], bool]
    carry: Callable[[Setup, Slot, Mapping[MemberId, bytes]], Carried]
    convicts: Callable[[Setup, MemberId, bytes], bool] | None = None
    """Whether a proof that came with a blame shows, to anybody with the members' keys, that this member broke the
    protocol; None: its blames come without proofs."""
    conflicts: Callable[[Setup, Mapping[MemberId, bytes]], Sequence[tuple[MemberId, bytes]]] | None = None
    """Who must have lied, each with a proof for `convicts`, if checked histories contradict each other where f = 0 and
    nobody should; `carry` ends such an epoch by a fixed rule, and its safety is lost (SAFETY rule 24)."""
    signed_for: Callable[[Setup, MemberId, bytes], Digest | None] | None = None
    """Of a proof that is only one half: for which batch it shows this member to have signed, where no correct member
    signs for a batch that it has not found authentic. The other half is the batch itself, if it is bad; the channel
    adds it. None for any other proof."""
    forge: Callable[[Setup, Any, Digest], Any | None] | None = None
    """For fault injection: the same proposal for another batch, as a leader that lies could sign it; else None."""
    resign: Callable[[Setup, Any], Any | None] | None = None
    """For fault injection: a message whose fields were changed, with all signatures in it that are this member's own
    to give made anew; None if it has none. Without it, changed messages of this protocol fail at their signatures, and
    the checks behind those are not tried."""
    inside: tuple[Codec[Any], ...] = ()
    """For fault injection: the codecs of what stands in the bytes within messages, such as signed bodies. `resign` is
    given their messages, too, each before the message that it stands in."""
