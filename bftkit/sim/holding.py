"""Whether what a client was told is held durably by enough members, read off the simulated disks themselves.

**What must hold** (SAFETY rules 1, 5, 22, 24 and 29). When a client first believes that something ran in a slot, the
group has decided that slot, and can be left by force without losing it: so many correct members hold a durable record
that carries the slot, or a durable checkpoint at it or above it. With a protocol for Byzantine members a decision
takes a certificate of q, so that q members hold it; with one that is not, the c + 1 of rule 24 do.

**How it is looked at.** Nothing that a member says is believed. The bytes of its log that a power cut would leave are
read from its disk, and the protocol's own `history` and `carry` say whether what it wrote about a slot makes the slot
survive: what the group would go by if it had to leave the protocol. (A protocol that decides several slots together
files what it wrote under the last one of them, so the next few slots are looked at, too.)

**Why this raises no false alarm.** Members that lie, or whose disk does, are never counted, and are subtracted from
what is demanded, since they may have been among the q. A member whose disk was taken away counts as holding
everything: it may have held it before. A record that was durable once stays so, or a durable checkpoint above it takes
its place (rule 18). And a member speaks only once its record is durable (rule 5), so that a client that believes f + 1
members is later than all of these writes. A slot is looked at once, when the first client is told of it.

What the members executed because they left the protocol by force rests on the bedrock's agreement instead: who voted
for it holds the reports that it is about, and the batches that these carry. That counts as holding, too.

A protocol that does not claim to survive a power cut promises nothing here, and the guard stays out; so it does in
epochs whose members need not sync what they write.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.blocks import bedrock as bed
from bftkit.channel import frames
from bftkit.channel.court import ENDING_CODEC, REPORT_CODEC, Court
from bftkit.core.digest import NO_DIGEST
from bftkit.core.digest import digest as digest_of
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import CoinProtocol, Plugin, Setup, SignerProtocol
from bftkit.core.wire import WireError
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import SignedCommand
from bftkit.sim.disk import Disk
from bftkit.storage.head import HEAD_NAME, Head, HeadDamaged, segment_number
from bftkit.storage.log import Durability
from bftkit.storage.records import CHECK_SIZE, OVERHEAD, Codec, Kind

if TYPE_CHECKING:
    from bftkit.sim.epochs import Era
    from bftkit.sim.world import World

_PROTOCOL_RECORD: Final = 1
"""The kind of a log record that the protocol wrote (`bftkit.channel.replica`)."""
_BATCH_RECORD: Final = 2
"""The kind of a log record that holds the bytes of a batch, after 8 bytes for its slot."""
_BEDROCK_RECORD: Final = 7
"""The kind of a log record of the bedrock agreement."""
_EPOCH_RECORD: Final = 5
"""The kind of the standing record that says which hand-over opened the epoch."""
_POWER_CUT: Final = "power-cut"
KEPT_SLOTS: Final = 64
"""What was written about so many slots below one that was looked at is kept: clients are told in any order."""


@attrs.define(eq=False)
class _Reader:
    """One member's disk, read as far as it is durable."""

    disk: Disk
    key: bytes = b""
    """Of the records' checks."""
    codec: Codec | None = None
    read: dict[str, int] = attrs.field(factory=dict[str, int])
    """How far each segment was read."""
    records: dict[Slot, list[bytes]] = attrs.field(factory=dict[Slot, list[bytes]])
    """What the protocol wrote of each slot; dropped once the slot and those before it were looked at long since."""
    covered: Slot = 0
    """The highest durable checkpoint that was ever seen."""
    epoch: int = 0
    """Of the records: what was written in epochs before is forgotten, since the state that they ended with is kept."""
    opened: bytes = b""
    """The record that the epoch began with."""
    held: list[bytes] = attrs.field(factory=list[bytes])
    """The values of the epoch's bedrock agreement that it holds."""
    excused: bool = False
    """Its disk was exchanged, or lied."""
    excused_up_to: Slot = 0
    """What it held of these slots may have been on a disk that was taken away."""

    def go_on(self, done: set[Slot]) -> None:
        """Read what became durable since."""
        directory = self.disk.directory
        if directory.lying:
            self.excused = True
        if self.codec is None:
            try:
                self.key = Head.decode(directory.read(HEAD_NAME)).key()
            except (FileNotFoundError, HeadDamaged):
                self.excused = self.excused or not self.excused_up_to
                return
            self.codec = Codec(self.key)
        for name in sorted(directory.names(), key=lambda name: segment_number(name) or 0):
            number = segment_number(name)
            start = self.read.get(name, 0)
            if number is None or directory.durable_size(name) - start < OVERHEAD:
                continue
            if start == 0 and not self._counts(number):
                continue
            self.read[name] = start + self._read(directory.durable(name, start), number, start, done)

    def _counts(self, segment: int) -> bool:
        """Whether the log has this segment: one that the head does not know is a leftover, and begun anew."""
        try:
            return segment <= Head.decode(self.disk.directory.read(HEAD_NAME)).newest
        except (FileNotFoundError, HeadDamaged):
            return True

    def _read(self, data: bytes, segment: int, start: int, done: set[Slot]) -> int:
        """Bytes of whole records."""
        assert self.codec is not None
        at = 0
        while True:
            header = self.codec.header(data, at)
            if header is None or (header.segment, header.offset) != (segment, start + at):
                return at
            end = at + OVERHEAD + header.length
            if end > len(data):
                return at
            mark = data[at + OVERHEAD] if header.length else 0
            wanted = header.kind is Kind.ENTRY and header.slot not in done and mark == _PROTOCOL_RECORD
            entered = header.kind is Kind.STANDING and mark == _EPOCH_RECORD
            held = mark == _BEDROCK_RECORD and header.kind in (Kind.ENTRY, Kind.STANDING)
            # What a crash left of a write may have a good head and no body; the member cuts it off when it starts.
            if wanted or held or entered or end == len(data):
                hasher = blake2b(data[at : at + OVERHEAD - CHECK_SIZE], key=self.key, digest_size=CHECK_SIZE)
                hasher.update(data[at + OVERHEAD : end])
                if hasher.digest() != data[at + OVERHEAD - CHECK_SIZE : at + OVERHEAD]:
                    return at
                if wanted:
                    self.records.setdefault(header.slot, []).append(data[at + OVERHEAD + 1 : end])
                elif entered:
                    self._enter(data[at + OVERHEAD + 1 : end])
                elif held:
                    self._hold(data[at + OVERHEAD + 1 : end])
            at = end

    def _enter(self, record: bytes) -> None:
        if record != self.opened:
            self.opened, self.epoch = record, HandOver.decode(record).ending.epoch + 1
            self.records.clear()
            self.held.clear()

    def _hold(self, record: bytes) -> None:
        said = bed.RECORDS.decode(record)
        if isinstance(said, bed.Held) and said.value not in self.held:
            self.held.append(said.value)

    def has_batch(self, name: Digest) -> bool:
        """Whether the log holds these bytes durably. Reads all of it: for what is asked seldom."""
        directory = self.disk.directory
        for segment in sorted(directory.names()):
            number = segment_number(segment)
            if number is None or self.codec is None:
                continue
            data, at = directory.durable(segment, 0), 0
            while (header := self.codec.header(data, at)) is not None and (header.segment, header.offset) == (
                number,
                at,
            ):
                end = at + OVERHEAD + header.length
                body = data[at + OVERHEAD : end]
                if body[:1] == bytes((_BATCH_RECORD,)) and digest_of(body[9:]) == name:
                    return True
                at = end
        return False

    def about(self, slot: Slot, count: int) -> list[bytes]:
        """What the protocol wrote about the slot and the next ones, `count` slots in all, in the order of slots."""
        return [record for at in range(slot, slot + count) for record in self.records.get(at, ())]

    def forget(self, slot: Slot) -> None:
        """Drop what was written about this slot and those below."""
        for at in [at for at in self.records if at <= slot]:
            del self.records[at]

    def covers(self, slot: Slot) -> bool:
        """Whether a durable checkpoint is at the slot or above it."""
        if self.covered < slot:
            self.covered = max((at for at, _ in self.disk.snapshots.checkpoints()), default=0)
        return self.covered >= slot


@attrs.define(eq=False)
class _Promise:
    """What one epoch's protocol promises."""

    plugin: Plugin
    needed: int
    """So many members hold what was decided."""
    active: bool
    """False: this protocol promises nothing of the kind."""
    setups: dict[MemberId, Setup]

    @classmethod
    def of(cls, world: World, era: Era) -> _Promise:
        """The promise of this epoch."""
        settings, plugin, quorum = era.settings, era.settings.plugin, era.quorum
        return cls(
            plugin,
            quorum.certificate if plugin.record.byzantine else quorum.durable,
            _POWER_CUT in plugin.record.survives,
            {
                member: Setup(
                    member,
                    era.members,
                    quorum,
                    keyring,
                    era.start,
                    settings.window,
                    settings.parameters,
                    coins,
                )
                for member, keyring, coins in (_secrets(world, era, member) for member in era.members)
                if coins is not None or not plugin.record.coins
            },
        )


class Holding:
    """The guard of durable acknowledgements (oracle ``durability``). See the top of this file."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._promises: dict[int, _Promise] = {}
        self._readers = {member: _Reader(host.disk) for member, host in world.hosts.items()}
        self._done: set[Slot] = set()
        self._wiped: dict[MemberId, Slot] = {}
        """Whose disks were taken away, and up to which slot they may have held anything."""
        first = world.chain.now
        self.active = first.place is not None or self._promise(first).active
        """False: what the group runs promises nothing of the kind; or a test takes the guard away."""

    def _promise(self, era: Era) -> _Promise:
        known = self._promises.get(era.epoch)
        if known is None:
            known = self._promises[era.epoch] = _Promise.of(self._world, era)
        return known

    def wiped(self, member: MemberId) -> None:
        """This member's disk is empty from now on; what it voted for lies within a window, or the next of that."""
        world = self._world
        self._wiped[member] = world.recorder.executed_up_to + 2 * world.chain.now.settings.window

    def may_have_held(self, member: MemberId, slot: Slot) -> bool:
        """Whether its disk was taken away, and what it held of this slot may have been on it."""
        return self._wiped.get(member, -1) >= slot

    def told(self, slot: Slot) -> None:
        """A client accepted that something ran in this slot."""
        if not self.active or slot in self._done:
            return
        world = self._world
        era = world.chain.era_of(slot)
        promise = self._promise(era)
        exempt = world.recorder.exempt & set(era.members)
        if not promise.active or not self._is_synced(era) or len(exempt) > era.quorum.f:
            return  # more than the group is made for
        needed = promise.needed - len(exempt)
        known = world.recorder.batches.get(slot)
        digest = None if known is None else known[0]
        holders: list[MemberId] = []
        for member in era.members:
            if member in exempt:
                continue
            reader = self._reader(member)
            reader.go_on(self._done)
            if (
                reader.excused
                or slot <= reader.excused_up_to
                or (reader.epoch == era.epoch and self._holds(promise, member, reader, slot, digest))
                or (reader.epoch == era.epoch and self._has_agreed(era, promise, member, reader, slot, digest))
                or reader.covers(slot)
            ):
                holders.append(member)
                if len(holders) == needed:
                    break
            reader.forget(slot - KEPT_SLOTS)
        self._done.add(slot)
        if len(holders) < needed:
            world.recorder.fail(
                "durability",
                f"a client was told of slot {slot}, which {needed} correct members must hold durably; "
                f"{', '.join(holders) or 'nobody'} does (SAFETY rules 5 and 24)",
            )

    def _is_synced(self, era: Era) -> bool:
        """Whether what is told in this epoch is promised to be on the disks: by the members' setting, or the needs."""
        needs = None if era.place is None else era.place.configuration.qos
        return self._world.durability is Durability.FSYNC or (needs is not None and needs.durability == "fsync")

    def _reader(self, member: MemberId) -> _Reader:
        reader, disk = self._readers[member], self._world.hosts[member].disk
        wiped = self._wiped.get(member, 0)
        if wiped > reader.excused_up_to:
            reader = self._readers[member] = _Reader(disk, excused_up_to=wiped)
        elif reader.disk is not disk:
            reader.excused = True
        return reader

    def _holds(self, promise: _Promise, member: MemberId, reader: _Reader, slot: Slot, digest: Digest | None) -> bool:
        """Whether what this member wrote, in its history and in nobody else's, makes the slot survive."""
        plugin, setup = promise.plugin, promise.setups.get(member)
        if setup is None:
            return True  # its share of the coin key is out of the world's sight
        records = reader.about(slot, len(setup.members))
        try:
            nothing = plugin.history(setup, slot - 1, ())
            histories = dict.fromkeys(setup.members[: setup.quorum.available], nothing)
            histories[member] = plugin.history(setup, slot - 1, records)
            carried = plugin.carry(setup, slot - 1, histories).slots
        except WireError:
            return False
        return bool(carried) and carried[0][0] == slot and digest in (None, carried[0][1])

    def _has_agreed(
        self, era: Era, promise: _Promise, member: MemberId, reader: _Reader, slot: Slot, digest: Digest | None
    ) -> bool:
        """Whether it holds a value of the bedrock's that carries the slot, and the batch with it."""
        setup, place = promise.setups.get(member), era.place
        if setup is None or place is None:
            return False
        plugin, settings = promise.plugin, era.settings
        court = Court(
            setup,
            settings.group,
            place.configuration,
            settings.schedule,
            lambda member, stable, history: True,
            lambda certificate: frames.certified_state(certificate.body),
            plugin.carry,
            settings.verify,
        )
        for value in reader.held:
            ending = ENDING_CODEC.decode(value)
            reports = {one.member: REPORT_CODEC.decode(one.report) for one in ending.reports}
            carried = dict(court.continuation(SignedCommand.decode(ending.command), reports).slots)
            name = carried.get(slot)
            if name is not None and digest in (None, name) and (name == NO_DIGEST or reader.has_batch(name)):
                return True
        return False


def _secrets(world: World, era: Era, member: MemberId) -> tuple[MemberId, SignerProtocol, CoinProtocol | None]:
    """What the member has in this epoch, as far as the world can see."""
    host = world.hosts[member]
    if era.place is None:
        return member, host.settings.keyring, host.settings.coins
    share = host.current.coin_share if host.current.epoch == era.epoch else None
    return member, *world.keychain(member).seen(era.place, share)
