"""What an epoch leaves behind counts in no later one: batches that members judged, counters of clock reports."""

from __future__ import annotations

from bftkit.channel.batches import judge_batch
from bftkit.channel.bundles import CLOCK, make_bundle
from bftkit.core.machine import MemberId
from bftkit.sim.host import FromMember
from bftkit.sim.links import Network
from bftkit.sim.world import World

LIMIT = 20_000


def group(seed: int = 1) -> World:
    """Four members with liars among them perhaps, that have just decided something."""
    world = World(
        seed, "pbft", 4, 1, 0, reconfigurable=True, network=Network(delay_max=3), clients=2, interval=4, window=8
    )
    world.load(8, keys=2, poison=0.0)
    world.run(700)
    return world


def cross(world: World, *members: MemberId) -> None:
    """Run until these members, or all, are in epoch 1."""
    wanted = members or tuple(world.members)
    world.run_until(lambda: all(world.replica(name).settings.epoch == 1 for name in wanted), LIMIT, "the epoch")


def test_a_batch_of_an_epoch_before_is_not_taken_for_good_after_a_restart() -> None:
    """SAFETY rule 4: clock reports in it are signed with keys that count no more; who was up all the time refuses it.

    A liar that leads can propose it again: had enough members lost power, they would decide what the others refuse.
    """
    world = group()
    world.switch()
    cross(world)
    world.crash("m1")
    world.restart("m1")
    replica = world.replica("m1")
    assert replica.settings.epoch == 1
    for batch in replica.batches._stored.values():  # pyright: ignore[reportPrivateUsage]
        judge_batch(batch.raw, replica.settings)
    world.finish()


def test_a_counter_that_a_liar_has_used_up_silences_nobody_in_the_next_epoch() -> None:
    """SAFETY rules 11 and 16: whoever is put in a liar's place reports its clock under the same name, with new keys."""
    world = group()
    key, name = world.replica("m3").settings.clock_key, world.replica("m3").settings.group
    world.crash("m3")  # what ran there was no correct member: it has signed this
    last = b"\x02" + make_bundle(key, name, CLOCK, (1 << 64) - 1, world.replica("m0").clock_ms, 0, ())
    others = ("m0", "m1", "m2")

    def is_ordered() -> bool:
        known = world.replica("m0").state.clock.reports.get("m3")
        return known is not None and known.counter == (1 << 64) - 1

    for member in others:
        world.hosts[member].put(FromMember("m3", last))
    world.load(4, keys=1, poison=0.0)
    world.run_until(is_ordered, LIMIT, "the report is ordered")
    world.switch()
    cross(world, *others)
    world.restart("m3")
    cross(world)
    world.load(8, keys=2, poison=0.0)
    world.run(1500)
    world.finish()
    assert 0 < world.replica("m0").state.clock.reports["m3"].counter < 100
