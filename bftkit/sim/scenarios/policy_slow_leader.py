"""A leader is slow on purpose, just in time; the policy goes over to a protocol that has none, and members restart."""

from bftkit.configuration.policy import Mode, Policy
from bftkit.sim.faults import Crash, Lie
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

LINES = (31,)
NEEDS = ("liar", "slow-leader")
MESSAGES = ("PrePrepare",)
OPERATIONS_MIN = 100
SLOW = {"view_timeout": 3000}
"""So long until the protocol itself finds another leader."""
SETTINGS = {"period_ms": 200, "patience": 1, "calm": 100, "cooldown": 8, "slow_ms": 60, "stuck_ms": 400}


def plan(setting: Setting) -> Plan:
    random = setting.random
    modes = (Mode(setting.protocol, SLOW), Mode("cks"))
    lie = Lie(at=random.randint(1000, 1400), who="m0", kind="slow-leader", options={"ticks": random.choice((380, 700))})
    restarts = (
        Crash(at=at, who=random.choice(("m1", "m2", "m3")), ticks=random.randint(50, 250), power=random.random() < 0.5)
        for at in (random.randint(2200, 3200), random.randint(3400, 4200))
    )
    return setting.plan(
        load=Load(clients=3, operations=900, bursts=1, keys=16, poison=0.0, per_second=60),
        parameters=SLOW,
        policy=Policy("steady", modes, forced=2, stall_ms=2000, parameters=SETTINGS),
        interval=4,
        window=16,
        ticks=5000,
        faults=(lie, *restarts),
    )


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        links = [era.link for era in world.chain.eras[1:] if era.link is not None]
        if not any(link.cause == "policy" and link.next.protocol == "cks" for link in links):
            missed(world, "the policy stays with the slow leader")

    if plan.faults:
        world.after(plan.ticks - 1, look)
