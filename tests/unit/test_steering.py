"""What a policy decides: from fresh reports of enough members, after enough wishes in a row, and never besides."""

from __future__ import annotations

from typing import NoReturn

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftkit.channel.reconfiguring import Judges, Reconfiguring
from bftkit.channel.steering import (
    DECISIONS_MAX,
    OFTEN,
    OFTEN_MS,
    PREPARED_MS,
    RELAPSES_MAX,
    Steering,
    conditions_of,
    plain_words,
)
from bftkit.configuration.policy import (
    MEASUREMENT_CODEC,
    Measurement,
    Mode,
    Outlook,
    Policy,
    PolicyAlgorithm,
    PolicyRecord,
    Wish,
)
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import Quorum
from bftkit.crypto.keys import verify_signature
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Place
from bftkit.membership.commands import CANCEL, PLANNED, STALLED, Command, SignedCommand, sign_command
from bftkit.membership.epochs import Configuration
from bftkit.membership.steering import leaving, stalled_body, steered
from bftkit.sim.epochs import founding, operator_key, schedule_of

GROUP = bytes(range(32))
NAMES = ("m0", "m1", "m2", "m3")
START = 1_700_000_000_000
POLICY = Policy(
    "told",
    (Mode("pbft"), Mode("cks")),
    forced=2,
    stall_ms=1000,
    parameters={"period_ms": 100, "patience": 2, "calm": 3, "cooldown": 2},
)


RECORD = PolicyRecord("told", "Does what it is told", "In tests.")


@attrs.frozen
class Told:
    """Wishes for the mode that `executed` in the conditions says."""

    record: PolicyRecord = RECORD

    def judge(self, outlook: Outlook) -> Wish:
        return Wish(outlook.conditions.executed, f"told to go to {outlook.conditions.executed}")


@attrs.frozen
class Broken(Told):
    """Its code has a bug."""

    def judge(self, outlook: Outlook) -> NoReturn:
        raise KeyError(f"at {object()!r}")


def no_keyring(configuration: Configuration, name: bytes) -> NoReturn:
    raise AssertionError("nothing is prepared here")


class Stage:
    """The replicated state of one member, slot by slot."""

    def __init__(self, policy: Policy = POLICY, algorithm: PolicyAlgorithm | None = None, timeout: int = 0) -> None:
        record = load_protocol("pbft").record
        here = founding(record, NAMES, Quorum(4, 1, 0), {}, 8, 32, policy=policy)
        if timeout:
            here = attrs.evolve(here, parameters={"view_timeout": timeout})
        self.algorithm: PolicyAlgorithm = algorithm or Told()
        judges = Judges(verify_signature, no_keyring, self.load)
        self.state = Reconfiguring(GROUP, Place(here, GROUP), schedule_of(NAMES), judges)
        self.now = START
        self.slot = 0
        self.counter = 0

    def load(self, name: str) -> PolicyAlgorithm:
        if name != "told":
            raise LookupError(name)
        return self.algorithm

    @property
    def steering(self) -> Steering:
        return self.state.steering

    def told(self) -> dict[str, object]:
        status = self.steering.status(self.state.configuration, pending=self.state.pending is not None)
        assert status is not None
        return status

    def report(self, executed: int, *members: str) -> None:
        self.counter += 1
        payload = MEASUREMENT_CODEC.encode(Measurement(executed=executed))
        for member in members or NAMES:
            self.state.on_report(member, self.counter, payload, self.now)

    def step(self, executed: int | None = None, times: int = 1, ms: int = 100) -> None:
        """A slot in the next period, with reports that ask for a mode."""
        for _ in range(times):
            self.now += ms
            self.slot += 1
            if executed is not None:
                self.report(executed)
            self.state.steer(self.slot, self.now)

    def enter(self, signed: SignedCommand | None = None) -> None:
        """The pending change, or this one, is carried out."""
        pending = self.state.pending
        if signed is None:
            assert pending is not None
            signed = pending.signed
        command, here = signed.command, self.state.configuration
        assert command.change is not None
        there = founding(
            load_protocol(command.change.protocol).record, NAMES, Quorum(4, 1, 0), {}, 8, 32, policy=here.policy
        )
        rosters = attrs.evolve(there.roster, epoch=0)
        place = Place(attrs.evolve(there, roster=rosters), GROUP)
        self.state.enter(place, signed, self.slot, self.now)

    def decided(self) -> bool:
        return self.state.pending is not None


def test_a_more_robust_mode_is_taken_when_it_was_wished_for_often_enough() -> None:
    stage = Stage()
    stage.step(0, times=5)
    stage.step(1)
    assert not stage.decided()
    assert "cks was wished for 1 times" in str(stage.told()["waits"])
    stage.step(1)
    pending = stage.state.pending
    assert pending is not None
    assert (pending.next.protocol, pending.slot, pending.signed.command.by_policy) == ("cks", stage.slot, True)
    assert pending.signed == steered(GROUP, stage.state.configuration, 1, stage.slot, "told to go to 1")
    (decision,) = stage.steering.decisions
    assert decision.told() == {
        "epoch": 0, "slot": stage.slot, "time_ms": stage.now, "from": "pbft", "to": "cks",
        "reason": "told to go to 1", "forced": False,
    }  # fmt: skip
    stage.step(1, times=5)
    assert len(stage.steering.decisions) == 1, "nothing is decided while a change is under way"


def test_a_wish_that_does_not_last_begins_anew() -> None:
    stage = Stage()
    stage.step(0)
    for _ in range(4):
        stage.step(1)
        stage.step(0)
    assert not stage.decided()


def test_one_period_of_agreed_time_is_judged_once_and_none_without_it() -> None:
    stage = Stage()
    stage.step(0, times=2)
    stage.step(1, times=10, ms=9)
    assert stage.steering.streak <= 1
    stage.step(1, times=10, ms=0)
    assert not stage.decided()


def test_reports_of_too_few_members_decide_nothing() -> None:
    stage = Stage()
    stage.step(0)
    for _ in range(6):
        stage.now += 100
        stage.report(1, "m0", "m1")
        stage.step()
    assert not stage.decided()
    assert stage.told()["waits"] == "2 members' reports are fresh, and 3 must be"
    assert stage.told()["conditions"] is None


def test_reports_are_forgotten_after_three_periods() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1)
    assert stage.steering.streak == 1
    stage.step(ms=400)
    assert stage.steering.streak == 0
    assert "0 members' reports" in str(stage.told()["waits"])


def test_an_older_report_changes_nothing() -> None:
    stage = Stage()
    stage.report(1)
    stage.counter -= 1
    stage.report(0)
    assert {one.measurement.executed for one in stage.steering.reports.values()} == {1}


@pytest.mark.parametrize("executed", [2, 1 << 62])
def test_an_algorithm_that_wishes_for_what_there_is_not_wishes_for_nothing(executed: int) -> None:
    stage = Stage()
    stage.step(executed, times=5)
    assert not stage.decided()
    assert "ValueError: it wishes for mode" in str(stage.told()["waits"])


def test_an_algorithm_that_raises_wishes_for_nothing_and_its_text_names_no_address() -> None:
    stage = Stage(algorithm=Broken())
    stage.step(1, times=5)
    assert not stage.decided()
    assert "KeyError" in str(stage.told()["waits"])
    assert "0x…" in str(stage.told()["waits"])


def test_an_algorithm_that_is_not_there_wishes_for_nothing() -> None:
    stage = Stage(attrs.evolve(POLICY, name="unheard-of"))
    stage.step(1, times=5)
    assert not stage.decided()
    assert stage.told()["waits"] == "the policy unheard-of is not on the shelf"


def test_under_a_protocol_of_the_operators_own_the_policy_rests() -> None:
    stage = Stage(timeout=77)
    stage.step(1, times=5)
    assert not stage.decided()
    assert "none of its modes" in str(stage.told()["waits"])
    assert stage.told()["mode"] is None


def test_the_way_back_takes_longer_each_time_that_it_did_not_last() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1, times=2)
    stage.enter()
    needed: list[int] = []
    for _ in range(RELAPSES_MAX + 2):
        stage.step(0, times=3)  # the first in an epoch is none, and two are the cooldown
        count = 0
        while not stage.decided():
            stage.step(0)
            count += 1
        needed.append(count)
        stage.enter()
        stage.step(1, times=5)
        assert stage.decided(), "up again at once"
        stage.enter()
    assert needed == [3 << min(time, RELAPSES_MAX) for time in range(RELAPSES_MAX + 2)]


def test_right_after_a_return_half_the_patience_is_enough() -> None:
    stage = Stage()
    stage.steering.since = 0
    stage.step(0)
    stage.step(1)
    assert stage.decided(), "a return is a trial"
    other = Stage()
    other.steering.since = 2 + 3  # the cooldown and `calm`
    other.step(0)
    other.step(1)
    assert not other.decided(), "the trial is over"


def test_a_return_that_lasts_takes_a_relapse_back() -> None:
    stage = Stage()
    stage.steering.relapses = 2
    stage.steering.since = 0
    stage.step(0, times=4 * 3 + 1)
    assert stage.steering.relapses == 1
    stage.step(0, times=4 * 3)
    assert stage.steering.relapses == 0


def test_judgements_after_a_change_count_for_nothing() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1, times=2)
    stage.enter()
    stage.step(0, times=3)
    assert stage.steering.streak == 0
    stage.step(0, times=2)
    assert not stage.decided()
    stage.step(0)
    assert stage.decided()


def cancelled(stage: Stage) -> None:
    command = Command(GROUP, stage.state.configuration.epoch, CANCEL, 0, False, None, bytes(16))
    stage.state.on_command(sign_command(command, operator_key(0)).encode(), stage.slot)


def test_operators_take_it_back_and_then_it_cools_down() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1, times=2)
    cancelled(stage)
    assert not stage.decided()
    assert stage.steering.decisions[-1].reason == "told to go to 1 (taken back by operators)"
    stage.step(1, times=3)
    assert not stage.decided(), "two for the cooldown, and two in a row are needed"
    stage.step(1)
    assert stage.decided()
    assert len(stage.steering.decisions) == 2


def test_a_decision_for_which_members_are_never_ready_is_given_up() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1, times=2)
    pending = stage.state.pending
    assert pending is not None
    stage.step(1, ms=PREPARED_MS - 1)
    assert stage.state.pending is pending
    stage.step(1, ms=1)
    assert not stage.decided()
    assert stage.steering.decisions[-1].reason == "told to go to 1 (given up: not enough members were ready)"
    assert stage.state.is_over(pending.signed.name), "a commit of it that comes now is nothing"
    stage.step(1, times=2)
    assert not stage.decided(), "two for the cooldown, of which one is over, and two in a row are needed"
    stage.step(1)
    assert stage.decided()


def test_the_last_epochs_that_members_have_keys_for_are_kept_from_returns() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1, times=2)
    stage.enter()
    assert stage.told()["mode"] == 1
    keys = stage.state.schedule
    stage.state.schedule = {**keys, "m2": keys["m2"][:1]}
    stage.step(0, times=6)
    assert not stage.decided()
    assert "the keys of m2 reach for 0 more epochs only" in str(stage.told()["waits"])
    stage.state.schedule = keys  # operators have rotated them
    stage.step(0, times=5)
    assert stage.decided()


def test_a_policy_that_changed_often_of_late_goes_up_and_not_back() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1, times=2)
    stage.enter()
    (decision,) = stage.steering.decisions
    stage.steering.decisions = [decision] * OFTEN
    stage.step(0, times=6)
    assert not stage.decided()
    assert f"there were {OFTEN} decisions within 6 hours" in str(stage.told()["waits"])
    stage.step(0, ms=OFTEN_MS)
    stage.step(0, times=5)
    assert stage.decided(), "that was long ago"
    stage.enter()
    stage.steering.decisions = [attrs.evolve(decision, time_ms=stage.now)] * OFTEN
    stage.step(1, times=5)
    assert stage.decided(), "for a more robust mode it is never too late"


def test_what_is_committed_is_carried_out_however_long_it_takes() -> None:
    stage = Stage()
    stage.step(0)
    stage.step(1, times=2)
    pending = stage.state.pending
    assert pending is not None
    stage.state.pending = attrs.evolve(pending, boundary=1 << 20)
    stage.step(1, ms=2 * PREPARED_MS)
    assert stage.decided()


def test_a_change_by_force_is_among_the_decisions_and_counts_as_a_relapse() -> None:
    stage = Stage()
    stage.steering.since = 1
    stage.step(0, times=3)
    stage.enter(leaving(GROUP, stage.state.configuration))
    (decision,) = stage.steering.decisions
    assert decision.forced
    assert "has stopped" in decision.reason
    assert (stage.steering.relapses, stage.steering.since) == (1, -1)


def test_what_was_decided_and_did_not_come_is_told_so_and_operators_begin_anew() -> None:
    stage = Stage()
    stage.steering.relapses = 3
    stage.step(0)
    stage.step(1, times=2)
    change = attrs.evolve(stage.state.configuration.change(), protocol="cks")
    signed = sign_command(Command(GROUP, 0, PLANNED, 0, False, change, bytes(16)), operator_key(0))
    stage.enter(signed)
    assert stage.steering.decisions[-1].reason.endswith("(the epoch ended otherwise)")
    assert stage.steering.relapses == 0


def test_so_many_decisions_are_remembered() -> None:
    stage = Stage(attrs.evolve(POLICY, parameters={**POLICY.parameters, "cooldown": 0}))
    stage.step(0)
    for _ in range(DECISIONS_MAX + 3):
        while not stage.decided():
            stage.step(1)
        cancelled(stage)
        stage.state.outcomes.clear()
    assert len(stage.steering.decisions) == DECISIONS_MAX


def test_nobody_can_order_what_only_the_policy_decides() -> None:
    stage = Stage()
    here = stage.state.configuration
    planned = steered(GROUP, here, 1, 5, "so it was decided")
    votes = {name: bytes(64) for name in NAMES}
    forced = attrs.evolve(leaving(GROUP, here), stalled=Certificate.of(stalled_body(0, 5), votes))
    for signed in (planned, planned.signed_by(operator_key(0)), forced, forced.signed_by(operator_key(0))):
        stage.state.on_command(signed.encode(), 5)
        assert stage.state.pending is None
        assert stage.state.outcomes == {}
    assert forced.command.kind == STALLED


def test_all_of_it_is_in_checkpoints() -> None:
    stage = Stage()
    asked = [0, 0, 1, 0, 1, 1]
    for executed in asked:
        stage.step(executed)
        other = Stage()
        other.state.load(stage.state.chunks())
        assert other.state.chunks() == stage.state.chunks()
        assert Reconfiguring.count(stage.state.chunks()[0]) == len(stage.state.chunks())
        assert (
            attrs.evolve(other.steering, algorithms=stage.load) == attrs.evolve(stage.steering, algorithms=stage.load)
            or other.steering.chunk() == stage.steering.chunk()
        )
    assert stage.decided()


def test_a_member_that_restarts_from_a_checkpoint_decides_with_the_others() -> None:
    stage, other = Stage(), Stage()
    stage.step(0)
    stage.step(1, times=2)
    stage.enter()
    stage.step(0, times=2)
    other.state.load(stage.state.chunks())
    other.now, other.slot, other.counter = stage.now, stage.slot, stage.counter
    for _ in range(8):
        stage.step(0)
        other.step(0)
        assert other.state.chunks() == stage.state.chunks()
        if stage.decided():
            break
    assert stage.decided()


def test_without_a_policy_there_is_no_chunk_and_no_judgement() -> None:
    stage = Stage()
    record = load_protocol("pbft").record
    bare = founding(record, NAMES, Quorum(4, 1, 0), {}, 8, 32)
    state = Reconfiguring(GROUP, Place(bare, GROUP), schedule_of(NAMES), stage.state.judges)
    assert len(state.chunks()) == 1 + len(NAMES)
    state.on_report("m0", 1, MEASUREMENT_CODEC.encode(Measurement()), START)
    state.steer(1, START)
    assert state.steering.reports == {}
    stage.step(0, times=3)
    stage.state.load(state.chunks())
    assert stage.steering.chunk() == state.steering.chunk()


@given(st.text())
def test_reasons_are_one_line_that_can_be_written(text: str) -> None:
    words = plain_words(text)
    assert len(words.encode()) <= 2000
    assert not any(ord(letter) < 32 for letter in words)


FIELDS = [field.name for field in attrs.fields(Measurement)]
NUMBERS = st.integers(0, (1 << 63) - 1)
MEASUREMENTS = st.builds(Measurement, **dict.fromkeys(FIELDS, NUMBERS))


@given(st.data(), st.integers(0, 4), st.integers(0, 3))
def test_liars_move_no_condition_beyond_what_honest_members_report(data: st.DataObject, f: int, c: int) -> None:
    n = 3 * f + 2 * c + 1
    needed = Quorum(n, f, c).available
    lying = data.draw(st.lists(MEASUREMENTS, min_size=0, max_size=f))
    honest = data.draw(st.lists(MEASUREMENTS, min_size=max(1, needed - len(lying)), max_size=n - len(lying)))
    conditions = conditions_of([*lying, *honest])
    for name in FIELDS:
        told = [getattr(one, name) for one in honest]
        assert min(told) <= getattr(conditions, name) <= max(told)
