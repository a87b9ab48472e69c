"""What is said, written down and proved in the bedrock agreement; `bedrock` has the story.

In both variants:

- `Ask(held)`: I do not know the outcome. Who knows it tells it; who does not, says again what I may have lost. Bit i of
  `held` says that I hold what member i offers (nothing in the variant for f = 0).
- `Want(digest)`: send me these bytes; you said, or signed, that you hold them. `Bytes(value)`: here they are.

For f = 0, of `single_decree` (Lamport, "Paxos Made Simple", section 2.2); ballots and digests, and the bytes once:

- `Prepare(b)`: take part in no ballot below b, and tell me what you accepted.
- `Promise(b, a, d)`: so be it. The last that I accepted is d, in ballot a (a = 0: nothing).
- `Refuse(b, p)`: I take no part in b; I promised p.
- `Accept(b, d, carried, value)`: accept d in ballot b. Its bytes are with it, unless you should hold them.
- `Vote(b, d, vote)`: I accepted d in ballot b, durably, and I hold its bytes. `vote` is my signature under that.
- `Chosen(b, d, certificate)`: q members did so: d is chosen, for ever.

For f > 0, of `dispersed_agreement`:

- `Offer(value)`: this is the value that I propose. I offer nobody another one.
- `Dispersal(i, body)`: about the consistent broadcast of the digest of what member i offers. An echo in it says: I hold
  the bytes, durably, and they are valid.
- `Part`: of the validated agreement on one such broadcast's proof; see `validated_messages`.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.blocks.certificates import CERTIFICATE_FIELD, VOTE_FIELD
from bftkit.blocks.consistent_broadcast import ID_BYTES_MAX as BROADCAST_ID_BYTES_MAX
from bftkit.blocks.validated_messages import Agreed, Part, Propose
from bftkit.core.wire import U16, U64, Blob, Bool, Codec, Digest32

__all__ = [
    "CODEC",
    "ID_BYTES_MAX",
    "PROOFS",
    "RECORDS",
    "VALUE_BYTES_MAX",
    "Accept",
    "Accepted",
    "Again",
    "Agreed",
    "Ask",
    "Bytes",
    "Chosen",
    "ChosenValue",
    "Dispersal",
    "DispersalSaid",
    "DispersedValue",
    "Held",
    "Input",
    "Message",
    "Offer",
    "Own",
    "OwnRecord",
    "Part",
    "PartSaid",
    "Prepare",
    "Promise",
    "Promised",
    "Propose",
    "Refuse",
    "Vote",
    "Want",
]

VALUE_BYTES_MAX: Final = 15 << 20
"""No value is longer: with a proof around it, it still fits into a frame."""

ID_BYTES_MAX: Final = 64
"""The longest name of an instance. The names of what it consists of are a little longer."""

assert ID_BYTES_MAX + 32 <= BROADCAST_ID_BYTES_MAX

_VALUE: Final = Blob(VALUE_BYTES_MAX)
_INNER: Final = Blob(1 << 20)
"""Messages and records of the smaller machines, which carry digests and certificates and never a value."""

# ------------------------------------------------------------------------------------------------- inputs


@attrs.frozen
class Again:
    """About a second has passed: ask for what may have been lost. Given as long as the machine is kept.

    A member that knows the outcome asks for nothing; to it, it says that peers may be answered anew.
    """


Input: TypeAlias = Propose | Again

# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class Ask:
    """The sender does not know the outcome."""

    held: Annotated[bytes, Blob(128)]


@attrs.frozen
class Want:
    """The sender wants the bytes with this digest."""

    digest: Digest32


@attrs.frozen
class Bytes:
    """The answer to `Want`."""

    value: Annotated[bytes, _VALUE]


@attrs.frozen
class Prepare:
    """Phase 1a."""

    ballot: U64


@attrs.frozen
class Promise:
    """Phase 1b."""

    ballot: U64
    accepted: U64
    """The ballot of what the sender accepted; 0: nothing."""
    digest: Digest32
    """Of what it accepted; zeros if nothing."""


@attrs.frozen
class Refuse:
    """The sender promised a higher ballot."""

    ballot: U64
    promised: U64


@attrs.frozen
class Accept:
    """Phase 2a."""

    ballot: U64
    digest: Digest32
    carried: Bool
    """Whether the bytes are with it; else the receiver should hold them. (The empty value is a value, too.)"""
    value: Annotated[bytes, _VALUE]


@attrs.frozen
class Vote:
    """Phase 2b."""

    ballot: U64
    digest: Digest32
    vote: Annotated[bytes, VOTE_FIELD]


@attrs.frozen
class Chosen:
    """q members accepted this in one ballot. Message and record."""

    ballot: U64
    digest: Digest32
    certificate: Annotated[bytes, CERTIFICATE_FIELD]


@attrs.frozen
class Offer:
    """What the sender proposes."""

    value: Annotated[bytes, _VALUE]


@attrs.frozen
class Dispersal:
    """`body` is a message of the broadcast of the digest of what the member with this index offers."""

    index: U16
    body: Annotated[bytes, _INNER]


Message: TypeAlias = Ask | Want | Bytes | Prepare | Promise | Refuse | Accept | Vote | Chosen | Offer | Dispersal | Part

CODEC: Final = Codec[Message](
    "bedrock",
    {
        1: Ask,
        2: Want,
        3: Bytes,
        4: Prepare,
        5: Promise,
        6: Refuse,
        7: Accept,
        8: Vote,
        9: Chosen,
        10: Offer,
        11: Dispersal,
        12: Part,
    },
)
"""All messages of both variants, for the host's frames."""

# ------------------------------------------------------------------------------------------------- records


@attrs.frozen
class Held:
    """I hold these bytes, and am about to say so."""

    value: Annotated[bytes, _VALUE]


@attrs.frozen
class Own:
    """The bytes with this digest are what I propose (f = 0)."""

    digest: Digest32


@attrs.frozen
class Promised:
    """I take part in no ballot below this one; if it is mine, I have used it."""

    ballot: U64


@attrs.frozen
class Accepted:
    """I accepted this."""

    ballot: U64
    digest: Digest32


@attrs.frozen
class DispersalSaid:
    """A record of the broadcast of the digest of what the member with this index offers."""

    index: U16
    record: Annotated[bytes, _INNER]


@attrs.frozen
class PartSaid:
    """A record of the validated agreement."""

    record: Annotated[bytes, _INNER]


OwnRecord: TypeAlias = Held | Own | Promised | Accepted | Chosen | DispersalSaid | PartSaid

RECORDS: Final = Codec[OwnRecord](
    "bedrock record",
    {1: Held, 2: Own, 3: Promised, 4: Accepted, 5: Chosen, 6: DispersalSaid, 7: PartSaid},
)

# ------------------------------------------------------------------------------------------------- proofs


@attrs.frozen
class ChosenValue:
    """q members accepted this value in one ballot (f = 0)."""

    ballot: U64
    certificate: Annotated[bytes, CERTIFICATE_FIELD]
    value: Annotated[bytes, _VALUE]


@attrs.frozen
class DispersedValue:
    """The validated agreement on a digest, and the value with that digest (f > 0)."""

    agreed: Annotated[bytes, _INNER]
    value: Annotated[bytes, _VALUE]


PROOFS: Final = Codec[ChosenValue | DispersedValue]("bedrock proof", {1: ChosenValue, 2: DispersedValue})
