"""Members that are taken out of the group, old logs that come back, and new keys: what each may still be asked for."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from bftkit.channel.interface import Restored
from bftkit.channel.settling import own_record
from bftkit.client.local import local_group
from bftkit.membership.epochs import Configuration
from bftkit.node.assembly import checked
from bftkit.node.disk import StoppedInRound
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.world import World
from bftkit.storage.files import DiskFull, StorageFailed
from tests.unit.test_coin_keys import group_of

PATIENCE_SECONDS = 60.0
ROOT = b"r" * 32


# ------------------------------------------------------------------------------------------------ leaving


async def test_a_removed_member_may_end_once_the_next_epoch_has_begun(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bftkit.node")
    async with local_group(KeyValueStore, members=4, protocol="paxos") as group:
        node = group.node("m3")
        await group.switch(members=("m0", "m1", "m2"), timeout=PATIENCE_SECONDS)
        with trio.fail_after(PATIENCE_SECONDS):
            await node.released.wait()
        assert not any(group.node(name).released.is_set() for name in ("m0", "m1", "m2"))
    (halt,) = [record for record in caplog.records if "no part of the group since epoch 1" in record.getMessage()]
    assert halt.levelno == logging.INFO


def moved(members: tuple[str, ...]) -> World:
    """A world in which these four are members since epoch 1."""
    world = World(1, "pbft", 4, reconfigurable=True, spares=4)
    world.load(40)
    world.run(300)
    world.switch(members=members)
    world.run_until(lambda: world.chain.now.epoch >= 1, 8000, "the next epoch")
    world.run_until(lambda: world.replica("m3").stopped is not None, 8000, "m3 knows it")
    return world


def test_the_last_that_know_the_way_stay() -> None:
    """Of three members that stay one may lie and none more; of one that stays nobody knows whether it runs."""
    world = moved(("m0", "m4", "m5", "m6"))
    text = "epoch 1; only 1 of the members before stayed, so it goes on to show others the way"
    assert text in str(world.replica("m3").stopped)
    world.load(20)
    world.finish()


@pytest.mark.parametrize("back", [("m0",), ("m0", "m1")])
def test_who_was_taken_out_and_goes_on_can_be_taken_in_again(back: tuple[str, ...]) -> None:
    """It gets ready as any other that joins; the change would be prepared for ever, had it stopped for good."""
    world = World(1, "paxos", 1, reconfigurable=True, spares=1, clients=2)
    world.load(20)
    world.run(300)
    world.switch(members=("m1",))
    world.run_until(lambda: world.chain.now.epoch == 1, 8000, "the next epoch")
    world.load(10)
    world.run(500)
    member = world.replica("m0")
    assert member.removed
    assert "it goes on to show others the way" in str(member.stopped)
    world.switch(members=back)
    world.run_until(lambda: world.chain.now.epoch == 2, 8000, "the epoch after")
    world.load(10)
    world.finish()
    assert member.stopped is None
    assert not member.removed


def test_a_removed_member_that_is_started_again_comes_to_know_it_again() -> None:
    """Else its process would follow the group for ever, and nobody would know why."""
    world = moved(("m0", "m1", "m2", "m4"))
    for name in ("m0", "m3"):  # m0 forgets whom it told what, too
        world.crash(name)
        world.restart(name)
    assert world.replica("m3").settings.epoch == 1
    world.load(20)
    world.run_until(lambda: world.replica("m3").stopped is not None, 8000, "m3 knows it again")
    assert str(world.replica("m3").stopped).endswith("no part of the group since epoch 1")
    world.finish()


# ------------------------------------------------------------------------------------------------ old logs


def _why_no_key(configuration: object) -> str:
    return "the keys are others"


def kept(*records: bytes, root: bytes = ROOT) -> Restored:
    """What is found where the keys are not those of the epoch that the log is in."""
    keychain: Any = SimpleNamespace(me="m0", why_no_key=_why_no_key)
    return checked(Restored(records), keychain, group_of(), root)


@pytest.mark.parametrize(
    "records",
    [
        (own_record(8, silent=False),),
        (own_record(0, silent=True), own_record(8, silent=False)),
        (own_record(0, silent=True, forgotten=b"o" * 32),),
        (),
    ],
    ids=["that spoke", "that was made to replace a member, and spoke", "that had forgotten older keys", "that is bare"],
)
def test_with_an_old_log_its_keys_may_have_promised_anything(
    records: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """SAFETY rule 16: it came back after the keys were rotated, and the member signed with those that are here since.

    Without the root of these keys, the next epoch that the chain shows would end the silence.
    """
    found = kept(*records)
    assert (found.amnesic, found.forgotten) == (True, ROOT)
    (told,) = caplog.records
    assert (told.levelno, "takes no part" in told.getMessage()) == (logging.ERROR, True)


@pytest.mark.parametrize(
    ("records", "root"), [((own_record(0, silent=True),), ROOT), ((), b"")], ids=["on disk", "in memory"]
)
def test_a_folder_that_is_to_replace_a_member_has_promised_nothing_and_says_what_it_waits_for(
    records: tuple[bytes, ...], root: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """That is no error: it was made so, and an operator's command is on its way."""
    found = kept(*records, root=root)
    assert (found.amnesic, found.forgotten) == (True, b"")
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert told.getMessage().startswith("the keys are others: this member takes no part in this epoch, and waits for")
    assert "bftkit member rotate m0" in told.getMessage()


def _nothing_wrong(configuration: object) -> None:
    return None


@pytest.mark.parametrize("member", ["m0", "m9"])
def test_one_that_is_to_be_taken_in_says_so(member: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bftkit.node")
    genesis = group_of()

    def is_in(here: Configuration) -> bool:
        return member in here.roster.by_id

    keychain: Any = SimpleNamespace(me=member, why_no_key=_nothing_wrong, is_in=is_in)
    assert not checked(Restored(), keychain, genesis, ROOT).amnesic
    told = [(record.levelno, "bftkit member add" in record.getMessage()) for record in caplog.records]
    assert told == ([] if member == "m0" else [(logging.INFO, True)])


# ------------------------------------------------------------------------------------------------ new keys


async def test_new_keys_are_in_their_file_before_a_word_that_they_signed_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SAFETY rule 16: if the log is lost after that word, the key file must say what was forgotten under which keys."""
    async with local_group(KeyValueStore, checkpoint_interval=4) as group:
        client = await group.client()
        await client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        node: Any = group.node("m1")
        vault: Any = group._members["m1"].vault  # pyright: ignore[reportPrivateUsage]
        order: list[str] = []

        def noting(what: str, call: Any) -> Any:
            def noted(*arguments: Any, **named: Any) -> Any:
                order.append(what)
                return call(*arguments, **named)

            return noted

        for thing, name in ((vault, "forget"), (vault, "settle"), (node.log, "sync"), (node.hub, "flush")):
            monkeypatch.setattr(thing, name, noting(name, getattr(thing, name)))
        node._succession._root = bytes(32)  # so the keys that the next roster names are others
        await group.switch(timeout=PATIENCE_SECONDS)
        # In the new epoch, a member still has its disk to wait for before it says a word.
        await group.until(lambda: "forget" in order and "flush" in order[order.index("forget") :], PATIENCE_SECONDS)
        entered = order.index("forget")
        assert order[entered:].index("settle") < order[entered:].index("flush")
        assert "sync" in order[entered : entered + order[entered:].index("settle")]  # never before the log has entered


async def test_a_member_that_stops_while_its_disk_is_full_says_nothing_with_new_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SAFETY rule 16: they are not in their file, and will not be."""
    async with local_group(KeyValueStore) as group:
        node: Any = group.node("m1")

        def full() -> None:
            node._stopping = True
            raise DiskFull("no space left")

        monkeypatch.setattr(group._members["m1"].vault, "settle", full)  # pyright: ignore[reportPrivateUsage]
        await node._succession.settle_new_keys()
        node._succession._has_new_keys = True
        with pytest.raises(StoppedInRound):
            await node._succession.settle_new_keys()
        with pytest.raises(StoppedInRound):  # at a start, too: the crash may have cut off the writing
            await node._succession.begin()


async def test_power_cuts_while_an_epoch_is_entered_take_no_key_away() -> None:
    """SAFETY rule 16: a member whose log is in an epoch without a key for it could only be silent.

    The state that the epoch ends with is saved; before the log has entered the next one, the power is cut, and once
    more when the member, up again, has gone as far.
    """
    async with local_group(KeyValueStore, members=3, protocol="paxos", checkpoint_interval=4) as group:
        client = await group.client()
        await client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        member: Any = group._members["m1"]  # pyright: ignore[reportPrivateUsage]
        cuts = 0

        def before(operation: str) -> None:
            nonlocal cuts
            if operation == "create" and member.run.node.replica.settings.epoch == 1:
                cuts += 1
                member.cut_power()
                raise StorageFailed("the power is gone")

        member.directory.before = before
        await group.switch("coordinator", timeout=PATIENCE_SECONDS)
        await group.until(lambda: member.run is None, PATIENCE_SECONDS)
        with pytest.raises(RuntimeError, match="exited"):
            await group.restart("m1")
        member.directory.before = None
        assert (cuts, member.vault.epochs.first) == (2, 0)
        await group.restart("m1")
        replica = group.node("m1").replica
        assert (replica.settings.epoch, replica.silent) == (1, False)
        await group.until(lambda: member.vault.epochs.first == 1, PATIENCE_SECONDS)
