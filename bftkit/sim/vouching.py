"""What a member believes of checkpoints and of the time, worked out anew from what it rests on.

**Stable checkpoints** (rules 1 and 18; oracle ``checkpoints``). A correct member that holds a checkpoint for stable has
a certificate under slot and digest: q different members of the roster signed exactly these. Signatures are checked with
the world's keys, not by the members' code.

*No false alarm:* the certificate is what the member must be able to show to whoever fetches the state, for as long as
it keeps the checkpoint. Nothing makes a smaller one good.

**Agreed time** (rule 11; oracle ``agreed-time``). The time of each slot follows from the order alone: from the clock
reports and the proposals in the batches up to it. It is worked out here by the words of the rule: it stands still until
n - f - c members have reported, and then is the proposal moved into [M, M + D], M the lower median of the latest
reports, and never earlier than the slot before. Besides, while at most f clocks are wrong, no slot's time is later than
the latest right clock by more than D: of so many reports that at least one right one is above the median.

*No false alarm:* the first is arithmetic on bytes that the digest of the batch fixes. It is compared only for slots up
to which all batches were seen. For the second, a clock is wrong from the moment when it is first seen to have been
touched, and that is in the same round as its first wrong report; members that lie have wrong clocks. With more wrong
clocks than f nothing is said any more, since what they moved stays moved.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Final

from bftkit.channel.batches import StoredBatch
from bftkit.channel.bundles import CLOCK
from bftkit.channel.checkpoints import Stable
from bftkit.channel.replica import Replica
from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import MemberId, Slot
from bftkit.membership.chain import HANDOVER_PURPOSE, Ending

if TYPE_CHECKING:
    from bftkit.sim.epochs import Era
    from bftkit.sim.host import Host
    from bftkit.sim.world import World

SPREAD_MS: Final = 1000
"""D of rule 11."""
_Batches = list[tuple[Slot, StoredBatch | None]]
_STATEMENT: Final = struct.Struct(">Q32s")
_PURPOSE: Final = "checkpoint"
_RATE: Final = 1_000_000


class StableCheckpoints:
    """The guard of certificates under checkpoints. See the top of this file."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[MemberId, Stable] = {}
        self._good: set[tuple[bytes, MemberId, bytes]] = set()

    def look(self, host: Host, replica: Replica) -> None:
        """After a round of a correct member."""
        kept = replica.checkpoints.kept
        if kept and self._seen.get(host.me) is not kept[-1]:
            self._seen[host.me] = kept[-1]
            self._check(host.me, kept[-1])

    def _check(self, member: MemberId, stable: Stable) -> None:
        world, certificate = self._world, stable.certificate
        what = f"{member} holds a checkpoint at slot {stable.slot} for stable"
        era = world.chain.era_of(stable.slot)
        purpose = _PURPOSE
        if Ending.is_one(certificate.body):
            ending = Ending.decode(certificate.body)
            purpose, fits = HANDOVER_PURPOSE, (ending.slot, ending.root) == (stable.slot, stable.root)
        else:
            fits = certificate.body == _STATEMENT.pack(stable.slot, stable.root)
        if not fits:
            world.recorder.fail("checkpoints", f"{what}, and its certificate is for something else")
            return
        signers = {
            vote.member
            for vote in certificate.votes
            if vote.member in era.members and self._genuine(era, purpose, vote.member, certificate.body, vote.signature)
        }
        needed = (era.quorum.n + era.quorum.f) // 2 + 1
        if len(signers) < needed:
            world.recorder.fail(
                "checkpoints",
                f"{what}, and {', '.join(sorted(signers)) or 'nobody'} signed it: {needed} must (SAFETY rule 1)",
            )

    def _genuine(self, era: Era, purpose: str, member: MemberId, body: bytes, signature: bytes) -> bool:
        known = (body, member, signature)
        if known in self._good:
            return True
        notary = self._world.notary
        good = (
            notary.genuine(member, purpose, body, signature)
            if era.place is None
            else era.settings.keyring.verify(member, purpose, body, signature)
        )
        if not good:
            return False
        self._good.add(known)
        return True


class AgreedTimes:
    """The guard of agreed time. See the top of this file."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._era = world.chain.now
        """The epoch of the slot that was worked out last."""
        self._reports: dict[MemberId, tuple[int, int]] = {}
        """(counter, ms) of each member's latest report."""
        self._times: dict[Slot, int] = {0: 0}
        """When each slot is, as far as all batches up to it were seen."""
        self._worked: Slot = 0
        self._compared: dict[MemberId, Slot] = {}
        self._clocks = {member: host.clock.offset_ms for member, host in world.hosts.items()}
        self._wrong: set[MemberId] = set()

    def look(self, host: Host, replica: Replica) -> None:
        """After a round of a correct member."""
        me, applied = host.me, replica.state.applied
        clock = host.clock
        if clock.offset_ms != self._clocks[me] or clock.factor_ppm != _RATE:
            self._wrong.add(me)
        if self._compared.get(me) == applied:
            return
        self._compared[me] = applied
        assert host.watched is not None
        # A crash before the next sync may take back what was executed, and another batch may come in its place.
        batches = self._batches(replica, applied) if applied > self._worked else []
        host.watched.pending.append(partial(self._compare, me, applied, replica.state.clock.now_ms, batches))

    def _batches(self, replica: Replica, last: Slot) -> _Batches:
        """What was executed in each slot that is not worked out yet, as far as this member has the batches."""
        batches: _Batches = []
        for slot in range(self._worked + 1, last + 1):
            name = replica.history.get(slot, b"")
            batch = replica.batches.get(name)
            if batch is None and name != NO_DIGEST:
                break
            batches.append((slot, batch))
        return batches

    def _compare(self, member: MemberId, applied: Slot, now: int, batches: _Batches) -> None:
        """What this member executed can be seen by others from now on."""
        for slot, batch in batches:
            if slot == self._worked + 1:
                self._work_out(slot, batch)
        expected = self._times.get(applied)
        if expected is not None and now != expected:
            self._world.recorder.fail(
                "agreed-time",
                f"slot {applied} is at {now} ms at {member}; by proposals and reports it is at {expected} ms "
                "(SAFETY rule 11)",
            )
        self._bound(member, applied, now)

    def _work_out(self, slot: Slot, batch: StoredBatch | None) -> None:
        era = self._world.chain.era_of(slot)
        if era is not self._era:
            # Only members report, and what one that left has reported counts no more. Counters begin anew.
            self._era = era
            self._reports = {member: (0, self._reports[member][1]) for member in self._reports if member in era.members}
        time = self._times[slot - 1]
        if batch is not None:
            for bundle in batch.bundles:
                if bundle.kind == CLOCK:
                    self._report(bundle.client, bundle.session, bundle.first)
            time = max(time, self._proposal(batch.time_ms))
        self._times[slot] = time
        self._worked = slot

    def _report(self, key: bytes, counter: int, time_ms: int) -> None:
        member = self._era.settings.member_keys.get(key)
        if member is not None and self._reports.get(member, (-1, 0))[0] < counter:
            self._reports[member] = (counter, time_ms)

    def _proposal(self, time_ms: int) -> int:
        """What becomes of a proposal; 0 while too few have reported."""
        latest = sorted(time for _, time in self._reports.values())
        quorum = self._era.quorum
        if len(latest) < quorum.n - quorum.f - quorum.c:
            return 0
        median = latest[(len(latest) + 1) // 2 - 1]
        return min(max(time_ms, median), median + SPREAD_MS)

    def _bound(self, member: MemberId, slot: Slot, now: int) -> None:
        world = self._world
        hosts, era = world.hosts, world.chain.era_of(slot)
        for other in hosts:
            clock = hosts[other].clock
            if clock.offset_ms != self._clocks[other] or clock.factor_ppm != _RATE:
                self._wrong.add(other)
        wrong = self._wrong | world.recorder.exempt
        if len(wrong) > era.quorum.f:
            return
        latest = max(hosts[other].clock.read(world.now_us) for other in hosts if other not in wrong)
        if now > latest + SPREAD_MS:
            world.recorder.fail(
                "agreed-time",
                f"slot {slot} is at {now} ms at {member}, and no right clock is beyond {latest} ms (SAFETY rule 11)",
            )
