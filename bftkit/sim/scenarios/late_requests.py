"""Operations have deadlines, a bad network and a dead leader make many late, clocks are wrong: late ones are no-ops."""

from bftkit.sim.faults import ClockJump, Crash, Fault, LyingClient, Weather
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.workloads import Closed
from bftkit.sim.world import World

LINES = (1, 3, 19, 32)
OPERATIONS_MIN = 20
DEADLINE_MS = 250


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    faults: list[Fault] = [
        LyingClient(at=50, name="liar0", kind="second-chance"),
        Weather(at=500, ticks=500, loss=0.3, duplication=0.1, straggling=0.3, delay_max=400),
        Crash(at=1400, who="leader", ticks=700),
        # A clock that is ahead, and one that is behind: f of them decide nothing alone (SAFETY rule 11).
        ClockJump(at=random.randint(100, 2400), who=random.choice(group.names), ms=random.choice((-5000, 5000))),
    ]
    load = Load(clients=3, operations=330, deadline_ms=DEADLINE_MS, glances=0.15)
    return setting.plan(group=group, load=load, faults=tuple(faults))


def watch(world: World, plan: Plan) -> None:
    """One client's clock is slow: what it asks for is late from the beginning, and never executed."""

    def slow() -> None:
        actor = world.join("slow")
        actor.clock.offset_ms = -20_000
        actor.ask_for(10, actor.key_value_load((b"k0",), 0.0), Closed(deadline_ms=DEADLINE_MS))

    def look() -> None:
        if world.actors["slow"].told.late == 0:
            missed(world, "no request was refused as late")

    world.after(300, slow)
    world.after(plan.ticks - 1, look)
