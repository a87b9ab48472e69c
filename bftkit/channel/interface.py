"""A replica's face: what it is given, what goes in, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import attrs

from bftkit.channel import frames
from bftkit.channel.checkpoints import Stable
from bftkit.core.machine import Digest, MemberId, Out, Slot
from bftkit.core.ordering import CoinProtocol, Plugin, SignerProtocol
from bftkit.core.quorum import Quorum
from bftkit.core.wire import Codec
from bftkit.crypto.keys import Keyring, SigningKey, verify_signature
from bftkit.membership.chain import Place, Verifier
from bftkit.membership.epochs import Configuration, Schedule
from bftkit.membership.roster import RosterEntry

# ---------------------------------------------------------------------------------------------- inputs


@attrs.frozen
class FromClient:
    """A frame from a client, known by its public key."""

    client: bytes
    frame: bytes


@attrs.frozen
class ClientLink:
    """A link to this client came up; `binding` names it, the same on both sides."""

    client: bytes
    binding: bytes


@attrs.frozen
class Clock:
    """This member's wall clock reads so many milliseconds since 1970. It may jump."""

    now_ms: int


@attrs.frozen
class RoundEnd:
    """Everything that was ready has been handed in."""


@attrs.frozen
class Saved:
    """The checkpoint that `Save` asked for is durable."""

    slot: Slot


@attrs.frozen
class SecretKept:
    """What `KeepSecret` asked for is durable."""

    name: bytes


ReplicaInput: TypeAlias = FromClient | ClientLink | Clock | RoundEnd | Saved | SecretKept

# ---------------------------------------------------------------------------------------------- outputs


@attrs.frozen
class ToClient:
    """A frame for a client, if it is connected here."""

    client: bytes
    frame: bytes


@attrs.frozen(eq=False)
class Save:
    """Make this stable checkpoint durable and answer `Saved`. Its view is frozen: another thread may do it."""

    stable: Stable

    def manifest(self) -> bytes:
        """What `on_restore` wants beside the chunks."""
        return frames.CONTROL_CODEC.encode(frames.Manifest(self.stable.certificate, self.stable.leaves))


@attrs.frozen
class Jot:
    """Append this record to the log when convenient; nothing waits for it, and it may be lost in a crash."""

    record: bytes
    slot: Slot


@attrs.frozen
class StatusAsked:
    """A client asks how this member is: answer with `pack_answer(StatusAnswer(number, text))`."""

    client: bytes
    number: int


@attrs.frozen
class Rotate:
    """Start a new log segment with these standing records."""

    standing: tuple[bytes, ...]


@attrs.frozen
class Cut:
    """Log segments that concern nothing above this slot may go."""

    slot: Slot


@attrs.frozen
class Halted:
    """This member stopped taking part, for this reason; it still answers what it knows."""

    reason: str
    removed: bool = False
    """Nothing is wrong: operators took it out of the group, and the next epoch has begun."""
    needed: bool = True
    """Whether its process should go on, to tell others what it knows. Only a removed one may be needed no more."""


@attrs.frozen
class Linked:
    """Keep this hand-over for those who ask for the chain. It can be fetched again, so nothing waits for it."""

    epoch: int
    """The epoch that it ends."""
    link: bytes


@attrs.frozen
class Neighbours:
    """From now on, these are the members to have links with: the epoch's, and those that are joining or leaving."""

    entries: tuple[RosterEntry, ...]


@attrs.frozen
class Entered:
    """This member is in a new epoch; what belongs to the epochs before it (keys, coin shares) is to be erased."""

    place: Place
    link: bytes
    """The hand-over that led there."""


@attrs.frozen
class KeepSecret:
    """Keep this secret, where it can be overwritten and never in the log (SAFETY rule 20), and answer `SecretKept`.

    It is wanted again after a restart (`Restored.secrets`), as long as the coin key that it belongs to is in use.
    """

    epoch: int
    """The epoch that it is for."""
    name: bytes
    secret: bytes = attrs.field(repr=False)


ReplicaOutput: TypeAlias = (
    ToClient | StatusAsked | Save | Jot | Rotate | Cut | Halted | Linked | Neighbours | Entered | KeepSecret
)

ReplicaOut: TypeAlias = Out[bytes, ReplicaOutput]

# ---------------------------------------------------------------------------------------------- settings


@attrs.frozen
class Limits:
    """Bounds on everything that a peer can fill."""

    operation_bytes: int = 1 << 20
    bundle_bytes: int = 2 << 20
    batch_bytes: int = 1 << 20
    """A batch is closed at this size; one bundle may exceed it."""
    batch_requests: int = 1024
    pool_bytes: int = 64 << 20
    client_pool_bytes: int = 16 << 20
    sessions: int = 10_000
    session_window: int = 16_384
    session_reply_bytes: int = 4 << 20
    """What one client's kept replies may cost; with the results of one bundle it must fit into a frame."""
    checkpoint_bytes: int = 16 << 20
    """So many bytes of batches bring the next checkpoint forward (SAFETY rule 18)."""
    reads: int = 4096
    client_reads: int = 256
    stored_bytes: int = 256 << 20
    """Batches beyond this are not taken in before the slots below them are executed."""
    served_bytes: int = 16 << 20
    """What another member gets on request in one beat."""


class Keychain(Protocol):
    """What a member needs of its surroundings to go from epoch to epoch: its keys, and the shelf of protocols.

    A node's is made of key files, a simulated world's of the world's. Its answers never change.
    """

    def enter(self, base: ReplicaSettings, place: Place, coin_share: bytes | None) -> ReplicaSettings:
        """The settings of the epoch of this place. `coin_share` is this member's, if it has one.

        Without a key of this member for the epoch (erased, or it is no member) nothing can be signed with them.
        Raises `ConfigurationError` if the protocol is not on the shelf, or refuses the configuration.
        """
        ...

    def why_not(self, configuration: Configuration) -> str | None:
        """Why this member could not take part in such an epoch, if so: its protocol, its parameters, its keys."""
        ...

    def verifier(self, configuration: Configuration, opening: Digest) -> Verifier:
        """Checks members' signatures of the epoch with this opening."""
        ...

    def preparing(self, configuration: Configuration, name: Digest) -> Keyring:
        """What members sign with, with their keys of the next epoch, while the command of this name is prepared."""
        ...


@attrs.frozen
class ReplicaSettings:
    """All that a replica is given and that never changes within an epoch."""

    group: bytes
    me: MemberId
    members: tuple[MemberId, ...]
    quorum: Quorum
    plugin: Plugin
    keyring: SignerProtocol
    clock_key: SigningKey = attrs.field(repr=False)
    """Signs this member's clock reports: its key of this epoch."""
    member_keys: Mapping[bytes, MemberId]
    """The members' public keys of this epoch."""
    epoch: int = 0
    parameters: Mapping[str, int] = attrs.field(factory=dict[str, int])
    checkpoint_interval: int = 128
    window: int = 256
    limits: Limits = attrs.field(factory=Limits)
    listed_clients: frozenset[bytes] | None = None
    """None: the group is open to any client."""
    verify: Callable[[bytes, bytes, bytes], bool] = attrs.field(default=verify_signature, repr=False)
    """Whether (public key, message, signature) fit; a simulated world checks each once only."""
    unpack: Callable[[bytes], tuple[int, bytes, Sequence[bytes]]] = attrs.field(
        default=frames.unpack_protocol, repr=False
    )
    """What is in a PROTOCOL frame; a simulated world takes a broadcast apart once only."""
    control: Codec[frames.Control] = attrs.field(default=frames.CONTROL_CODEC, repr=False)
    """Decodes what members say to each other; the same."""
    coins: CoinProtocol | None = attrs.field(default=None, repr=False)
    """For protocols that toss threshold coins, and for leaving one by force where members may lie."""
    coin_share: bytes | None = attrs.field(default=None, repr=False)
    """This member's share of the epoch's coin key, if it has one: a forced change takes it along."""
    place: Place | None = None
    """The epoch's place in the chain of hand-overs; None: this group's configuration never changes."""
    may_sign: bool = True
    """Whether this member has its key of this epoch: else it can only follow."""
    schedule: Schedule = attrs.field(factory=dict[MemberId, tuple[bytes, ...]], repr=False)
    """All members' public keys of all epochs."""
    keychain: Keychain | None = attrs.field(default=None, repr=False)
    """None: this group's configuration never changes."""

    @property
    def steers(self) -> bool:
        """Whether the epoch has a policy that may change something."""
        policy = self.place.configuration.policy if self.place is not None else None
        return policy is not None and bool(policy.modes)


@attrs.frozen(eq=False)
class Restored:
    """What a restart found on the disk."""

    records: Sequence[bytes] = ()
    """The log's records in order, standing ones of older segments left out."""
    checkpoint: tuple[Slot, bytes, Sequence[bytes]] | None = None
    """Slot, manifest and chunks of the newest saved checkpoint."""
    amnesic: bool = False
    """The disk is empty, corrupt or was not synced: stay silent for the rest of the epoch (SAFETY rule 16)."""
    forgotten: bytes = b""
    """If so: the root of the keys that it signed with last, as its key file says, since its log may not know the epoch
    that it was in. Under these keys it stays silent for ever."""
    links: Sequence[bytes] = ()
    """The hand-overs that are known here, from epoch 0 on."""
    secrets: Mapping[tuple[int, bytes], bytes] = attrs.field(factory=dict[tuple[int, bytes], bytes], repr=False)
    """What `KeepSecret` asked to keep, by epoch and name."""
    slots: Sequence[Slot] = ()
    """The slot that each record is about, 0 for standing ones; empty: not known, so none is ever too old."""
