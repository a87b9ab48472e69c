"""Groups that go from epoch to epoch: in one process with simulated disks, and as processes over TCP.

Whatever happens around a change, no acknowledged operation is lost, duplicated or reordered, and no member is left in
an epoch that it has no key for.
"""

from __future__ import annotations

import copy
import itertools
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from bftkit.channel.frames import DONE
from bftkit.cli import main
from bftkit.client import AsyncClient, SyncClient
from bftkit.client.local import LocalGroup, local_group
from bftkit.configuration.keyfiles import KeyPair
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import SigningKey
from bftkit.membership.card import MemberCard
from bftkit.membership.commands import FORCED, PLANNED, Change, Command, sign_command
from bftkit.membership.epochs import Configuration
from bftkit.membership.founding import default_faults
from bftkit.node.folders import CARD_FILE, read_epoch_keys
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore
from bftkit.storage.files import StorageFailed
from bftkit.storage.snapshots import MemorySnapshots

MakeGroup = Callable[..., ProcessGroup]
OpenClient = Callable[..., SyncClient]
Watch = Callable[..., Any]
RunCommand = Callable[..., Any]
Statuses = Mapping[str, dict[str, Any]]

TIMEOUT = 120.0
AT_ONCE = 8
"""So many runs with a cut share the processor: each of them mostly waits."""


# ------------------------------------------------------------------------------------------------- in one process


@attrs.define
class Load:
    """One client that appends one mark after the other."""

    client: AsyncClient
    acknowledged: int = 0
    stop: bool = False
    stopped: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        """Until `stop`."""
        try:
            while not self.stop:
                await self.client.submit(mark(self.acknowledged), timeout=TIMEOUT)
                self.acknowledged += 1
        finally:
            self.stopped.set()

    async def end(self, group: LocalGroup) -> None:
        """Stop, and see that every mark is there, once, in its order, at all members alike."""
        self.stop = True
        await self.stopped.wait()
        found = await self.client.submit(keyvalue.get(b"marks"), timeout=TIMEOUT)
        assert keyvalue.parse_value(found) == b"".join(number.to_bytes(2, "big") for number in range(self.acknowledged))
        await group.in_step(TIMEOUT)


def mark(number: int) -> bytes:
    """The operation that appends this mark."""
    return keyvalue.append(b"marks", number.to_bytes(2, "big"))


@asynccontextmanager
async def under_load(group: LocalGroup) -> AsyncGenerator[Load]:
    """A client that works meanwhile; at the end nothing is lost."""
    load = Load(await group.client())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        yield load
        await load.end(group)


async def entered(group: LocalGroup, member: str, epoch: int) -> None:
    """Waits until this member is in that epoch, or a later one, and takes part in it."""

    def is_there() -> bool:
        replica = group.node(member).replica
        return replica.settings.epoch >= epoch and replica.succession_part.active

    await group.until(is_there, TIMEOUT)


async def erased(group: LocalGroup, member: str, epoch: int) -> None:
    """Waits until this member has no key left of an epoch before that one."""
    vault = group._members[member].vault  # pyright: ignore[reportPrivateUsage]
    await group.until(lambda: vault.epochs.first >= epoch, TIMEOUT)


async def linked(group: LocalGroup, member: str, count: int) -> None:
    """Waits until this member's disk holds so many hand-overs."""
    await group.until(lambda: len(group.node(member).snapshots.links()) == count, TIMEOUT)


async def test_a_group_goes_from_protocol_to_protocol_and_back_under_load() -> None:
    async with local_group(KeyValueStore, members=4, protocol="coordinator", checkpoint_interval=8) as group:
        async with under_load(group):
            for number, protocol in enumerate(("paxos", "pbft", "coordinator"), 1):
                configuration = await group.switch(protocol, timeout=TIMEOUT)
                assert (configuration.epoch, configuration.protocol) == (number, protocol)
                assert (configuration.f, configuration.c) == ((1, 0) if protocol == "pbft" else (0, 1))
        for member in group.members:
            await erased(group, member, 3)
            await linked(group, member, 3)


async def test_members_come_back_in_the_epoch_that_they_left() -> None:
    """One of them, and then all of them at once: the disk knows the epoch (SAFETY rule 16)."""
    async with (
        local_group(KeyValueStore, members=3, protocol="coordinator", checkpoint_interval=8) as group,
        under_load(group),
    ):
        await group.switch("paxos", timeout=TIMEOUT)
        await group.crash("m1")
        await group.restart("m1")
        replica = group.node("m1").replica
        assert (replica.settings.epoch, replica.silent) == (1, False)
        for member in group.members:
            await group.crash(member)
        for member in group.members:
            await group.restart(member)
        for member in group.members:
            replica = group.node(member).replica
            assert (replica.settings.epoch, replica.silent, replica.stopped) == (1, False, None)
        await group.switch("coordinator", timeout=TIMEOUT)


async def test_a_member_that_slept_through_two_changes_comes_back() -> None:
    async with (
        local_group(KeyValueStore, members=4, protocol="paxos", checkpoint_interval=8) as group,
        under_load(group),
    ):
        await group.crash("m3")
        await group.switch("pbft", f=0, c=1, timeout=TIMEOUT)
        await group.switch("paxos", checkpoint_interval=4, timeout=TIMEOUT)
        await group.restart("m3")
        await entered(group, "m3", 2)
        await erased(group, "m3", 2)
        assert group.node("m3").replica.settings.checkpoint_interval == 4
        await group.crash("m0")  # it counts again: three of four are needed
        await group.switch("paxos", checkpoint_interval=8, timeout=TIMEOUT)


async def test_a_member_joins_and_another_one_leaves() -> None:
    async with (
        local_group(KeyValueStore, members=3, protocol="paxos", checkpoint_interval=8) as group,
        under_load(group),
    ):
        await group.add_spare("m3")
        configuration = await group.switch(members=("m0", "m1", "m2", "m3"), protocol="pbft", timeout=TIMEOUT)
        assert configuration.members == ("m0", "m1", "m2", "m3")
        assert configuration.quorum.certificate == 3
        configuration = await group.switch("paxos", members=("m0", "m2", "m3"), timeout=TIMEOUT)
        assert configuration.members == ("m0", "m2", "m3")
        await group.until(lambda: group.node("m1").replica.stopped, TIMEOUT)
        assert "no part of the group since epoch 2" in str(group.node("m1").replica.stopped)
        await group.crash("m0")
        await group.restart("m0")


async def test_members_make_coin_keys_and_forget_those_of_epochs_before() -> None:
    """And know their shares after a restart (SAFETY rule 20)."""
    async with (
        local_group(KeyValueStore, members=4, protocol="pbft", checkpoint_interval=8) as group,
        under_load(group),
    ):
        vaults = [group._members[member].vault for member in group.members]  # pyright: ignore[reportPrivateUsage]
        assert all(vault.coin is not None for vault in vaults), "dealt at the founding"
        for number, protocol in enumerate(("cks", "pbft", "cks"), 1):
            await group.switch(protocol, timeout=TIMEOUT)
            for member in group.members:
                await erased(group, member, number)
        await group.until(lambda: all({epoch for epoch, _ in vault.secrets()} == {3} for vault in vaults), TIMEOUT)
        assert all(vault.coin is None for vault in vaults)
        for member in group.members:
            await group.crash(member)
        for member in group.members:
            await group.restart(member)
        assert all(group.node(member).replica.settings.coins is not None for member in group.members)


async def test_who_missed_the_making_of_a_coin_key_gets_its_share_after_a_forced_change() -> None:
    """From members that have restarted, and have erased the signing keys of the epoch that the key was made for."""
    async with local_group(KeyValueStore, members=4, protocol="pbft", checkpoint_interval=8) as group:
        client = await group.client()
        await client.submit(mark(0), timeout=TIMEOUT)
        await group.crash("m2")
        await group.switch("pbft", timeout=TIMEOUT)
        await group.carry_out(group.command(group.change("cks", coin=True), kind=FORCED), TIMEOUT)
        for member in group.running:
            await erased(group, member, 2)
        for member in ("m0", "m1", "m3"):
            vault = group._members[member].vault  # pyright: ignore[reportPrivateUsage]
            assert {epoch for epoch, name in vault.secrets() if name.startswith(b"making")} == {1}
            await group.crash(member)
        for member in ("m1", "m2", "m3"):  # m0 is gone for good
            await group.restart(member)
        await client.submit(mark(1), timeout=TIMEOUT)
        assert group.node("m2").replica.settings.coins is not None


async def test_a_log_from_before_a_change_makes_a_member_silent() -> None:
    """Its key of that epoch is erased: it has promised something since (SAFETY rule 16)."""
    async with (
        local_group(KeyValueStore, members=3, protocol="paxos", checkpoint_interval=8) as group,
        under_load(group),
    ):
        member = group._members["m2"]  # pyright: ignore[reportPrivateUsage]
        before = copy.deepcopy(member.directory)
        await group.switch("coordinator", timeout=TIMEOUT)
        await erased(group, "m2", 1)
        await group.crash("m2")
        member.directory = before
        member.snapshots = MemorySnapshots()
        before.crash()
        await group.restart("m2")
        assert group.node("m2").replica.silent
        await entered(group, "m2", 1)
        assert group.node("m2").replica.silent, "new keys alone would end that"


async def test_what_members_cannot_run_is_refused_with_the_reason() -> None:
    async with local_group(KeyValueStore, members=3, protocol="paxos") as group:
        change = attrs.evolve(group.change(), parameters={"patience": 1})
        with pytest.raises(ValueError, match=r"m0: parameters\.patience: 1 is out of range"):
            await group.carry_out(group.command(change))
        change = attrs.evolve(group.change(), protocol="raft")
        with pytest.raises(ValueError, match="no protocol named 'raft'"):
            await group.carry_out(group.command(change))
        stranger = sign_command(group.command(group.change("coordinator")).command, SigningKey(bytes(32)))
        with pytest.raises(ValueError, match="is no operator of this epoch"):
            await group.carry_out(stranger)
        assert group.configuration.epoch == 0


# ------------------------------------------------------------------------------------------------- power cuts


@attrs.define
class Cut:
    """Cuts the power of all members, or of the watched one, before its disk operation with this number."""

    group: LocalGroup
    watched: str
    at: int
    all: bool
    kind: str
    """Only operations of this kind are counted; empty: all are."""
    count: int = 0
    operation: str | None = None
    """What was about to happen."""
    done: trio.Event = attrs.field(factory=trio.Event)

    def install(self) -> None:
        """From now on: operations on the log, on the checkpoints and links, and on the keys."""
        member = self.group._members[self.watched]  # pyright: ignore[reportPrivateUsage]
        member.directory.before = self._before
        member.snapshots.before = partial(self._in_thread, "snapshots: ")
        member.vault.before = partial(self._in_thread, "vault: ")

    def _in_thread(self, where: str, operation: str) -> None:
        trio.from_thread.run_sync(self._before, where + operation)

    def remove(self) -> None:
        """No more."""
        member = self.group._members[self.watched]  # pyright: ignore[reportPrivateUsage]
        member.directory.before = member.snapshots.before = member.vault.before = None

    def _before(self, operation: str) -> None:
        if self.operation is not None:
            raise StorageFailed("the power is gone")
        self.count += operation.startswith(self.kind)
        if self.count != self.at:
            return
        self.operation = operation
        for name, member in self.group._members.items():  # pyright: ignore[reportPrivateUsage]
            run = member.run
            if run is None or not (self.all or name == self.watched):
                continue
            run.crashed = True
            member.directory.crash()
            member.snapshots.crash()
            run.scope.cancel()
        self.done.set()
        raise StorageFailed("the power is gone")


async def _one_cut(
    watched: str, at: int, *, everybody: bool, kind: str = "", protocol: str = "coordinator", how: int = PLANNED
) -> str | None:
    """A change to paxos with a cut; what was about to happen, None if all was over before."""
    async with local_group(KeyValueStore, members=3, protocol=protocol, checkpoint_interval=2) as group:
        client = await group.client()
        for number in range(3):
            await client.submit(mark(number), timeout=TIMEOUT)
        await group.in_step(TIMEOUT)
        signed = group.command(group.change("paxos"), kind=how)
        cut = Cut(group, watched, at, everybody, kind)
        cut.install()
        async with trio.open_nursery() as nursery:

            async def change() -> None:
                try:
                    await group.carry_out(signed, TIMEOUT)
                except (TimeoutError, ValueError):
                    pass  # of a group without power
                else:
                    for member in group.running:
                        await erased(group, member, 1)
                nursery.cancel_scope.cancel()

            nursery.start_soon(change)
            await cut.done.wait()
            nursery.cancel_scope.cancel()
        cut.remove()
        for member in group.members:
            run = group._members[member].run  # pyright: ignore[reportPrivateUsage]
            if run is not None and run.crashed:
                await run.ended.wait()
            if member not in group.running:
                await group.restart(member)
                replica = group.node(member).replica
                assert not replica.silent, f"cut before operation {at} ({cut.operation}): {member} has no key"
        await group.carry_out(signed, TIMEOUT)
        for number in range(3, 5):
            await client.submit(mark(number), timeout=TIMEOUT)
        found = await client.submit(keyvalue.get(b"marks"), timeout=TIMEOUT)
        expected = b"".join(number.to_bytes(2, "big") for number in range(5))
        assert keyvalue.parse_value(found) == expected, f"cut before operation {at} ({cut.operation})"
        await group.in_step(TIMEOUT)
        for member in group.members:
            await erased(group, member, 1)
            await linked(group, member, 1)
        return cut.operation


CUTS = [
    ("m0", True, 3, "coordinator", PLANNED),
    ("m1", False, 6, "coordinator", PLANNED),
    ("m1", True, 6, "paxos", FORCED),
    ("m0", False, 7, "coordinator", FORCED),
]


@pytest.mark.parametrize(("watched", "everybody", "step", "protocol", "how"), CUTS)
async def test_the_power_is_cut_before_operations_on_the_disk(
    watched: str, everybody: bool, step: int, protocol: str, how: int
) -> None:
    """The coordinator among all, a follower alone; all in the middle of a forced change, and the one that is left."""
    operations: list[str] = []
    numbers = itertools.count(1, step)
    over = False

    async def runs() -> None:
        nonlocal over
        while not over:
            operation = await _one_cut(watched, next(numbers), everybody=everybody, protocol=protocol, how=how)
            over = over or operation is None
            operations.extend([operation] if operation is not None else [])

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(runs)
    assert len(operations) * step >= 12, "there is more to a change than that"


@pytest.mark.parametrize("kind", ["vault: erase keys", "snapshots: keep link", "snapshots: save", "create", "replace"])
async def test_the_power_is_cut_where_an_epoch_begins(kind: str) -> None:
    """However the rounds fell out: all lose their power before the first operation of this kind, and one alone does."""
    async with trio.open_nursery() as nursery:
        for everybody in (True, False):

            async def run(everybody: bool = everybody) -> None:
                operation = await _one_cut("m1", 1, everybody=everybody, kind=kind)
                assert operation is not None, f"there was no operation {kind}"

            nursery.start_soon(run)


# ------------------------------------------------------------------------------------------------- processes


def change_to(here: Configuration, protocol: str, *cards: MemberCard) -> Change:
    """The present configuration under another protocol, with the members of these cards besides."""
    seats = (*here.seats(), *(card.seat() for card in cards))
    record = load_protocol(protocol).record
    f, c = default_faults(record, len(seats), None, None)
    return attrs.evolve(
        here.change(), protocol=protocol, parameters={}, members=seats, f=f, c=c, coin=f > 0 or record.coins
    )


def carry_out(group: ProcessGroup, client: SyncClient, change: Change) -> None:
    """Sign this as the operator of `bftkit init`, and wait until it is done."""
    text = (group.directory / "operator" / "operator.key").read_text()
    operator = KeyPair.from_text(text, "operator").signing_key
    epoch = client.settle(timeout=TIMEOUT).epoch
    command = Command(group.genesis.group_id, epoch, PLANNED, 0, False, change, secrets.token_bytes(16))
    last = list(client.order(sign_command(command, operator), timeout=TIMEOUT))[-1]
    assert (last.state, last.final) == (DONE, True), last


def all_in(epoch: int, members: int) -> Callable[[Statuses], bool]:
    """Whether so many members answer, all from that epoch, and all take part."""

    def judge(statuses: Statuses) -> bool:
        found = {(status["epoch"], status["silent"], status["stopped"]) for status in statuses.values()}
        return len(statuses) == members and found == {(epoch, False, None)}

    return judge


def secrets_on_disk(folder: Path) -> bytes:
    """All that lies in a member's folder but its data."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and folder / "data" not in path.parents)
    return b"".join(path.read_bytes() for path in files)


def test_processes_change_lose_power_and_forget_their_keys(found: MakeGroup, client: OpenClient, watch: Watch) -> None:
    """The keys of an epoch that is over are in no file any more (SAFETY rule 28)."""
    group = found("--members", 3, "--protocol", "coordinator", "--checkpoint-interval", 8)
    folder = group.directory / "m0"
    first_keys = read_epoch_keys(folder / "keys" / "epochs.key").to_bytes()
    first_seed = first_keys[-32 - 32 * 256 : -32 * 256]
    assert first_seed in secrets_on_disk(folder)
    group.start_all()
    user = client(group)
    user.submit(keyvalue.append(b"marks", b"a"), timeout=TIMEOUT)
    carry_out(group, user, change_to(user.configuration, "paxos"))
    user.submit(keyvalue.append(b"marks", b"b"), timeout=TIMEOUT)
    watch(group, "all in epoch 1", all_in(1, 3))
    group.kill_all()
    group.start_all()
    user.submit(keyvalue.append(b"marks", b"c"), timeout=TIMEOUT)
    carry_out(group, user, change_to(user.configuration, "coordinator"))
    watch(group, "all in epoch 2", all_in(2, 3))
    assert keyvalue.parse_value(user.submit(keyvalue.get(b"marks"), timeout=TIMEOUT)) == b"abc"
    group.stop()
    keys = read_epoch_keys(folder / "keys" / "epochs.key")
    assert (keys.first, keys.count) == (2, 256)
    assert first_seed not in secrets_on_disk(folder)
    assert sorted(path.name for path in (folder / "keys").iterdir()) == ["epochs.key", "identity.key"]


def test_a_process_joins(found: MakeGroup, client: OpenClient, watch: Watch, command: RunCommand) -> None:
    """Its folder and its card are made by `bftkit init --join`; it may run long before anybody knows it."""
    group = found("--members", 3, "--protocol", "paxos", "--checkpoint-interval", 8)
    told = command("init", group.directory / "m3", "--join", group.directory / "genesis.toml", "--id", "m3")
    assert told.code == 0, told.error
    card = MemberCard.from_text((group.directory / "m3" / CARD_FILE).read_text())
    assert (card.id, card.group) == ("m3", group.genesis.group_id)
    try:
        group.start_all(("m0", "m1", "m2", "m3"))
        user = client(group)
        for letter in b"abc":
            user.submit(keyvalue.append(b"marks", bytes((letter,))), timeout=TIMEOUT)
        carry_out(group, user, change_to(user.configuration, "pbft", card))
        watch(group, "all in epoch 1", all_in(1, 4))
        group.kill("m3")
        group.start_all(("m3",))
        group.kill("m0")  # three of four are needed, so m3 counts
        user.submit(keyvalue.append(b"marks", b"d"), timeout=TIMEOUT)
        assert keyvalue.parse_value(user.submit(keyvalue.get(b"marks"), timeout=TIMEOUT)) == b"abcd"
    finally:
        group.stop(("m0", "m1", "m2", "m3"))
    assert "Traceback" not in group.log_text("m3")


def test_a_process_joins_a_group_whose_founders_are_gone(
    found: MakeGroup, client: OpenClient, command: RunCommand
) -> None:
    """It knows them from the genesis, and nobody answers there: the operators' history says who the members are."""
    group = found("--members", 1, "--protocol", "coordinator", "--checkpoint-interval", 4)
    genesis, saved = group.directory / "genesis.toml", group.directory / "history.bin"
    try:
        group.start_all(("m0",))
        user = client(group)
        user.submit(keyvalue.append(b"marks", b"0"), timeout=TIMEOUT)
        for before, name, words in (("m0", "m1", ()), ("m1", "m2", ("--history", saved))):
            told = command("init", group.directory / name, "--join", genesis, "--id", name, *words)
            assert told.code == 0, told.error
            card = MemberCard.from_text((group.directory / name / CARD_FILE).read_text())
            group.start_all((name,))
            carry_out(group, user, attrs.evolve(user.settle(timeout=TIMEOUT).change(), members=(card.seat(),)))
            if name == "m1":
                told = command("history", "--client", group.directory / "client", "--save", saved)
                assert told.code == 0, told.error
            group.kill(before)
            user.submit(keyvalue.append(b"marks", name[1:].encode()), timeout=TIMEOUT)  # nobody else is there
        assert keyvalue.parse_value(user.submit(keyvalue.get(b"marks"), timeout=TIMEOUT)) == b"012"
    finally:
        group.stop(("m0", "m1", "m2"))
    assert "Traceback" not in group.log_text("m2")


def test_a_member_whose_disk_is_gone_is_replaced_by_itself(
    found: MakeGroup, client: OpenClient, watch: Watch, command: RunCommand
) -> None:
    """Its folder is new, its keys are, and its id and address stay (SAFETY rule 16)."""
    group = found("--members", 3, "--protocol", "paxos", "--checkpoint-interval", 8)
    group.start_all()
    user = client(group)
    user.submit(keyvalue.append(b"marks", b"a"), timeout=TIMEOUT)
    group.kill("m2")
    shutil.rmtree(group.directory / "m2")
    (address,) = group.genesis.roster.entry("m2").addresses
    words = ("init", group.directory / "m2", "--join", group.directory / "genesis.toml", "--id", "m2")
    assert command(*words, "--address", address).code == 0
    card = MemberCard.from_text((group.directory / "m2" / CARD_FILE).read_text())
    group.start_all(("m2",))
    here = user.settle(timeout=TIMEOUT)
    seats = tuple(seat if seat.id != "m2" else card.seat() for seat in here.seats())
    carry_out(group, user, attrs.evolve(here.change(), members=seats))
    watch(group, "all in epoch 1", all_in(1, 3))
    group.kill("m0")  # two of three are needed, so m2 counts
    user.submit(keyvalue.append(b"marks", b"b"), timeout=TIMEOUT)
    assert keyvalue.parse_value(user.submit(keyvalue.get(b"marks"), timeout=TIMEOUT)) == b"ab"
    assert "takes no part in this epoch" in group.log_text("m2")


def test_a_member_gets_new_epoch_keys_and_goes_on(
    found: MakeGroup, client: OpenClient, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bftkit keygen --kind next` in its folder, and a command: it need not be started again, and forgets nothing."""
    group = found("--members", 3, "--protocol", "paxos", "--checkpoint-interval", 8)
    group.start_all()
    user = client(group)
    user.submit(keyvalue.append(b"marks", b"a"), timeout=TIMEOUT)
    old = read_epoch_keys(group.directory / "m2" / "keys" / "epochs.key")
    assert main(["keygen", str(group.directory / "m2"), "--kind", "next", "--epochs", "16"]) == 0
    card = MemberCard.from_text(capsys.readouterr().out)
    here = user.settle(timeout=TIMEOUT)
    seats = tuple(seat if seat.id != "m2" else card.seat() for seat in here.seats())
    assert [seat.identity for seat in seats] == [seat.identity for seat in here.seats()]
    carry_out(group, user, attrs.evolve(here.change(), members=seats))
    watch(group, "all in epoch 1", all_in(1, 3))
    group.kill("m0")  # two of three are needed, so m2 counts
    user.submit(keyvalue.append(b"marks", b"b"), timeout=TIMEOUT)
    group.kill("m2")
    group.start_all(("m2",))
    user.submit(keyvalue.append(b"marks", b"c"), timeout=TIMEOUT)
    assert keyvalue.parse_value(user.submit(keyvalue.get(b"marks"), timeout=TIMEOUT)) == b"abc"
    group.stop()
    keys = read_epoch_keys(group.directory / "m2" / "keys" / "epochs.key")
    assert (keys.root, keys.first, keys.count) == (card.epoch_root, 1, 16)
    assert old.to_bytes()[-64:-32] not in secrets_on_disk(group.directory / "m2")


def test_a_folder_that_joins_needs_the_lists_of_keys(tmp_path: Path, found: MakeGroup, command: RunCommand) -> None:
    group = found("--members", 3, "--protocol", "paxos")
    text = (group.directory / "genesis.toml").read_text()
    bare = tmp_path / "bare.toml"
    bare.write_text(text[: text.index("# All public keys")])
    told = command("init", tmp_path / "m3", "--join", bare, "--id", "m3")
    assert told.code == 3
    assert "does not list the members' epoch keys" in told.error
    assert not (tmp_path / "m3").exists()
