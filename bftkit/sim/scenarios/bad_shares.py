"""f members give shares of coins that are none: refused, put down to them, and every coin is tossed all the same."""

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

LINES = (28,)
NEEDS = ("liar",)
COINS = True
OPERATIONS_MIN = 200


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 1, 2)))
    liars = random.sample(group.names, group.f)
    faults = tuple(Lie(at=0, who=who, kind="bad-shares") for who in liars)
    # Real coins: some of the lies are about the group of points, and a simulated coin has none.
    return setting.plan(group=group, keys="ed25519", faults=faults)


def watch(world: World, plan: Plan) -> None:
    liars = [fault.who for fault in plan.faults if isinstance(fault, Lie)]

    def look() -> None:
        said = "a share that is none of this coin"
        blamed = {whom for who, whom, fault, _ in world.blames if who in world.correct and fault == said}
        if unseen := sorted(set(liars) - blamed):
            missed(world, f"nobody blames {', '.join(unseen)} for a share")

    world.after(plan.ticks - 1, look)
