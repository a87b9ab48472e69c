"""Requests travel as bundles, and are ordered as batches; both are plain bytes.

A *bundle* is a run of requests of one client with consecutive sequence numbers. It is authenticated by one signature
of the client, so all members judge it alike (SAFETY rule 4), and it binds purpose and group only, so that an
undecided one can move to the next epoch (rule 2). Once made it never changes: a retry sends the same bytes.

::

    kind 1 | client 32 | session 8 | first 8 | low 8 | expires_ms 8 | count 4 | lengths 4 × count | payloads
    | signature 64

`low` is the lowest sequence number that the client still waits for: replies below it can be forgotten. `expires_ms` is
the deadline of all its requests, in agreed time (ms since 1970; 0: none): a slot whose agreed time is later executes
none of them, and answers each with `LATE`.

A *batch* is what a leader proposes: its clock reading and some bundles. ::

    time_ms 8 | count 4 | (length 4 | bundle) × count

Parsing a bundle touches its header only. Requests are cut apart when they are executed, and not before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from bftkit.core.digest import digest
from bftkit.core.wire import WireError
from bftkit.crypto.keys import SigningKey, verify_signature

REQUESTS: Final = 1
"""Operations for the application."""
OPEN: Final = 2
"""Opens a client's session; the only payload is a nonce. See `bftkit.channel.sessions`."""
CLOCK: Final = 3
"""A member's clock report (SAFETY rule 11): `session` is its counter, `first` the time in ms, no payload."""
COMMAND: Final = 4
"""An operators' command (`bftkit.membership.commands`): `client` is its name, its signatures are inside."""
COMMIT: Final = 5
"""What commits a prepared command (`bftkit.channel.reconfiguring`): `client` is the command's name."""

REPORT: Final = 6
"""What a member measured (`bftkit.channel.measuring`): `session` is its counter, the payload a `Measurement`."""

_KINDS: Final = frozenset((REQUESTS, OPEN, CLOCK, COMMAND, COMMIT, REPORT))
_SELF_PROVED: Final = frozenset((COMMAND, COMMIT))
"""Their proofs are inside, and are judged when they are executed: by then all members know the same configuration."""
_PURPOSES: Final = {CLOCK: b"bftkit/1/clock\0", REPORT: b"bftkit/1/report\0"}
"""What members sign; clients' bundles have one purpose."""
PROVED_BYTES_MAX: Final = 256 << 10
"""Commands and commits may be so large, however small the group wants clients' bundles: it could not change else."""
_NO_SIGNATURE: Final = bytes(64)
_HEADER: Final = struct.Struct(">B32sQQQQI")
_SIGNATURE: Final = 64
OVERHEAD: Final = _HEADER.size + _SIGNATURE
"""Bytes of a bundle besides its requests."""

_BATCH: Final = struct.Struct(">QI")
_LENGTH: Final = struct.Struct(">I")


@attrs.frozen
class Bundle:
    """A parsed bundle. Its signature is *not* checked by parsing; see `authentic`."""

    raw: bytes
    kind: int
    client: bytes
    session: int
    first: int
    low: int
    count: int
    expires_ms: int = 0

    @property
    def end(self) -> int:
        """The first sequence number after the bundle."""
        return self.first + self.count

    def payloads(self) -> list[bytes]:
        """The requests' operation bytes, in order of their sequence numbers."""
        raw = self.raw
        lengths = struct.unpack_from(f">{self.count}I", raw, _HEADER.size)
        offset = _HEADER.size + 4 * self.count
        result: list[bytes] = []
        for length in lengths:
            result.append(raw[offset : offset + length])
            offset += length
        return result

    def authentic(self, group: bytes, verify: Callable[[bytes, bytes, bytes], bool] = verify_signature) -> bool:
        """Whether the client signed these bytes for this group."""
        if self.kind in _SELF_PROVED:
            return self.raw[-_SIGNATURE:] == _NO_SIGNATURE
        return verify(self.client, statement(group, self.kind, self.raw[:-_SIGNATURE]), self.raw[-_SIGNATURE:])


def statement(group: bytes, kind: int, body: bytes) -> bytes:
    """What a bundle's signature covers: purpose, group and the digest of everything before the signature."""
    return _PURPOSES.get(kind, b"bftkit/1/bundle\0") + group + digest(body)


def make_bundle(
    key: SigningKey,
    group: bytes,
    kind: int,
    session: int,
    first: int,
    low: int,
    payloads: Sequence[bytes],
    expires_ms: int = 0,
) -> bytes:
    """The signed bytes of a bundle."""
    count = len(payloads)
    body = b"".join(
        (
            _HEADER.pack(kind, key.public, session, first, low, expires_ms, count),
            struct.pack(f">{count}I", *map(len, payloads)),
            *payloads,
        )
    )
    return body + key.sign(statement(group, kind, body))


def opening_tag(nonce: bytes) -> int:
    """What the reply to an opening has in the place of its session, so that it answers no other opening."""
    return int.from_bytes(nonce[-8:], "big")


def make_proved_bundle(kind: int, name: bytes, payload: bytes) -> bytes:
    """The bytes of a bundle whose proof is inside: a `COMMAND` or a `COMMIT`."""
    return b"".join((_HEADER.pack(kind, name, 0, 0, 0, 0, 1), struct.pack(">I", len(payload)), payload, _NO_SIGNATURE))


def is_self_proved(raw: bytes) -> bool:
    """Whether these bytes say that they are a command, or the commit of one."""
    return raw[:1] != b"" and raw[0] in _SELF_PROVED


def parse_bundle(raw: bytes, *, bytes_max: int) -> Bundle:
    """Check a bundle's form. Raises `WireError`."""
    size = len(raw)
    most = max(bytes_max, PROVED_BYTES_MAX) if is_self_proved(raw) else bytes_max
    if not OVERHEAD <= size <= most:
        raise WireError(f"a bundle of {size} bytes is not between {OVERHEAD} and {most}")
    kind, client, session, first, low, expires_ms, count = _HEADER.unpack_from(raw)
    if kind not in _KINDS:
        raise WireError(f"unknown kind of bundle {kind}")
    room = size - OVERHEAD
    if 4 * count > room:
        raise WireError(f"a bundle of {size} bytes cannot hold {count} requests")
    if sum(struct.unpack_from(f">{count}I", raw, _HEADER.size)) != room - 4 * count:
        raise WireError("the lengths of the requests do not add up to the bundle")
    if kind == REQUESTS and (count == 0 or first == 0 or low == 0 or low > first):
        raise WireError("a bundle of requests needs 1 <= low <= first and at least one request")
    if kind == OPEN and (count != 1 or room - 4 != 16 or session or first or low):
        raise WireError("an opening bundle holds one nonce of 16 bytes and nothing else")
    if kind == CLOCK and (count or low):
        raise WireError("a clock report holds no request")
    if kind in _SELF_PROVED and (count != 1 or session or first or low):
        raise WireError("a command stands alone in its bundle")
    if kind == REPORT and (count != 1 or first or low):
        raise WireError("a report holds one measurement and nothing else")
    if expires_ms and kind != REQUESTS:
        raise WireError("only requests have a deadline")
    if first + count >= 1 << 63:
        raise WireError("sequence numbers end at 2^63")
    return Bundle(raw, kind, client, session, first, low, count, expires_ms)


def make_batch(time_ms: int, bundles: Iterable[bytes]) -> bytes:
    """A batch's bytes; its name is their digest."""
    parts: list[bytes] = [b""]
    count = 0
    for raw in bundles:
        parts.append(_LENGTH.pack(len(raw)))
        parts.append(raw)
        count += 1
    parts[0] = _BATCH.pack(time_ms, count)
    return b"".join(parts)


def parse_batch(raw: bytes, *, bundle_bytes_max: int) -> tuple[int, list[Bundle]]:
    """The proposed time and the bundles. Raises `WireError` if any part is malformed."""
    size = len(raw)
    if size < _BATCH.size:
        raise WireError(f"a batch of {size} bytes is too short")
    time_ms, count = _BATCH.unpack_from(raw)
    if count * (OVERHEAD + 4) > size:
        raise WireError(f"a batch of {size} bytes cannot hold {count} bundles")
    offset = _BATCH.size
    bundles: list[Bundle] = []
    for _ in range(count):
        if offset + 4 > size:
            raise WireError("a batch ends within a length")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += 4
        if offset + length > size:
            raise WireError("a batch ends within a bundle")
        bundles.append(parse_bundle(raw[offset : offset + length], bytes_max=bundle_bytes_max))
        offset += length
    if offset != size:
        raise WireError(f"{size - offset} bytes after the last bundle of a batch")
    return time_ms, bundles


# --------------------------------------------------------------------------------------------- results

OK: Final = 0
FAILED: Final = 1
"""The operation raised; the bytes are the error's text."""
SKIPPED: Final = 2
"""This sequence number was executed before, in another bundle; or the bundle came outside its session."""
LATE: Final = 3
"""Not executed, and never will be: the slot's agreed time was past the bundle's deadline. See `pack_lateness`."""

_LATENESS: Final = struct.Struct(">Q")


def pack_lateness(late_ms: int) -> bytes:
    """The result of a request that came too late, by so many ms of agreed time."""
    return _LATENESS.pack(late_ms)


def unpack_lateness(result: bytes) -> int:
    """By how many ms of agreed time a request came too late. Raises `WireError`."""
    if len(result) != _LATENESS.size:
        raise WireError("the result of a late request is a number of 8 bytes")
    late_ms: int = _LATENESS.unpack(result)[0]
    return late_ms


def pack_results(statuses: bytes, results: Sequence[bytes]) -> bytes:
    """One byte string for all results of a bundle: a status each, a length each, then the bytes."""
    return b"".join((statuses, struct.pack(f">{len(results)}I", *map(len, results)), *results))


def unpack_results(blob: bytes, count: int) -> list[tuple[int, bytes]]:
    """(status, bytes) of each request. Raises `WireError`."""
    if len(blob) < 5 * count:
        raise WireError("results are too short")
    lengths = struct.unpack_from(f">{count}I", blob, count)
    offset = 5 * count
    if sum(lengths) != len(blob) - offset:
        raise WireError("the lengths of the results do not add up")
    results: list[tuple[int, bytes]] = []
    for index, length in enumerate(lengths):
        results.append((blob[index], blob[offset : offset + length]))
        offset += length
    return results
