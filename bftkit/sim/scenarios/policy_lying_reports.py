"""f members report extremes, say that the protocol has stopped, and show commands: the policy decides nothing of it."""

from bftkit.configuration.policy import Mode, Policy
from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import STEADY, Setting, missed
from bftkit.sim.world import World

LINES = (44,)
NEEDS = ("liar",)
OPERATIONS_MIN = 100
SETTINGS = {
    "period_ms": 200,
    "patience": 1,
    "calm": 1,
    "cooldown": 0,
    "slow_ms": 60_000,
    "views": 1000,
    "stuck_ms": 60_000,
}
"""What honest members measure is far from all bounds, and what liars say is far beyond them."""


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(1 + setting.seed % 2)
    others = [name for name in setting.others(group) if name != setting.protocol]
    liars = random.sample(group.names, group.f)
    if random.random() < 0.5:
        liars = ["m0", *liars[1:]]  # who leads chooses what is ordered
    return setting.plan(
        group=group,
        load=STEADY,
        policy=Policy("steady", (Mode(setting.protocol), Mode(others[0])), 2, 60_000, SETTINGS),
        ticks=3000,
        faults=tuple(
            Lie(at=0, who=who, kind="false-reports+false-stalls", options={"high": random.random() < 0.5})
            for who in sorted(set(liars))
        ),
    )


def watch(world: World, plan: Plan) -> None:
    leads = any(isinstance(fault, Lie) and fault.who == "m0" for fault in plan.faults)

    def look() -> None:
        judged = [world.replica(member).status()["policy"]["wish"] is not None for member in world.correct]
        # A leader passes over all other reports for a while, and then there are no conditions.
        if world.chain.now.epoch or not (all(judged) or leads):
            missed(world, f"epoch {world.chain.now.epoch}; {sum(judged)} of {len(judged)} members have judged")

    world.after(plan.ticks - 1, look)
