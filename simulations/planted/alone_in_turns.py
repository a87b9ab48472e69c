"""Followers are cut off in turns, each for so long that it says the protocol has stopped; the leader always says so."""

from bftkit.configuration.policy import Mode, Policy
from bftkit.sim.faults import Lie, Partition
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import STEADY, Setting, missed
from bftkit.sim.world import World

LINES = (4, 44)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    liar, *rest = names = list(group.names)
    random.shuffle(rest)
    others = [name for name in setting.others(group) if name != setting.protocol]
    return setting.plan(
        group=group,
        load=STEADY,
        policy=Policy("manual", (Mode(setting.protocol), Mode(others[0])), forced=2, stall_ms=200),
        ticks=4500,
        faults=(
            Lie(at=0, who=liar, kind="false-stalls"),
            *(
                Partition(
                    at=500 + 1200 * turn + random.randint(0, 200),
                    ticks=450,
                    sides=((alone, *(f"c{index}" for index in range(2))), tuple(one for one in names if one != alone)),
                )
                for turn, alone in enumerate(rest)
            ),
        ),
    )


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        if world.chain.now.epoch:
            missed(world, "a protocol was left that has never stopped")

    world.after(plan.ticks - 1, look)
