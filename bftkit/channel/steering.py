"""Steering: how the group's policy decides, from ordered reports, when another protocol would serve it better.

What the members measured (`measuring`) is ordered like requests. Each member's newest report is part of the replicated
state; once every `period_ms` of *agreed* time, at the slot that crosses into the next period, the *conditions* are
made from those that are not older than `REPORT_PERIODS` periods: field by field the lower median, if there are
n - f - c of them or more. So f liars cannot move one beyond what honest members reported. The policy's algorithm judges
the conditions, and says which mode it would rather have.

One wish is none. A more robust mode must be wished for `patience` times in a row (half as often right after a return
from it, which is a trial), a less robust one `calm` times, and twice as often after each *relapse*: a return to the
less robust mode that did not last, up to `RELAPSES_MAX` times. After each change, and after
one was taken back, `cooldown` judgements count for nothing. What is decided then becomes the pending command
of the epoch, as an ordered one would (`reconfiguring`), and is carried out like it. Operators may take it back; and
members do if not enough of them are ready in `PREPARED_MS`.

Everything here is a function of what was executed, the same at every member: of the slot, the agreed time, the reports
and the algorithm, which all members must have (`Keychain.why_not` refuses a policy that is not on the shelf). An
algorithm that raises wishes for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from bftkit.configuration.policy import (
    COMMON_PARAMETERS,
    MEASUREMENT_CODEC,
    REASON_MAX,
    Measurement,
    Outlook,
    Policy,
    PolicyAlgorithm,
    Wish,
)
from bftkit.configuration.shelf import BrokenPolicy, UnknownPolicy, check_parameters, filled, load_policy
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import MemberId, Slot
from bftkit.core.wire import WireError, pack_plain, unpack_plain
from bftkit.membership.commands import POLICY, STALLED, Command
from bftkit.membership.epochs import Configuration
from bftkit.membership.steering import stall_ms

REPORT_PERIODS: Final = 3
"""A report counts for so many periods after it was executed."""
DECISIONS_MAX: Final = 32
"""So many decisions are remembered; the chain of hand-overs has all of them."""
RELAPSES_MAX: Final = 2
"""The longest wait for a less robust mode is `calm` times two to the power of this. Nothing but a try can tell that the
trouble is over. With the defaults that is 12 s: as long as it lasts, tries then cost less than a tenth of the service
(docs/BENCHMARKS.md), and longer waits would cost more once it is over."""
LASTING: Final = 4
"""A return to a less robust mode lasts if it was not undone within `calm` times so many judgements. Each such stretch
takes one relapse back."""

PREPARED_MS: Final = 300_000
"""A decision for which not enough members are ready after so long (agreed time) is given up: some lack the protocol, or
the keys. It would stand in the way of operators' commands, and of better decisions, for ever."""

OFTEN: Final = 30
"""After so many decisions within `OFTEN_MS` the policy goes back to no less robust mode. Whoever behaves until a return
and then makes trouble, again and again, would use up the epochs that members have keys for within an hour."""
OFTEN_MS: Final = 6 * 3_600_000

Algorithms = Callable[[str], PolicyAlgorithm]
"""An algorithm by its name; raises whatever it likes if there is none."""


@attrs.frozen
class Reported:
    """A member's newest report that was executed."""

    counter: int
    time_ms: int
    """When, in agreed time."""
    measurement: Measurement


@attrs.frozen
class Decision:
    """What the policy decided, and why."""

    epoch: int
    """The epoch that it was to end."""
    slot: Slot
    """Where it was decided; of a change by force, the epoch's last slot."""
    time_ms: int
    """Agreed time."""
    before: str
    after: str
    """Protocols."""
    reason: str
    forced: bool = False

    def told(self) -> dict[str, Any]:
        """JSON-ready."""
        plain = attrs.asdict(self)
        plain["from"], plain["to"] = plain.pop("before"), plain.pop("after")
        return plain


def setting(policy: Policy, name: str) -> int:
    """One of the parameters that every policy has, within its bounds."""
    parameter = COMMON_PARAMETERS[name]
    return min(max(policy.parameters.get(name, parameter.default), parameter.minimum), parameter.maximum)


def conditions_of(reports: Sequence[Measurement]) -> Measurement:
    """Field by field the lower median of these, at least one.

    Of k >= 2f + 1 values the lower median has f below it at least, and f above: so it lies between the least and the
    greatest that honest members reported.
    """
    middle = (len(reports) - 1) // 2
    fields = (field.name for field in attrs.fields(Measurement))
    return Measurement(**{name: sorted(getattr(report, name) for report in reports)[middle] for name in fields})


def plain_words(text: str) -> str:
    """A reason as it is kept: one line of bounded length that can be written as UTF-8."""
    line = "".join(" " if ord(letter) < 32 or ord(letter) == 127 else letter for letter in text[:REASON_MAX])
    return line.encode("utf-8", "replace").decode()


@attrs.define(eq=False)
class Steering:
    """The part of the replicated state that is about the policy of the present epoch."""

    algorithms: Algorithms = attrs.field(repr=False)
    reports: dict[MemberId, Reported] = attrs.field(factory=dict[MemberId, Reported])
    period: int = 0
    """Which period of agreed time was judged last, counted from 1970; 0: none in this epoch."""
    resting: int = 0
    """So many judgements still count for nothing."""
    direction: int = 0
    """1: the latest judgements wished for a more robust mode, -1: for a less robust one."""
    streak: int = 0
    """How many of them, in a row."""
    relapses: int = 0
    since: int = -1
    """Judgements since the last return to a less robust mode; -1: there was none since."""
    conditions: Measurement | None = None
    wish: Wish | None = None
    trouble: str = ""
    """Why there was no wish, or why it could not be carried out."""
    decisions: list[Decision] = attrs.field(factory=list[Decision])

    # ------------------------------------------------------------------------------------------ executing

    def on_report(self, member: MemberId, counter: int, payload: bytes, now_ms: int) -> None:
        """An ordered report. One that is no news is nothing; its form was judged with its batch (SAFETY rule 4)."""
        known = self.reports.get(member)
        if known is not None and known.counter >= counter:
            return
        try:
            measurement = MEASUREMENT_CODEC.decode(payload)
        except WireError:
            return
        self.reports[member] = Reported(counter, now_ms, measurement)

    def look(self, here: Configuration, now_ms: int, *, pending: bool) -> Wish | None:
        """A slot was executed at this agreed time: the mode to change to, if that is decided now.

        `pending`: whether another change is under way.
        """
        policy = here.policy
        assert policy is not None
        period = now_ms // setting(policy, "period_ms")
        before, self.period = self.period, period
        if period == before or before == 0:
            return None
        wish = self._judge(here, policy, now_ms, pending=pending)
        if wish is None:
            self.direction = self.streak = 0
            return None
        return self._weigh(here, policy, wish)

    def _judge(self, here: Configuration, policy: Policy, now_ms: int, *, pending: bool) -> Wish | None:
        """The algorithm's wish, if it counts now."""
        if self.since >= 0:
            self.since += 1
            if self.relapses and self.since % self._lasting(policy) == 0:
                self.relapses -= 1
        oldest = now_ms - REPORT_PERIODS * setting(policy, "period_ms")
        fresh = [one.measurement for _, one in sorted(self.reports.items()) if one.time_ms >= oldest]
        self.conditions, self.wish, self.trouble = None, None, ""
        needed = here.quorum.available
        if len(fresh) < needed:
            self.trouble = f"{len(fresh)} members' reports are fresh, and {needed} must be"
        else:
            self.conditions = conditions_of(fresh)
        if self.resting:
            self.resting -= 1
            return None
        mode = policy.mode_of(here.protocol, here.parameters)
        if self.conditions is None or pending or mode is None:
            return None
        self.wish = self._ask(here, policy, self.conditions, mode)
        return self.wish

    def _ask(self, here: Configuration, policy: Policy, conditions: Measurement, mode: int) -> Wish | None:
        from bftkit.channel.state import error_text  # it executes what this is a part of

        try:
            algorithm = self.algorithms(policy.name)
        except Exception:  # its text would tell which packages there are here, and belongs in no state
            self.trouble = f"the policy {policy.name} is not on the shelf"
            return None
        try:
            parameters = filled(algorithm.record, policy)
            wish = algorithm.judge(Outlook(conditions, mode, policy.modes, parameters, here.qos))
            if not 0 <= wish.mode < len(policy.modes):
                raise ValueError(f"it wishes for mode {wish.mode} of {len(policy.modes)}")
            return Wish(int(wish.mode), plain_words(wish.reason))
        except MemoryError:
            raise
        except Exception as error:  # a third party's code (SAFETY rule 29)
            self.trouble = plain_words(f"the policy {policy.name} cannot judge: {error_text(error).decode()}")
            return None

    def _weigh(self, here: Configuration, policy: Policy, wish: Wish) -> Wish | None:
        """Whether it was wished for often enough in a row."""
        mode = policy.mode_of(here.protocol, here.parameters)
        assert mode is not None
        direction = (wish.mode > mode) - (wish.mode < mode)
        self.streak = self.streak + 1 if direction == self.direction and direction else abs(direction)
        self.direction = direction
        if direction == 0 or self.streak < self.needed(policy, direction):
            return None
        self.direction = self.streak = 0
        return wish

    def needed(self, policy: Policy, direction: int) -> int:
        """How often in a row a mode of this direction must be wished for."""
        patience, calm = setting(policy, "patience"), setting(policy, "calm")
        if direction < 0:
            return calm << self.relapses
        on_trial = 0 <= self.since <= setting(policy, "cooldown") + calm
        return (patience + 1) // 2 if on_trial else patience

    @staticmethod
    def _lasting(policy: Policy) -> int:
        return LASTING * setting(policy, "calm")

    # ------------------------------------------------------------------------------------------ what is decided

    def decided(self, here: Configuration, wish: Wish, slot: Slot, now_ms: int) -> None:
        """The change to this mode is under way."""
        assert here.policy is not None
        after = here.policy.modes[wish.mode].protocol
        self._remember(Decision(here.epoch, slot, now_ms, here.protocol, after, wish.reason))

    def not_possible(self, here: Configuration, text: str) -> None:
        """What was decided cannot be carried out."""
        self.trouble = plain_words(text)
        self._rest(here)

    def is_restless(self, now_ms: int) -> bool:
        """Whether there were so many decisions of late that the group had better stay with what is robust."""
        return sum(now_ms - one.time_ms < OFTEN_MS for one in self.decisions) >= OFTEN

    def is_overdue(self, now_ms: int) -> bool:
        """Whether what was decided last, and is pending, should have been carried out long since."""
        return bool(self.decisions) and now_ms - self.decisions[-1].time_ms >= PREPARED_MS

    def taken_back(self, here: Configuration, text: str) -> None:
        """Operators have cancelled what was decided, or it was given up; the text says which."""
        self._undone(text)
        self._rest(here)

    def _rest(self, here: Configuration) -> None:
        if here.policy is not None:
            self.resting = setting(here.policy, "cooldown")
        self.direction = self.streak = 0

    def _undone(self, text: str) -> None:
        if self.decisions:
            last = self.decisions[-1]
            self.decisions[-1] = attrs.evolve(last, reason=f"{last.reason[: REASON_MAX - len(text) - 3]} ({text})")

    def _remember(self, decision: Decision) -> None:
        self.decisions = [*self.decisions, decision][-DECISIONS_MAX:]

    def enter(self, before: Configuration, there: Configuration, command: Command, slot: Slot, now_ms: int) -> None:
        """The next epoch begins, by this command; `slot` was the last one of the epoch before.

        Reports are about the protocol before. What is known of relapses stays, unless operators begin anew.
        """
        self.reports = {}
        self.period = self.resting = 0
        self.conditions, self.wish, self.trouble = None, None, ""
        if there.policy is None:
            self.decisions = []
            self.relapses, self.since = 0, -1
            return
        last = self.decisions[-1] if self.decisions else None
        if last is not None and last.epoch == before.epoch and command.kind != POLICY and before.policy is not None:
            self._undone("the epoch ended otherwise")
        self._rest(there)
        if not command.by_policy:
            self.relapses, self.since = 0, -1
            return
        if command.kind == STALLED:
            protocols = (before.protocol, there.protocol)
            self._remember(Decision(before.epoch, slot, now_ms, *protocols, plain_words(command.reason), True))
        self._count_relapse(before, there, there.policy)

    def _count_relapse(self, before: Configuration, there: Configuration, policy: Policy) -> None:
        was, now = (policy.mode_of(one.protocol, one.parameters) for one in (before, there))
        if was is None or now is None:
            return
        if now < was:
            self.since = 0
        elif now > was:
            if 0 <= self.since < self._lasting(policy):
                self.relapses = min(self.relapses + 1, RELAPSES_MAX)
            self.since = -1

    # ------------------------------------------------------------------------------------------ checkpoints

    def chunk(self) -> bytes:
        """This part of the state."""
        reports = [
            [member, one.counter, one.time_ms, MEASUREMENT_CODEC.encode(one.measurement)]
            for member, one in sorted(self.reports.items())
        ]
        conditions = b"" if self.conditions is None else MEASUREMENT_CODEC.encode(self.conditions)
        wish = None if self.wish is None else [self.wish.mode, self.wish.reason]
        numbers = [self.period, self.resting, self.direction, self.streak, self.relapses, self.since]
        decisions = [list(attrs.astuple(one)) for one in self.decisions]
        return pack_plain([reports, numbers, conditions, wish, self.trouble, decisions])

    def load(self, chunk: bytes) -> None:
        """Take over what this chunk of a certified state describes."""
        plain: Any = unpack_plain(chunk)
        reports, numbers, conditions, wish, self.trouble, decisions = plain
        self.reports = {
            member: Reported(counter, time_ms, MEASUREMENT_CODEC.decode(packed))
            for member, counter, time_ms, packed in reports
        }
        self.period, self.resting, self.direction, self.streak, self.relapses, self.since = numbers
        self.conditions = MEASUREMENT_CODEC.decode(conditions) if conditions else None
        self.wish = Wish(*wish) if wish is not None else None
        self.decisions = [Decision(*one) for one in decisions]

    def clear(self) -> None:
        """A state without a policy is taken over."""
        fresh = Steering(self.algorithms)
        for field in attrs.fields(Steering):
            setattr(self, field.name, getattr(fresh, field.name))

    # ------------------------------------------------------------------------------------------ for people

    def waits(self, here: Configuration, *, pending: bool) -> str:
        """What the policy waits for, in words."""
        policy = here.policy
        if policy is None or not policy.modes:
            return "it has no modes, so it never changes anything"
        if policy.mode_of(here.protocol, here.parameters) is None:
            return f"{here.protocol} with these parameters is none of its modes: it rests until operators change that"
        if pending:
            return "a change is under way"
        if self.resting:
            return f"cooldown: {self.resting} more judgements count for nothing" + self._besides()
        if self.trouble:
            return self.trouble
        if self.wish is None:
            return "nothing that counts was judged in this epoch yet"
        if self.direction:
            wanted, needed = policy.modes[self.wish.mode].protocol, self.needed(policy, self.direction)
            return f"{wanted} was wished for {self.streak} times in a row, and must be {needed} times"
        return "nothing speaks for a change"

    def _besides(self) -> str:
        return f"; {self.trouble}" if self.trouble else ""

    def status(self, here: Configuration, *, pending: bool) -> dict[str, Any] | None:
        """For the member's status; None without a policy."""
        policy = here.policy
        if policy is None:
            return None
        return {
            "name": policy.name,
            "mode": policy.mode_of(here.protocol, here.parameters),
            "modes": [mode.protocol for mode in policy.modes],
            "conditions": None if self.conditions is None else attrs.asdict(self.conditions),
            "wish": None if self.wish is None else attrs.asdict(self.wish),
            "streak": self.streak,
            "relapses": self.relapses,
            "waits": self.waits(here, pending=pending),
            "stall_ms": stall_ms(here),
            "decisions": [one.told() for one in self.decisions],
        }


def why_no_algorithm(there: Configuration) -> str | None:
    """Why this member cannot judge what the others judge in this epoch, if so: its state would become another."""
    policy = there.policy
    if policy is None:
        return None
    try:
        check_parameters(load_policy(policy.name).record, policy)
    except (UnknownPolicy, BrokenPolicy, ConfigurationError) as error:
        return str(error)
    return None


def why_no_policy(there: Configuration, why_not: Callable[[Configuration], str | None]) -> str | None:
    """Why a member could not follow the configuration's policy, if so.

    All members must come to the same: so the policy is on each one's shelf, and has these parameters. `why_not` says
    why a member could not run a protocol: every mode must be one that it can.
    """
    policy = there.policy
    if policy is None:
        return None
    reason = why_no_algorithm(there)
    if reason is not None:
        return reason
    for mode in policy.modes:
        reason = why_not(attrs.evolve(there, protocol=mode.protocol, parameters=dict(mode.parameters)))
        if reason is not None:
            return f"policy {policy.name}: {reason}"
    return None
