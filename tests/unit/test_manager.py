"""The configuration manager: whatever is needed is given, or refused by the need that stands in the way.

What is checked here is computed here, from a table of the four protocols and the formulas of the papers, and not with
the manager's own code.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any, Final

import attrs
import pytest

from bftkit.configuration.fitting import shortfalls
from bftkit.configuration.manager import (
    STALL_MS,
    Choice,
    Refusal,
    choose,
    parameters_for,
    present_needs,
    wish_for,
)
from bftkit.configuration.needs import check_policy
from bftkit.configuration.policy import Mode, Policy
from bftkit.configuration.qos import CONSISTENCIES, DELIVERIES, DURABILITIES, NETWORKS, ORDERS, QoS
from bftkit.configuration.shelf import UnknownPolicy
from bftkit.configuration.text import ConfigurationError
from bftkit.core.ordering import FAULT_NAMES, Parameter, ProtocolRecord
from bftkit.core.plugin import load_protocol
from tests.policies import all_signed
from tests.unit.test_wishes import Group, group

OURS: Final = ("cks", "coordinator", "paxos", "pbft")
RECORDS: Final = tuple(load_protocol(name).record for name in OURS)


@attrs.frozen
class Known:
    """What the papers say of a protocol."""

    liars: bool
    timing: str
    steps: int
    replaces_leader: bool = True
    crash_as_lie: bool = False

    def members(self, f: int, c: int) -> int:
        return 3 * f + 3 * c + 1 if self.crash_as_lie else 3 * f + 2 * c + 1


PAPERS: Final = {
    "coordinator": Known(liars=False, timing="partial", steps=2, replaces_leader=False),
    "paxos": Known(liars=False, timing="partial", steps=2),
    "pbft": Known(liars=True, timing="partial", steps=3),
    "cks": Known(liars=True, timing="asynchronous", steps=13, crash_as_lie=True),
}
ROBUST: Final = {"synchronous": 0, "partial": 1, "asynchronous": 2}
WEAKEST: Final[dict[str, Any]] = {
    "byzantine": 0,
    "crash": 0,
    "replicas": 0,
    "order": "total",
    "delivery": "exactly-once",
    "deadline_ms": 0,
    "durability": "memory",
    "network": "synchronous",
}
"""Each need at its least."""


def fits(name: str, qos: QoS, n: int) -> bool:
    """Whether n members under this protocol have what is needed."""
    known = PAPERS[name]
    f, c = qos.byzantine, qos.crash
    return (
        (known.liars or f == 0)
        and (known.replaces_leader or f + c == 0)
        and n >= known.members(f, c)
        and ROBUST[known.timing] >= ROBUST[qos.network]
        and (qos.deadline_ms == 0 or known.steps + 1 <= qos.deadline_ms)
    )


def possible(qos: QoS, known: int) -> set[str]:
    """The protocols under which it can be had, by exactly the members that are asked for."""
    if qos.order != "total" or qos.delivery != "exactly-once" or qos.replicas > known:
        return set()
    return {name for name in PAPERS if fits(name, qos, qos.replicas or known)}


def lowered(qos: QoS, fields: tuple[str, ...]) -> QoS:
    return attrs.evolve(qos, **{name: WEAKEST[name] for name in fields})


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"m{index}" for index in range(n))


def chosen(qos: QoS, n: int, *arguments: Any, **more: Any) -> Choice:
    found = choose(qos, ids(n), RECORDS, *arguments, **more)
    assert isinstance(found, Choice), found.text
    return found


def refused(qos: QoS, n: int, *arguments: Any, **more: Any) -> Refusal:
    found = choose(qos, ids(n), RECORDS, *arguments, **more)
    assert isinstance(found, Refusal), found.summary
    return found


# ------------------------------------------------------------------------------------------------- 200 of them


def any_needs(seed: int) -> tuple[QoS, int]:
    """Needs, and how many members are known."""
    chance = random.Random(seed)
    drawn: dict[str, Any] = {
        "byzantine": chance.choice((0, 0, 0, 1, 1, 1, 1, 2, 3)),
        "crash": chance.choice((0, 0, 0, 0, 1, 1, 2, 3)),
        "replicas": chance.choice((0,) * 12 + (1, 3, 4, 5, 7, 10, 16)),
        "consistency": chance.choice(CONSISTENCIES),
        "order": chance.choice(("total",) * 24 + ORDERS),
        "delivery": chance.choice(("exactly-once",) * 24 + DELIVERIES),
        "deadline_ms": chance.choice((0,) * 8 + (1, 3, 4, 13, 14, 100, 500, 60_000)),
        "durability": chance.choice(DURABILITIES),
        "network": chance.choice(("partial", *NETWORKS)),
    }
    return QoS(**drawn), chance.choice((0, 1, 2, 3, 4, 4, 5, 6, 7, 7, 10, 13, 16))


@pytest.mark.parametrize("seed", range(200))
def test_any_needs_are_met_or_refused_by_the_one_that_cannot_be(seed: int) -> None:
    qos, known = any_needs(seed)
    policy = (None, "manual", "steady", "cheapest")[seed % 4]
    members = ids(known)
    found = choose(qos, members, RECORDS, None, policy)
    can = possible(qos, known)
    if isinstance(found, Refusal):
        assert can == set(), f"{qos} of {known}: {can} would do, and yet: {found.text}"
        assert_names_what_is_unmet(found, qos, known)
        return
    assert found.protocol in can, f"{qos} of {known}"
    assert (found.f, found.c) == (qos.byzantine, qos.crash)
    assert found.members == members[: qos.replicas or known]
    modes = [mode.protocol for mode in found.policy.modes]
    assert set(modes) <= can
    tossing = {"cks"} & {found.protocol, *modes}
    assert found.coin == bool(qos.byzantine or tossing)
    assert {one.field for one in found.because} == {field.name for field in attrs.fields(QoS)}
    assert {one.protocol: one.fits for one in found.protocols} == {name: name in can for name in PAPERS}
    check_policy(found.policy)
    assert_the_policy_fits(found, qos, can, policy)
    steps = {name: PAPERS[name].steps for name in can}
    if policy in (None, "manual", "cheapest"):
        assert steps[found.protocol] == min(steps.values())


def assert_names_what_is_unmet(found: Refusal, qos: QoS, known: int) -> None:
    """Without the named needs it could be had; and each of them is one of those that it takes."""
    named = found.fields
    assert named
    assert all(found.text.count(f"{field}: ") for field in named)
    enough = [
        set(some)
        for count in range(1, len(named) + 1)
        for some in combinations(named, count)
        if possible(lowered(qos, some), known)
    ]
    if known == 0:
        assert "0 are known" in found.text
        return
    assert enough, f"{qos} of {known} is not to be had without {named} either"
    least = [some for some in enough if not any(other < some for other in enough)]
    assert set().union(*least) == set(named), f"{qos} of {known}: {named}, and {least} would do"


def assert_the_policy_fits(found: Choice, qos: QoS, can: set[str], policy: str | None) -> None:
    modes = [mode.protocol for mode in found.policy.modes]
    if policy in (None, "manual"):
        assert modes == []
        assert found.policy.name == "manual"
    if policy == "cheapest":
        assert set(modes) == can
        steps = [PAPERS[name].steps for name in modes]
        assert steps == sorted(steps)
        assert found.protocol == modes[0]
    if policy == "steady":
        normal = {"paxos"} & can if qos.byzantine == 0 else {"pbft"} & can
        assert set(modes) == normal | ({"cks"} & can)
        assert modes == sorted(modes, key=lambda name: name == "cks")
        assert not modes or found.protocol == modes[0]
    n, f, c = len(found.members), qos.byzantine, qos.crash
    by_force = len(modes) > 1 and f + c > 0 and (f == 0 or n >= 3 * (f + c) + 1)
    assert found.policy.forced == (len(modes) if by_force else 0)
    assert found.policy.stall_ms == (STALL_MS if by_force else 0)


def test_of_the_200_some_are_met_and_some_are_refused_by_each_need() -> None:
    """Without this the test above could pass by seeing one kind only."""
    met, named = 0, set[str]()
    for seed in range(200):
        qos, known = any_needs(seed)
        found = choose(qos, ids(known), RECORDS)
        met += isinstance(found, Choice)
        named |= set(found.fields) if isinstance(found, Refusal) else set()
    assert 50 <= met <= 150
    assert named == {"byzantine", "crash", "replicas", "order", "delivery", "deadline_ms", "network"}


# ------------------------------------------------------------------------------------------------- each field


@pytest.mark.parametrize(
    ("qos", "n", "protocol"),
    [
        (QoS(), 4, "pbft"),
        (QoS(byzantine=0), 4, "coordinator"),
        (QoS(byzantine=0, crash=1), 3, "paxos"),
        (QoS(byzantine=1, crash=1), 6, "pbft"),
        (QoS(network="asynchronous"), 4, "cks"),
        (QoS(byzantine=0, crash=1, network="asynchronous"), 4, "cks"),
        (QoS(network="synchronous"), 4, "pbft"),
        (QoS(deadline_ms=4), 4, "pbft"),
        (QoS(durability="memory"), 7, "pbft"),
    ],
)
def test_what_is_chosen(qos: QoS, n: int, protocol: str) -> None:
    assert chosen(qos, n).protocol == protocol


@pytest.mark.parametrize(
    ("qos", "n", "fields", "text"),
    [
        (QoS(byzantine=2), 5, ("byzantine",), "2 Byzantine faults need 7 members; 5 are known"),
        (QoS(byzantine=0, crash=2), 4, ("crash",), "2 crash faults need 5 members; 4 are known"),
        (QoS(byzantine=1, crash=1), 5, ("crash",), "1 Byzantine and 1 crash faults need 6 members; 5 are known"),
        (QoS(replicas=7), 5, ("replicas",), "7 members are asked for, and 5 are known"),
        (QoS(replicas=3), 5, ("replicas",), "1 Byzantine fault needs 4 members; 3 are asked for, and 5 are known"),
        (QoS(deadline_ms=3), 4, ("deadline_ms",), "4 ms at 1 ms each, and the deadline is 3 ms"),
        (QoS(network="asynchronous", deadline_ms=13), 4, ("deadline_ms", "network"), "14 message delays"),
        (QoS(byzantine=0), 0, ("replicas",), "a group needs a member, and 0 are known"),
        (QoS(order="causal"), 4, ("order",), 'ask for order = "total"'),
        (QoS(delivery="at-least-once"), 4, ("delivery",), 'ask for delivery = "exactly-once"'),
        (
            QoS(byzantine=0, crash=1, network="asynchronous"),
            3,
            ("crash", "network"),
            "1 crash fault needs 4 members under cks, for which a crash costs as much as a lie; 3 are known",
        ),
    ],
)
def test_what_is_refused_and_why(qos: QoS, n: int, fields: tuple[str, ...], text: str) -> None:
    found = refused(qos, n)
    assert set(found.fields) == set(fields)
    assert text in found.text


def test_every_unmet_need_is_told_and_not_the_first_alone() -> None:
    found = refused(QoS(byzantine=3, order="none", delivery="best-effort", replicas=12), 5)
    assert set(found.fields) == {"byzantine", "order", "delivery", "replicas"}


def test_values_that_do_not_exist_are_a_mistake_and_no_refusal() -> None:
    with pytest.raises(ConfigurationError, match=r"qos\.network"):
        choose(QoS(network="fast"), ids(4), RECORDS)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownPolicy, match="did you mean 'steady'"):
        choose(QoS(), ids(4), RECORDS, None, "stedy")


def test_without_any_protocol_there_is_nothing_to_choose() -> None:
    found = choose(QoS(), ids(4), ())
    assert isinstance(found, Refusal)
    assert "no protocol is installed" in found.text


def test_the_words_name_the_others_and_what_they_would_cost() -> None:
    told = {one.protocol: one.text for one in chosen(QoS(), 4).protocols}
    assert told["pbft"].startswith("partial synchrony is enough, 3 steps")
    assert told["cks"] == "would need no timing assumption but 10 steps more"
    assert told["paxos"] == "paxos survives crashes only, and 1 member may lie"


def test_a_deadline_makes_members_less_patient_with_a_leader() -> None:
    assert dict(chosen(QoS(deadline_ms=500), 4).parameters) == {"view_timeout": 250}
    assert dict(chosen(QoS(deadline_ms=20), 4).parameters) == {"view_timeout": 100}, "no less than 100 ms"
    assert dict(chosen(QoS(deadline_ms=10_000), 4).parameters) == {}, "never more than by default"
    assert dict(chosen(QoS(byzantine=0, crash=1, deadline_ms=500), 3).parameters) == {"patience": 6}
    assert dict(chosen(QoS(network="asynchronous", deadline_ms=500), 4).parameters) == {}


# ------------------------------------------------------------------------------------------------- third parties'


def third(name: str = "hare", **more: Any) -> ProtocolRecord:
    fields: dict[str, Any] = {
        "title": "A third party's",
        "paper": "none",
        "byzantine": True,
        "timing": "asynchronous",
        "steps": 2,
        "messages": "n",
        "survives": frozenset(FAULT_NAMES),
        "when": "always",
    } | more
    return ProtocolRecord(name=name, **fields)


def test_a_third_partys_protocol_is_judged_by_its_record_alone() -> None:
    found = choose(QoS(), ids(4), (*RECORDS, third()), None, "steady")
    assert isinstance(found, Choice)
    assert [mode.protocol for mode in found.policy.modes] == ["pbft", "hare"], "the least one without timing is robust"
    alone = choose(QoS(), ids(4), (*RECORDS, third()))
    assert isinstance(alone, Choice)
    assert alone.protocol == "hare"


@pytest.mark.parametrize(
    ("qos", "record", "field"),
    [
        (QoS(), third(survives=frozenset(FAULT_NAMES) - {"liar"}), "byzantine"),
        (QoS(), third(survives=frozenset(FAULT_NAMES) - {"leader-crash"}), "byzantine"),
        (QoS(byzantine=0, crash=1), third(survives=frozenset(FAULT_NAMES) - {"follower-crash"}), "crash"),
        (QoS(), third(survives=frozenset(FAULT_NAMES) - {"power-cut"}), "durability"),
        (QoS(), third(survives=frozenset(FAULT_NAMES) - {"loss"}), "network"),
        (QoS(), third(timing="synchronous"), "network"),
        (QoS(deadline_ms=50), third(steps=50), "deadline_ms"),
    ],
)
def test_what_its_record_does_not_claim_it_is_not_trusted_with(qos: QoS, record: ProtocolRecord, field: str) -> None:
    found = choose(qos, ids(4), (record,))
    assert isinstance(found, Refusal)
    assert found.fields == (field,)
    assert isinstance(choose(lowered(qos, (field,)), ids(4), (record,)), Choice)


def test_more_protocols_than_a_policy_may_list_are_left_out_and_named() -> None:
    many = [third(f"hare{index}", steps=2 + index) for index in range(10)]
    found = choose(QoS(), ids(4), many, None, "cheapest")
    assert isinstance(found, Choice)
    assert [mode.protocol for mode in found.policy.modes] == [*(f"hare{index}" for index in range(7)), "hare9"]
    assert "hare7, hare8 left out" in found.notes[0]


# ------------------------------------------------------------------------------------------------- policies


def test_a_mode_that_cannot_bear_the_faults_is_left_out_with_the_numbers() -> None:
    found = chosen(QoS(crash=1), 6, None, "steady")
    assert [mode.protocol for mode in found.policy.modes] == ["pbft"]
    assert "need 7 members under cks" in found.notes[0]
    assert found.policy.forced == 0
    assert [mode.protocol for mode in chosen(QoS(crash=1), 7, None, "steady").policy.modes] == ["pbft", "cks"]


def test_without_any_fault_to_survive_nothing_is_left_by_force() -> None:
    found = chosen(QoS(byzantine=0), 4, None, "steady")
    assert (found.protocol, found.policy.forced, found.policy.stall_ms) == ("paxos", 0, 0)
    assert "With f = c = 0 no protocol is left by force" in found.notes[0]


def test_a_crash_group_that_may_toss_coins_has_a_coin_key() -> None:
    assert chosen(QoS(byzantine=0, crash=1), 4, None, "steady").coin
    assert not chosen(QoS(byzantine=0, crash=1), 4).coin


def test_a_policys_parameters_are_checked() -> None:
    found = chosen(QoS(), 4, None, "steady", parameters={"period_ms": 500})
    assert found.policy == all_signed(attrs.evolve(found.policy, parameters={"period_ms": 500}))
    with pytest.raises(ConfigurationError, match="did you mean 'period_ms'"):
        chosen(QoS(), 4, None, "steady", parameters={"period": 500})


# ------------------------------------------------------------------------------------------------- a group that exists


def of(protocol: str, n: int = 4, f: int = 1, c: int = 0, **more: Any) -> Group:
    made = group(protocol, n, f, c)
    return attrs.evolve(made, here=attrs.evolve(made.here, **more))


def again(made: Group, qos: QoS, policy: str | None = None) -> Choice:
    found = choose(qos, made.here.members, RECORDS, made.here, policy)
    assert isinstance(found, Choice), found.text
    return found


def test_what_was_chosen_passes_the_checks_of_an_operators_command() -> None:
    made = of("pbft", 7, 2)
    found = again(made, QoS(byzantine=1, deadline_ms=500, replicas=4), "steady")
    prospect = made.foresee(**attrs.asdict(wish_for(found, made.here), recurse=False))
    change = prospect.change
    assert (change.protocol, change.f, change.c, change.coin) == ("pbft", 1, 0, True)
    assert [seat.id for seat in change.members] == ["m0", "m1", "m2", "m3"]
    assert dict(change.parameters) == {"view_timeout": 250}
    assert change.qos == found.qos
    assert change.policy == all_signed(
        Policy("steady", (Mode("pbft", {"view_timeout": 250}), Mode("cks")), 2, STALL_MS)
    )
    assert change.policy is not None
    assert change.policy.mode_of(change.protocol, change.parameters) == 0
    assert "pbft on 4 members" in prospect.command.reason


def test_what_an_operator_set_stays_and_what_a_deadline_set_does_not() -> None:
    pbft = load_protocol("pbft").record
    by_hand = of("pbft", parameters={"view_timeout": 700, "pipeline_depth": 4}).here
    assert parameters_for(pbft, QoS(), by_hand) == {"view_timeout": 700, "pipeline_depth": 4}
    by_deadline = of("pbft", parameters={"view_timeout": 250, "pipeline_depth": 4}, qos=QoS(deadline_ms=500)).here
    assert parameters_for(pbft, QoS(), by_deadline) == {"view_timeout": 1000, "pipeline_depth": 4}
    assert parameters_for(pbft, QoS(deadline_ms=600), by_deadline) == {"view_timeout": 300, "pipeline_depth": 4}


def test_the_protocol_that_runs_is_kept_if_it_costs_no_more() -> None:
    made = of("paxos", 3, 0, 0)
    assert again(made, QoS(byzantine=0)).protocol == "paxos"
    assert chosen(QoS(byzantine=0), 3).protocol == "coordinator"


def test_new_needs_do_not_undo_what_a_policy_has_changed_to() -> None:
    steady = Policy("steady", (Mode("pbft"), Mode("cks")), 2, 7000, {"slow_ms": 99})
    made = of("cks", policy=steady, qos=QoS())
    found = again(made, QoS(deadline_ms=500))
    assert found.protocol == "cks"
    assert "the policy steady has chosen it" in found.protocols[0].text
    assert found.policy == all_signed(
        Policy("steady", (Mode("pbft", {"view_timeout": 250}), Mode("cks")), 2, 7000, {"slow_ms": 99})
    )
    assert again(made, QoS(deadline_ms=500), "manual").protocol == "pbft"


def test_the_needs_of_a_group_that_states_none_are_what_it_gives() -> None:
    here = of("pbft", 7, 1, 1).here
    assert present_needs(here, "async") == QoS(byzantine=1, crash=1, durability="async")
    assert present_needs(of("pbft", qos=QoS(replicas=4)).here, "async") == QoS(replicas=4)


def test_a_group_under_cks_that_never_said_its_needs_must_name_the_network_for_a_policy() -> None:
    """As docs/guide/qos.md says."""
    here = of("cks", 4, 1, 0).here
    needs = attrs.evolve(present_needs(here, "fsync", load_protocol("cks").record.timing), deadline_ms=500)
    for network, modes in ((needs.network, ["cks"]), ("partial", ["pbft", "cks"])):
        found = choose(attrs.evolve(needs, network=network), here.members, RECORDS, here, "steady")
        assert isinstance(found, Choice)
        assert found.policy is not None
        assert [mode.protocol for mode in found.policy.modes] == modes


def test_no_policy_is_named_where_none_was_and_none_is_wanted() -> None:
    made = of("pbft")
    assert wish_for(again(made, QoS()), made.here).policy is None
    steered = of("pbft", policy=Policy("steady", (Mode("pbft"), Mode("cks")), 2, 7000))
    assert wish_for(again(steered, QoS(), "manual"), steered.here).policy == Policy("manual")


def test_of_the_shortfalls_none_are_left_out() -> None:
    record = third(byzantine=False, timing="synchronous", steps=9, survives=frozenset[str]())
    found = shortfalls(record, QoS(byzantine=1, crash=1, deadline_ms=5), 2, 2)
    assert [one.field for one in found] == ["network", "byzantine", "crash", "crash", "durability", "deadline_ms"]


def test_parameters_are_known_by_their_names_in_any_record() -> None:
    record = third(parameters={"view_timeout": Parameter(2000, 300, 9000, "ticks")})
    assert parameters_for(record, QoS(deadline_ms=500)) == {"view_timeout": 300}


@pytest.mark.parametrize(("byzantine", "crash", "borne"), [(1, 0, 1), (0, 1, 1), (1, 1, 2), (0, 0, 0)])
def test_no_more_members_without_a_disk_than_may_fail(byzantine: int, crash: int, borne: int) -> None:
    """A change is carried out by n - f - c members that are ready; who keeps no log is not ready for a stricter one."""
    members = tuple(f"m{index}" for index in range(7))
    qos = QoS(byzantine=byzantine, crash=crash)
    found = choose(qos, members, RECORDS, without_disk=members[:borne])
    assert isinstance(found, Choice)
    refused = choose(qos, members, RECORDS, without_disk=members[: borne + 1])
    assert isinstance(refused, Refusal)
    assert refused.fields == ("durability",)
    assert f"needs {7 - borne} of 7 members that keep a log" in refused.text
    in_memory = choose(attrs.evolve(qos, durability="memory"), members, RECORDS, without_disk=members)
    assert isinstance(in_memory, Choice)
    assert isinstance(choose(attrs.evolve(qos, replicas=6), members, RECORDS, without_disk=members[6:]), Choice)
