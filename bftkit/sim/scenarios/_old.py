"""Random scenarios: one number decides the group, its network, its load and everything that goes wrong.

What goes wrong is what the protocol says that it survives (its record), and no more at a time than f and c allow:
crashes with and without loss of power, of members one by one or of all at once, partitions of every form, links that
lose and reorder, clocks that jump, disks that are full, a member that lies. Then everything heals, and every checker
must be content.
"""

from __future__ import annotations

from random import Random

from bftkit.channel.interface import ReplicaSettings
from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.sim.adversaries import Liar, Silent
from bftkit.sim.links import Network
from bftkit.sim.world import World


def mixed(seed: int, protocol: str, *, trace: bool = False) -> World:
    """Run the mixed scenario of this seed to its end. Raises `Violation`. Returns the world, for figures."""
    random = Random(f"mixed {seed}")
    record = load_protocol(protocol).record
    if record.byzantine:
        members, f, c = random.choice(((4, 1, 0), (4, 1, 0), (4, 1, 0), (6, 1, 1), (7, 2, 0), (3, 0, 1), (1, 0, 0)))
    else:
        members, f, c = random.choice(((3, 0, 1), (3, 0, 1), (5, 0, 2), (4, 0, 1), (2, 0, 0), (1, 0, 0)))
    interval = random.choice((2, 4, 8))
    world = World(
        seed,
        protocol,
        members,
        f,
        c,
        clients=random.randint(1, 4),
        network=Network(
            delay_max=random.choice((3, 10, 40)),
            loss=random.choice((0.0, 0.0, 0.05, 0.3)),
            duplication=random.choice((0.0, 0.1, 0.5)),
            straggling=random.choice((0.0, 0.0, 0.05)),
        ),
        interval=interval,
        window=2 * interval * random.choice((1, 2)),
        segment_bytes=random.choice((4 << 10, 1 << 20)),
        trace=trace,
        rerun=f"python simulations/mixed.py --protocol {protocol} --seeds {seed}",
    )
    faulty = 0
    if f and random.random() < 0.4:
        faulty = random.randint(1, f)
        for member in random.sample(world.members, faulty):
            world.lie(member, random.choice((Liar, Silent, _half_silent)))
    forgetful = _who_may_forget(world, random, f + c - faulty)
    world.load(random.randint(20, 80), random.randint(1, 6))
    for _ in range(random.randint(1, 6)):
        world.run(random.randint(1, 800))
        if random.random() < 0.5:
            world.load(random.randint(1, 40), 4)
        _trouble(world, random)
        if forgetful and random.random() < 0.3:
            _forget(world, forgetful.pop())
        if random.random() < 0.1:
            random.choice(list(world.actors.values())).stop()
            world.join(f"c{len(world.actors)}")
    world.run(random.randint(1, 1500))
    world.finish()
    return world


def _half_silent(settings: ReplicaSettings) -> Silent:
    return Silent(settings, frozenset(settings.members[::2]))


def _who_may_forget(world: World, random: Random, at_most: int) -> list[MemberId]:
    """Members that may lose their disk (SAFETY rule 16): with the liars no more than f + c, and no coordinator."""
    able = [member for member in world.correct if load_protocol(world.protocol).record.byzantine or member != "m0"]
    if at_most < 1 or random.random() < 0.7:
        return []
    return random.sample(able, min(len(able), random.randint(1, at_most)))


def _forget(world: World, member: MemberId) -> None:
    if world.hosts[member].up:
        world.crash(member)
    world.wipe(member)
    world.restart(member)


def _trouble(world: World, random: Random) -> None:
    up = [member for member in world.members if world.hosts[member].up]
    down = [member for member in world.members if not world.hosts[member].up]
    member = random.choice(world.members)
    draw = random.random()
    if draw < 0.25 and up:
        world.crash(random.choice(up), power=random.random() < 0.7)
    elif draw < 0.45 and down:
        world.restart(*random.sample(down, random.randint(1, len(down))))
    elif draw < 0.55:
        world.power_cut()
        world.run(random.randint(0, 100))
        world.restart(*world.members)
    elif draw < 0.62:
        plan_power_cut(world, random)
    elif draw < 0.75:
        parties = [*world.members, *(name for name in world.actors if random.random() < 0.3)]
        random.shuffle(parties)
        cut = random.randint(0, len(parties))
        world.partition(parties[:cut], parties[cut:])
    elif draw < 0.82:
        other = random.choice(world.members)
        if other != member:
            world.cut(member, other)
    elif draw < 0.92:
        world.heal()
    elif draw < 0.97:
        world.jump_clock(member, random.choice((-1, 1)) * random.choice((100, 60_000, 30 * 86_400_000)))
    else:
        directory = world.hosts[member].disk.directory
        directory.capacity = directory.bytes_used + random.randint(0, 2000)
        world.run(random.randint(100, 1000))
        directory.capacity = None


def plan_power_cut(world: World, random: Random) -> None:
    """Cut everybody's power before some operation of one member's disk, and switch it on again."""
    up = [member for member in world.members if world.hosts[member].up]
    if not up:
        return
    host = world.hosts[random.choice(up)]
    world.cut_power_before(host.me, random.randint(1, 12))
    world.run(random.randint(100, 800))
    world.forget_planned_cut(host.me)
    down = [member for member in world.members if not world.hosts[member].up]
    world.restart(*down)
