"""Plans that Hypothesis draws: all of them may be run, all kinds of faults come, and they shrink to little."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import find, given, settings

from bftkit.sim import run
from bftkit.sim.faults import PowerCut
from bftkit.sim.plan import Group, Plan
from bftkit.sim.strategies import faults, plans

QUICK = settings(database=None, max_examples=100)


@QUICK
@given(plans())
def test_every_plan_may_be_run_and_is_the_same_as_text(plan: Plan) -> None:
    plan.check()
    assert Plan.from_json(plan.to_json()) == plan
    assert list(plan.faults) == sorted(plan.faults, key=lambda fault: fault.at)


@QUICK
@given(plans(protocol="coordinator", group=Group(members=5, f=0, c=2)))
def test_a_protocol_without_byzantine_members_gets_no_liars(plan: Plan) -> None:
    plan.check()
    assert not any(fault.lying() for fault in plan.faults)
    assert not any("m0" in fault.forgetful() for fault in plan.faults)


def test_they_shrink_to_the_fault_that_matters() -> None:
    found = find(
        faults(Group(), 50, at_most=2), lambda drawn: any(isinstance(one, PowerCut) for one in drawn), settings=QUICK
    )
    assert found == (PowerCut(at=0, ticks=1),)


@settings(database=None, max_examples=5, deadline=None)
@given(plans(operations=20, ticks=400))
def test_pbft_survives_them(plan: Plan) -> None:
    run(plan).raise_for_violation()


def test_without_hypothesis_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['hypothesis'] = None; import bftkit.sim.strategies"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 1
    assert "install bftkit with its extra: bftkit[test]" in told.stderr.splitlines()[-1]
