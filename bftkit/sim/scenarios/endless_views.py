"""Nobody can agree for a long time: views come and go, ever more slowly, and nothing grows with them."""

from bftkit.sim.faults import Crash, HoldKind
from bftkit.sim.plan import Load, Plan
from bftkit.sim.running import Result
from bftkit.sim.scenarios import Setting
from bftkit.sim.world import World

LINES = (48,)
NEEDS = ("loss", "leader-crash")
MOST = {"NewView": 12, "Promise": 30}
"""By the message by which a leader hears that it may begin, or the others that it does. PBFT's waits double without
end; those of Paxos grow thirty-two times at most, and two candidates may take turns."""
MESSAGES = tuple(MOST)
FIGURE = "views in a minute in which no leader can begin"
AT_MOST = max(MOST.values())


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    # The first leader is gone, and of no view that follows does anybody hear how it begins.
    gone = Crash(at=200 + setting.random.randint(0, 300), who=group.names[0], ticks=60_500)
    (kind,) = (name for name in MESSAGES if name in setting.messages)
    unheard = HoldKind(at=100, ticks=60_000, kind=kind)
    return setting.plan(group=group, load=Load(bursts=4), ticks=61_000, faults=(unheard, gone))


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        views = max(world.replica(member).machine.view for member in world.correct if world.hosts[member].up)
        world.inject(48, views)

    world.after(plan.ticks - 1, look)


def measure(result: Result, baseline: Result) -> float:
    return result.view_changes


def judge(result: Result, baseline: Result) -> str | None:
    (most,) = (MOST[fault.kind] for fault in result.plan.faults if isinstance(fault, HoldKind))
    return f"{FIGURE}: {result.view_changes}, more than {most}" if result.view_changes > most else None
