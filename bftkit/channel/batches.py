"""The bytes of batches, which protocols know by digest only.

A batch is kept from the time when this member may vote for it until a stable checkpoint covers it (SAFETY rule 3).
Bytes arrive with a protocol's message, or are fetched from the members that should hold them. Whether a batch is
authentic is judged here, once, the same way by every member (rule 4): its form, its bounds, and the signature of each
bundle in it. Bundles that wait in this member's own pool were checked when they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import attrs

from bftkit.channel.bundles import CLOCK, COMMAND, COMMIT, PROVED_BYTES_MAX, REPORT, Bundle, parse_batch
from bftkit.channel.frames import BatchRequest, pack_control
from bftkit.channel.pool import Pool
from bftkit.configuration.policy import MEASUREMENT_CODEC
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import Blob, Codec, WireError

if TYPE_CHECKING:
    from bftkit.channel.interface import Limits
    from bftkit.channel.replica import ReplicaOut, ReplicaSettings

NEXT_SLOTS: Final = 16
BATCH_ROOM: Final = 64 << 10
"""A batch may exceed its bound by this: its header, the lengths in it, and, for each member, a report of its clock
and one of what it measured."""
SHOWN_BYTES_MAX: Final = 12 << 20
"""A bad batch that is longer is not shown to others: the member that signed for it is blamed without a proof."""
PATIENCE_MAX: Final = 64
"""A batch is asked for again after so many beats at the latest, if others take as long to come over this link."""
WAIT_MAX: Final = 16
"""So many at the latest if nothing says so: most often its holders were away."""
SERVED_AT_ONCE: Final = 16
"""So many batches are sent in answer to one request."""


@attrs.define(eq=False)
class StoredBatch:
    """A batch whose bytes are here."""

    name: Digest
    raw: bytes
    time_ms: int
    bundles: Sequence[Bundle]
    authentic: bool
    slot: Slot = 0
    """The highest slot that it was wanted for: it is kept until a checkpoint covers that."""
    durable: Slot = -1
    """The log holds it, and keeps it until a checkpoint covers this slot."""
    own: bool = False


@attrs.define(eq=False)
class Wanted:
    """A batch that somebody should send."""

    slot: Slot
    holders: list[MemberId]
    at_once: bool = False
    """Wanted whether there is room or not: the group cannot go on without it."""
    begun: int = 0
    """The beat in which it was asked for first."""
    asked: int = 0
    """The beat in which it was asked for last."""
    attempts: int = 0
    """How often it was asked for."""

    def is_due(self, beat: int, patience: int) -> bool:
        """Whether to ask the next one that should hold it. Whenever all were asked, the waits double.

        A slow link carries every copy, and what is asked for faster than it comes buries what comes.
        """
        rounds = self.attempts // max(1, len(self.holders))
        wait = max(patience, min(1 << min(rounds, 8), WAIT_MAX))
        return self.attempts == 0 or beat - self.asked >= wait


@attrs.frozen
class BadBatchShown:
    """A proof that a member signed for a batch, and the batch, which no correct member would sign for."""

    proof: Annotated[bytes, Blob(1 << 16)]
    """By which `Plugin.signed_for` finds whose signature is under the batch's name."""
    batch: Annotated[bytes, Blob(SHOWN_BYTES_MAX)]


BAD_BATCHES: Final = Codec[BadBatchShown]("bad batch", {251: BadBatchShown}, bytes_max=SHOWN_BYTES_MAX + (1 << 17))
"""The tag is one that no protocol's proofs begin with."""


def read_bad_batch(proof: bytes) -> BadBatchShown | None:
    """What `BatchStore.shown_with` made, unchecked; None for other bytes."""
    try:
        return BAD_BATCHES.decode(proof)
    except WireError:
        return None


def judge_batch(
    raw: bytes, settings: ReplicaSettings, is_known: Callable[[Bundle], bool] = lambda bundle: False
) -> tuple[int, list[Bundle]]:
    """Its time and bundles. Raises `WireError` for a batch that no correct member votes for (SAFETY rule 4).

    It depends on these bytes, the genesis and the members' keys of the epoch, and on nothing else: every member, and
    whoever is shown the bytes later, judges alike. `is_known`: of which bundles it is known already that they are good.
    """
    limits = settings.limits
    if len(raw) > limits.batch_bytes + max(limits.bundle_bytes, PROVED_BYTES_MAX) + BATCH_ROOM:
        raise WireError(f"a batch of {len(raw)} bytes is too large")
    time_ms, bundles = parse_batch(raw, bundle_bytes_max=limits.bundle_bytes)
    for bundle in bundles:
        if is_known(bundle):
            continue
        if not _is_allowed(bundle, settings) or not bundle.authentic(settings.group, settings.verify):
            raise WireError("a batch with a bundle that is not authentic")
    reporting = [bundle.client for bundle in bundles if bundle.kind == REPORT]
    if len(set(reporting)) < len(reporting):
        raise WireError("a batch with two reports of one member")
    return time_ms, bundles


def _is_allowed(bundle: Bundle, settings: ReplicaSettings) -> bool:
    if bundle.kind == CLOCK:
        return bundle.client in settings.member_keys
    if bundle.kind in (COMMAND, COMMIT):
        return True  # judged when it is executed
    if bundle.kind == REPORT:
        return bundle.client in settings.member_keys and settings.steers and is_measurement(bundle)
    listed = settings.listed_clients
    return (listed is None or bundle.client in listed) and not is_oversize(bundle, settings.limits)


def is_measurement(bundle: Bundle) -> bool:
    """Whether a report says what one can measure."""
    (payload,) = bundle.payloads()
    try:
        MEASUREMENT_CODEC.decode(payload)
    except WireError:
        return False
    return True


def is_oversize(bundle: Bundle, limits: Limits) -> bool:
    """Whether an operation in it exceeds the group's limit."""
    limit = limits.operation_bytes
    return len(bundle.raw) > limit and any(len(operation) > limit for operation in bundle.payloads())


class BatchStore:
    """All batches of one replica."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._limits = settings.limits
        self.stored_bytes = 0
        """Bytes held."""
        self._stored: dict[Digest, StoredBatch] = {}
        self._wanted: dict[Digest, Wanted] = {}
        self._offered: dict[Digest, bytes] = {}
        self._beat = 0
        self._patience = 1
        """Beats before a batch is asked for again: most of the time that the last one took, so that a link is not asked
        for much more than it carries. Not all of it, or a holder that is gone would make it ever longer."""
        self._again = SERVED_AT_ONCE
        """So many batches are asked for again in a beat: the fewer, the longer nothing comes."""
        self._in_vain = False
        """Whether any were, and nothing has come since."""
        self._refused: tuple[Digest, bytes] | None = None
        """The newest batch that is bad: one is enough to show it to others, and a liar makes them without end."""

    def get(self, name: Digest) -> StoredBatch | None:
        """The batch, if its bytes are here."""
        return self._stored.get(name)

    def has_room(self, slot: Slot, applied: Slot) -> bool:
        """Whether a batch for this slot may be taken in. The next few slots always may, or nothing would move.

        Where nobody leads, all of a round's batches are wanted at once, for its last slot; it has no more than n slots.
        """
        return self._is_next(slot, applied) or self.stored_bytes < self._limits.stored_bytes

    def _is_next(self, slot: Slot, applied: Slot) -> bool:
        return slot <= applied + max(NEXT_SLOTS, self._settings.quorum.n)

    def postpone(self, name: Digest, slot: Slot, holders: Sequence[MemberId]) -> None:
        """Fetch it when there is room."""
        self._offered.pop(name, None)
        wanted = self._wanted.setdefault(name, Wanted(slot, []))
        wanted.slot = max(wanted.slot, slot)
        wanted.holders.extend(holder for holder in holders if holder not in wanted.holders)

    def _put(self, stored: StoredBatch) -> StoredBatch:
        if stored.name not in self._stored:
            self.stored_bytes += len(stored.raw)
        self._stored[stored.name] = stored
        return stored

    # -------------------------------------------------------------------------------------- coming in

    def offer(self, carried: Sequence[bytes]) -> None:
        """Bytes that came with a message: kept only if the protocol wants them in this step."""
        for raw in carried:
            self._offered[digest(raw)] = raw

    def withdraw(self) -> None:
        """The step is over."""
        self._offered.clear()

    def find(self, name: Digest, pool: Pool) -> StoredBatch | None:
        """The batch, from the store or from what was offered."""
        stored = self._stored.get(name)
        if stored is None:
            raw = self._offered.pop(name, None)
            if raw is not None:
                stored = self._take(name, raw, pool)
        return stored

    def add_own(self, raw: bytes, time_ms: int, bundles: Sequence[Bundle]) -> StoredBatch:
        """A batch that this member made."""
        name = digest(raw)
        return self._put(StoredBatch(name, raw, time_ms, bundles, True, own=True))

    def restore(self, raw: bytes, slot: Slot) -> None:
        """A batch from this member's log; it was judged before it was written."""
        name = digest(raw)
        time_ms, bundles = parse_batch(raw, bundle_bytes_max=len(raw))
        self._put(StoredBatch(name, raw, time_ms, bundles, True, slot, slot))

    def arrived(self, raw: bytes, pool: Pool) -> tuple[StoredBatch, Slot] | None:
        """Bytes that another member sent on request; None if nobody here wants them."""
        name = digest(raw)
        wanted = self._wanted.pop(name, None)
        if wanted is None:
            return None
        if wanted.attempts:
            self._again = min(2 * self._again, SERVED_AT_ONCE)
            self._in_vain = False
            self._patience = min(max(1, (self._beat - wanted.begun) * 3 // 4), PATIENCE_MAX)
        return self._take(name, raw, pool), wanted.slot

    def _take(self, name: Digest, raw: bytes, pool: Pool) -> StoredBatch:
        self._wanted.pop(name, None)
        entries = pool.entries

        def is_known(bundle: Bundle) -> bool:
            known = entries.get((bundle.client, bundle.session, bundle.first))
            return known is not None and known.bundle.raw == bundle.raw

        try:
            time_ms, bundles = judge_batch(raw, self._settings, is_known)
            return self._put(StoredBatch(name, raw, time_ms, bundles, True))
        except WireError:
            self._refused = (name, raw)
            return self._put(StoredBatch(name, b"", 0, (), False))  # only that it is bad need be known

    def shown_with(self, proof: bytes, name: Digest) -> bytes:
        """A proof that somebody signed for this batch, with the batch, if it is the last one that was refused."""
        if self._refused is None or self._refused[0] != name or len(self._refused[1]) > SHOWN_BYTES_MAX:
            return proof
        return BAD_BATCHES.encode(BadBatchShown(proof, self._refused[1]))

    def oversize(self, bundle: Bundle) -> bool:
        """Whether an operation in it exceeds the group's limit."""
        return is_oversize(bundle, self._limits)

    # -------------------------------------------------------------------------------------- asking around

    def want(
        self, name: Digest, slot: Slot, holders: Sequence[MemberId], out: ReplicaOut, *, at_once: bool = False
    ) -> None:
        """Ask for a batch; `retry` asks on, one holder after the other, and `at_once` even if there is no room."""
        wanted = self._wanted.get(name)
        if wanted is None:
            self._wanted[name] = wanted = Wanted(slot, list(holders), at_once)
            if wanted.holders:
                wanted.begun = wanted.asked = self._beat
                wanted.attempts = 1
                out.send(wanted.holders[0], pack_control(BatchRequest((name,))))
            return
        wanted.slot = max(wanted.slot, slot)
        wanted.at_once = wanted.at_once or at_once
        wanted.holders.extend(holder for holder in holders if holder not in wanted.holders)

    def retry(self, applied: Slot, out: ReplicaOut) -> None:
        """A beat has passed: ask again for what did not come in time, each time another holder.

        First comes what is needed first, and of that what was asked for longest ago: a liar names batches that nobody
        has, and these must not take all of what may be asked for.
        """
        self._beat += 1
        if self._in_vain:
            self._again = max(1, self._again // 2)
            self._in_vain = False
        again = self._again
        requests: dict[MemberId, list[Digest]] = {}

        def urgency(wanted: Wanted) -> tuple[bool, int]:
            return not (wanted.at_once or self._is_next(wanted.slot, applied)), wanted.asked

        for name, wanted in sorted(self._wanted.items(), key=lambda item: urgency(item[1])):
            if not wanted.holders or not (wanted.at_once or self.has_room(wanted.slot, applied)):
                continue
            if not wanted.is_due(self._beat, self._patience) or (wanted.attempts and not again):
                continue
            wanted.holders.append(wanted.holders.pop(0))
            names = requests.setdefault(wanted.holders[0], [])
            if len(names) < SERVED_AT_ONCE:
                if wanted.attempts:
                    again -= 1
                    self._in_vain = True
                else:
                    wanted.begun = self._beat
                wanted.asked = self._beat
                wanted.attempts += 1
                names.append(name)
        for member in sorted(requests):
            out.send(member, pack_control(BatchRequest(tuple(requests[member]))))

    def forget(self, floor: Slot, applied: Slot) -> None:
        """Drop what checkpoints cover: decided batches up to `floor`, wanted ones up to `applied`."""
        self._stored = {
            name: stored for name, stored in self._stored.items() if max(stored.slot, stored.durable) > floor
        }
        self.stored_bytes = sum(len(stored.raw) for stored in self._stored.values())
        self._wanted = {name: wanted for name, wanted in self._wanted.items() if wanted.slot > applied}
