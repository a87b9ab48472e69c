"""The leader is gone, and its protocol has stopped; the members leave it by their own votes, for the policy's mode."""

from bftkit.configuration.policy import Mode, Policy
from bftkit.sim.faults import LEADER, Crash
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import STEADY, Setting, missed
from bftkit.sim.world import World

LINES = (36,)
NEEDS = ("power-cut",)
MESSAGES = ("PrePrepare", "Accept", "Append")
OPERATIONS_MIN = 60
SLOW = {"pbft": {"view_timeout": 3000}, "paxos": {"silence": 3000}}
"""So long until the protocol itself finds another leader: the votes come first."""


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    parameters = SLOW.get(setting.protocol, {})
    others = [name for name in setting.others(group) if name not in (setting.protocol, "coordinator")]
    modes = (Mode(setting.protocol, parameters), Mode(random.choice(others)))
    at = random.randint(300, 700)
    crash = Crash(at=at, who=LEADER, ticks=random.randint(1200, 2400), power=random.random() < 0.5)
    return setting.plan(
        group=group,
        load=STEADY,
        parameters=parameters,
        policy=Policy("manual", modes, forced=2, stall_ms=random.choice((300, 400))),
        interval=4,
        window=16,
        ticks=4000,
        faults=(crash,),
    )


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        links = [era.link for era in world.chain.eras[1:] if era.link is not None]
        if not any((link.kind, link.cause) == ("forced", "policy") for link in links):
            missed(world, "nobody leaves a protocol that has stopped")

    if plan.faults:
        world.after(plan.ticks - 1, look)
