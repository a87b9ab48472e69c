"""What travels between the channels of two members, and between a member and a client.

A frame is one byte that says its kind, and the rest::

    PROTOCOL   epoch 8 | carried batches 1 | (length 4 | batch) × that many | a protocol's message
    BUNDLE     a client's bundle (from the client, or forwarded by a member)
    CONTROL    a `Control` message between members
    ASK        an `Ask` message of a client
    REPLY      the results of one bundle (the hot path, so it is packed by hand)
    ANSWER     an `Answer` message to a client

Links authenticate who sent a frame. What must convince a third party is signed besides.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.core.wire import (
    U8,
    U16,
    U32,
    U64,
    Blob,
    Bool,
    Codec,
    Digest32,
    Many,
    Raw,
    Signature64,
    Text,
    WireError,
)
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import LINK_BYTES_MAX, Ending

PROTOCOL: Final = 1
BUNDLE: Final = 2
CONTROL: Final = 3
ASK: Final = 16
REPLY: Final = 17
ANSWER: Final = 18

CHAIN_BYTES: Final = 4 << 20
"""So many bytes of hand-overs, or one, go into an answer; whoever needs more asks again."""

_Digests = Annotated[tuple[bytes, ...], Many(Raw(32), 1 << 16)]

# ------------------------------------------------------------------------------------- between members


@attrs.frozen
class Status:
    """I applied everything up to `applied`; my newest stable checkpoint is at `stable`; my protocol is in `view`."""

    epoch: U64
    applied: U64
    stable: U64
    view: U64


@attrs.frozen
class CheckpointVote:
    """After slot `slot` my state's digest is `root`; the signature is over `checkpoint_body`."""

    epoch: U64
    slot: U64
    root: Digest32
    signature: Signature64


@attrs.frozen
class CheckpointProof:
    """A quorum signed this checkpoint: what you lack lies below it, so fetch the state."""

    epoch: U64
    certificate: Certificate


@attrs.frozen
class DecidedClaims:
    """These batches were decided in the slots from `first` on (f + 1 equal claims are proof: SAFETY rule 17)."""

    epoch: U64
    first: U64
    digests: _Digests


@attrs.frozen
class BatchRequest:
    """Please send me the bytes of these batches."""

    digests: _Digests


@attrs.frozen
class BatchBytes:
    """The bytes of a batch that you asked for; its name is their digest."""

    batch: Annotated[bytes, Blob(1 << 28)]


@attrs.frozen
class ManifestRequest:
    """Please send me the list of chunks of your checkpoint at `slot`."""

    slot: U64


@attrs.frozen
class Manifest:
    """The chunks of the state at a checkpoint. The certificate's digest is the root over `leaves`."""

    certificate: Certificate
    leaves: _Digests


@attrs.frozen
class ChunkRequest:
    """Please send me the chunk at `index` of your checkpoint at `slot`."""

    slot: U64
    index: U32


@attrs.frozen
class Chunk:
    """A chunk that you asked for."""

    slot: U64
    index: U32
    data: Annotated[bytes, Blob(1 << 26)]


@attrs.frozen
class NotHere:
    """I no longer hold the checkpoint at `slot` that you asked about."""

    slot: U64


# ------------------------------------------------------------------------------------- between epochs


@attrs.frozen
class ChainRequest:
    """Please send me the hand-overs that end this epoch and those after it."""

    epoch: U64


@attrs.frozen
class ChainLinks:
    """Hand-overs, one after the other, as `HandOver.encode` writes them."""

    links: Annotated[tuple[bytes, ...], Many(Blob(LINK_BYTES_MAX), 1024)]


@attrs.frozen
class EndingVote:
    """The epoch ends like this (`Ending`), say I; signed with the key of the ending epoch."""

    body: Annotated[bytes, Blob(256)]
    signature: Signature64


@attrs.frozen
class Holding:
    """I hold the state that this epoch begins with, durably; signed with the key of the new epoch (SAFETY rule 26)."""

    epoch: U64
    signature: Signature64
    answer: Bool
    """Say so as well: I miss you."""


@attrs.frozen
class ReadyFor:
    """I can take part in what this command wants: signed with my key of the next epoch (SAFETY rule 26)."""

    command: Digest32
    signature: Signature64


@attrs.frozen
class MakingMessage:
    """A message of the making of the next coin key (`bftkit.membership.keymaking`)."""

    command: Digest32
    message: Annotated[bytes, Blob(4 << 20)]


@attrs.frozen
class Wedged:
    """I have left the epoch's protocol, and this is what I may have helped to decide (SAFETY rule 21)."""

    epoch: U64
    report: Annotated[bytes, Blob(64 << 20)]
    signature: Signature64


@attrs.frozen
class BedrockMessage:
    """A message of the agreement on how the epoch ends."""

    epoch: U64
    message: Annotated[bytes, Blob(128 << 20)]


@attrs.frozen
class StalledVote:
    """The protocol of this epoch has stopped: I have executed nothing since this slot, and requests wait.

    Signed as `bftkit.membership.steering.stalled_body` (SAFETY rule 25).
    """

    epoch: U64
    slot: U64
    signature: Signature64


Control: TypeAlias = (
    Status
    | CheckpointVote
    | CheckpointProof
    | DecidedClaims
    | BatchRequest
    | BatchBytes
    | ManifestRequest
    | Manifest
    | ChunkRequest
    | Chunk
    | NotHere
    | ChainRequest
    | ChainLinks
    | EndingVote
    | Holding
    | ReadyFor
    | MakingMessage
    | Wedged
    | BedrockMessage
    | StalledVote
)

CONTROL_CODEC: Final = Codec[Control](
    "channel",
    {
        1: Status,
        2: CheckpointVote,
        3: CheckpointProof,
        4: DecidedClaims,
        5: BatchRequest,
        6: BatchBytes,
        7: ManifestRequest,
        8: Manifest,
        9: ChunkRequest,
        10: Chunk,
        11: NotHere,
        12: ChainRequest,
        13: ChainLinks,
        14: EndingVote,
        15: Holding,
        16: ReadyFor,
        17: MakingMessage,
        18: Wedged,
        19: BedrockMessage,
        20: StalledVote,
    },
    bytes_max=1 << 29,
)

# ------------------------------------------------------------------------------------- with clients


@attrs.frozen
class Read:
    """Answer this question once you have applied every slot that you voted for (SAFETY rule 13)."""

    number: U64
    operation: Annotated[bytes, Blob(1 << 26)]


@attrs.frozen
class Glance:
    """Answer this question from your present state, whatever the others have (a best-effort read)."""

    number: U64
    operation: Annotated[bytes, Blob(1 << 26)]


@attrs.frozen
class AskStatus:
    """How are you? Answered by a member alone, without a quorum."""

    number: U64


@attrs.frozen
class AskChain:
    """Please send me the hand-overs that end this epoch and those after it."""

    epoch: U64


@attrs.frozen
class AskCommand:
    """What became of the operators' command with this name?"""

    number: U64
    command: Digest32


Ask: TypeAlias = Read | AskStatus | AskChain | AskCommand | Glance

ASK_CODEC: Final = Codec[Ask]("ask", {1: Read, 2: AskStatus, 3: AskChain, 4: AskCommand, 5: Glance}, bytes_max=1 << 27)


@attrs.frozen
class ReadAnswer:
    """The answer to `Read` or `Glance`, from the state after `slot`; `failed` if the application raised."""

    number: U64
    epoch: U64
    slot: U64
    failed: U8
    digest: Digest32
    result: Annotated[bytes, Blob(1 << 26)]


@attrs.frozen
class StatusAnswer:
    """The answer to `AskStatus`: JSON text."""

    number: U64
    text: Annotated[str, Text(1 << 20)]


@attrs.frozen
class Refusal:
    """Your bundle that starts at `first` is not taken. `certain`: it was not executed and will not be."""

    session: U64
    first: U64
    reason: U8
    text: Annotated[str, Text(400)]


@attrs.frozen
class ReadRefusal:
    """I cannot confirm reads now."""

    number: U64
    text: Annotated[str, Text(400)]


@attrs.frozen
class LinkProof:
    """This link is the member's of this epoch: its epoch key signed the link's binding (SAFETY rule 8).

    Everything that comes over the link is authenticated by it, so replies need no signatures of their own.
    """

    epoch: U64
    signature: Signature64


@attrs.frozen
class ChainAnswer:
    """Hand-overs, one after the other. They prove themselves (SAFETY rule 28)."""

    links: Annotated[tuple[bytes, ...], Many(Blob(LINK_BYTES_MAX), 1024)]


@attrs.frozen
class CommandAnswer:
    """What became of a command: the answer of one member, to be compared with others'."""

    number: U64
    command: Digest32
    state: U8
    """One of the numbers below."""
    text: Annotated[str, Text(600)]


Answer: TypeAlias = ReadAnswer | StatusAnswer | Refusal | ReadRefusal | LinkProof | ChainAnswer | CommandAnswer

ANSWER_CODEC: Final = Codec[Answer](
    "answer",
    {
        1: ReadAnswer,
        2: StatusAnswer,
        3: Refusal,
        4: ReadRefusal,
        5: LinkProof,
        6: ChainAnswer,
        7: CommandAnswer,
    },
    bytes_max=1 << 27,
)

# States of a command.
UNKNOWN_COMMAND: Final = 0
"""This member has not seen it."""
TAKEN: Final = 1
"""Taken in, and not ordered yet; or, a forced one, not carried out yet."""
PREPARED: Final = 2
"""Ordered; the members of the next epoch get ready."""
COMMITTED: Final = 3
"""The epoch will end at a known slot."""
DONE: Final = 4
"""Its configuration is, or was, in force."""
REFUSED: Final = 5
"""It will not be carried out; the text says why."""

# Reasons of a refusal.
BUSY: Final = 1
"""Too much waits already; try again later."""
NO_SESSION: Final = 2
"""The session is unknown or has ended; its numbers are never executed again."""
NOT_LISTED: Final = 3
"""This group serves listed clients only."""
TOO_LARGE: Final = 4
"""The bundle or an operation in it exceeds the group's limit."""
OUTSIDE_WINDOW: Final = 5
"""The sequence numbers lie beyond the session's window."""
STOPPED: Final = 6
"""This member has stopped or takes no part at present."""

# ------------------------------------------------------------------------------------- packed by hand

_PROTOCOL: Final = struct.Struct(">BQB")
_LENGTH: Final = struct.Struct(">I")
_REPLY: Final = struct.Struct(">BQQQQI32sHB")


def pack_protocol(epoch: int, message: bytes, carried: Sequence[bytes]) -> bytes:
    """A PROTOCOL frame."""
    if not carried:
        return _PROTOCOL.pack(PROTOCOL, epoch, 0) + message
    parts = [_PROTOCOL.pack(PROTOCOL, epoch, len(carried))]
    for batch in carried:
        parts.append(_LENGTH.pack(len(batch)))
        parts.append(batch)
    parts.append(message)
    return b"".join(parts)


def unpack_protocol(frame: bytes) -> tuple[int, bytes, list[bytes]]:
    """(epoch, message, carried batches) of a PROTOCOL frame. Raises `WireError`."""
    size = len(frame)
    if size < _PROTOCOL.size:
        raise WireError("a protocol frame is too short")
    _, epoch, count = _PROTOCOL.unpack_from(frame)
    offset = _PROTOCOL.size
    carried: list[bytes] = []
    for _ in range(count):
        if offset + 4 > size:
            raise WireError("a protocol frame ends within a length")
        (length,) = _LENGTH.unpack_from(frame, offset)
        offset += 4
        if offset + length > size:
            raise WireError("a protocol frame ends within a batch")
        carried.append(frame[offset : offset + length])
        offset += length
    return epoch, frame[offset:], carried


@attrs.frozen
class ReplyFrame:
    """The results of a bundle: `results` is empty if only the digest was sent (SAFETY rule 8)."""

    epoch: U64
    slot: U64
    session: U64
    """Of the reply to an opening, which has no session yet: its tag (`bundles.opening_tag`)."""
    first: U64
    count: U32
    digest: Digest32
    leader: U16
    """Whom the member believes to lead (its place in the roster), or 65535: send new bundles there."""
    full: bool
    results: bytes


NO_LEADER: Final = 65535


def pack_reply(
    epoch: int,
    slot: int,
    session: int,
    first: int,
    count: int,
    result_digest: bytes,
    leader: int,
    results: bytes | None,
) -> bytes:
    """A REPLY frame; `results` None sends the digest alone."""
    head = _REPLY.pack(REPLY, epoch, slot, session, first, count, result_digest, leader, results is not None)
    return head if results is None else head + results


def unpack_reply(frame: bytes) -> ReplyFrame:
    """The parts of a REPLY frame. Raises `WireError`."""
    if len(frame) < _REPLY.size:
        raise WireError("a reply is too short")
    _, epoch, slot, session, first, count, result_digest, leader, full = _REPLY.unpack_from(frame)
    results = frame[_REPLY.size :]
    if full > 1 or (not full and results):
        raise WireError("a reply's flag does not fit its length")
    return ReplyFrame(epoch, slot, session, first, count, result_digest, leader, bool(full), results)


def pack_control(message: Control) -> bytes:
    """A CONTROL frame."""
    return b"\x03" + CONTROL_CODEC.encode(message)


def pack_ask(message: Ask) -> bytes:
    """An ASK frame."""
    return b"\x10" + ASK_CODEC.encode(message)


def pack_answer(message: Answer) -> bytes:
    """An ANSWER frame."""
    return b"\x12" + ANSWER_CODEC.encode(message)


# ------------------------------------------------------------------------------------- checkpoints' statement

LINK_PURPOSE: Final = "link"
CHECKPOINT_PURPOSE: Final = "checkpoint"
_CHECKPOINT: Final = struct.Struct(">Q32s")


def checkpoint_body(slot: int, root: bytes) -> bytes:
    """What a checkpoint vote signs."""
    return _CHECKPOINT.pack(slot, root)


def certified_state(body: bytes) -> tuple[int, bytes]:
    """(slot, root) of a certified state: a checkpoint's statement, or a hand-over's. Raises `WireError`."""
    if Ending.is_one(body):
        ending = Ending.decode(body)
        return ending.slot, ending.root
    return parse_checkpoint_body(body)


def parse_checkpoint_body(body: bytes) -> tuple[int, bytes]:
    """(slot, root) of a checkpoint certificate's statement. Raises `WireError`."""
    if len(body) != _CHECKPOINT.size:
        raise WireError("not a checkpoint's statement")
    slot, root = _CHECKPOINT.unpack(body)
    return slot, root
