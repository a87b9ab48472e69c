"""Metrics: what Prometheus reads, that it is named as it should be, that counters only grow, and that no liar names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Final

import attrs
import httpx
import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bftkit.admin.facade import Facade
from bftkit.admin.measures import METRICS, Metric, Scrape
from bftkit.admin.metrics import OPENMETRICS_TYPE, TEXT_TYPE, MemberCollector, metrics_text
from bftkit.client.errors import OperationFailed
from bftkit.configuration.policy import Measurement
from bftkit.configuration.qos import QoS
from bftkit.node.blames import OTHERS
from bftkit.node.sync_times import BOUNDS, SyncTimes
from bftkit.service.keyvalue import put
from simulations.metrics_table import PAGE, main, page

from .admin_site import Site, served

TIMEOUT = 60.0
parse_openmetrics: Final[Callable[[str], Iterable[Family]]] = import_module(
    "prometheus_client.openmetrics.parser"
).text_string_to_metric_families
"""Which has no types of its own."""
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values_of(families: Iterable[Family]) -> Values:
    """Every sample by its name and labels; none is there twice."""
    found: Values = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def told(facade: Facade) -> Values:
    """What a member says now, as Prometheus reads it."""
    return values_of(parse_text(metrics_text(facade)[0].decode()))


def value(found: Values, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def ask(site: Site, accept: str = "") -> httpx.Response:
    async with site.client("read") as client:
        return await client.get("/metrics", headers={"Accept": accept})


# ------------------------------------------------------------------------------------------------- names, the page


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python simulations/metrics_table.py write"
    assert main(["check"]) == 0
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.full_name)
def test_names_keep_the_rules(metric: Metric) -> None:
    """Those that promtool has, and that of our own prefix."""
    words = metric.name.split("_")
    assert re.fullmatch(r"bftkit(_[a-z]+)+", metric.name)
    assert not {"total", "info", "count", "sum", "bucket", "created", "counter", "gauge", "histogram"} & set(words)
    assert not {"ms", "us", "ns", "milliseconds", "minutes", "hours", "kb", "mb", "kilobytes", "percent"} & set(words)
    assert metric.unit == (words[-1] if words[-1] in ("seconds", "bytes") else "")
    assert not {"seconds", "bytes"} & set(words[:-1])
    assert metric.full_name.endswith("_total") == (metric.kind == "counter")
    assert metric.text.endswith(".")
    assert not set("\n|") & set(metric.text)
    assert not {"le", "quantile", "job", "instance"} & set(metric.labels)


def test_no_name_is_there_twice_and_alerts_name_what_there_is() -> None:
    names = [metric.full_name for metric in METRICS]
    assert len(set(names)) == len(names)
    ending = page().partition("## Alerts")[2]
    alerted = {name.removesuffix("_bucket") for name in re.findall(r"bftkit_[a-z_]+", ending)}
    assert len(alerted) >= 10
    assert alerted <= set(names)


# ------------------------------------------------------------------------------------------------- the text


async def test_prometheus_can_read_it_in_both_forms() -> None:
    async with served(4, protocol="pbft") as (group, sites):
        await (await group.client()).submit(put(b"a", b"1"), timeout=TIMEOUT)
        plain = await ask(sites["m0"])
        assert (plain.status_code, plain.headers["content-type"]) == (200, TEXT_TYPE)
        usual = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
        modern = await ask(sites["m0"], usual)
        assert (modern.status_code, modern.headers["content-type"]) == (200, OPENMETRICS_TYPE)
        families = list(parse_openmetrics(modern.text))
        by_name = {family.name: family for family in families}
        for metric in METRICS:
            family = by_name[metric.name]
            assert (family.type, family.unit, family.documentation) == (metric.kind, metric.unit, metric.text)
        assert set(by_name) - {metric.name for metric in METRICS} == {
            name for name in by_name if name.startswith("process_")
        }
        assert set(values_of(parse_text(plain.text))) <= set(values_of(families))
        assert {family.name for family in MemberCollector(sites["m0"].facade).describe()} <= set(by_name)


async def test_what_a_caller_accepts_is_never_repeated() -> None:
    async with served(1, protocol="coordinator") as (_, sites):
        for accept in (
            "application/openmetrics-text;version=evil",
            "application/openmetrics-text;version=1.evil",
            "application/openmetrics-text;version=;escaping=evil",
            "evil/evil;evil=" + "evil" * 500,
            ";;,,=,;version",
            "text/html",
        ):
            answer = await ask(sites["m0"], accept)
            assert answer.status_code == 200
            assert answer.headers["content-type"] in (TEXT_TYPE, OPENMETRICS_TYPE)
            assert "evil" not in answer.text


async def test_members_of_one_process_have_numbers_of_their_own() -> None:
    async with served(4, protocol="pbft") as (_, sites):
        one, other = (told(sites[member].facade) for member in ("m0", "m1"))
        assert value(one, "bftkit_member_info", member="m0", protocol="pbft") == 1
        assert value(other, "bftkit_member_info", member="m1", protocol="pbft") == 1
        assert (value(one, "bftkit_is_leader"), value(other, "bftkit_is_leader")) == (1, 0)
        assert told(sites["m0"].facade).keys() == one.keys()


async def test_it_needs_a_token_and_counts_who_has_none() -> None:
    """FAULTS 40; and nobody makes routes up."""
    async with served(1, protocol="coordinator") as (_, sites):
        site = sites["m0"]
        async with site.client(None) as stranger:
            assert (await stranger.get("/metrics")).status_code == 401
            assert (await stranger.get("/made-up-1")).status_code == 401
        async with site.client("read") as reader:
            assert (await reader.get("/made-up-2")).status_code == 404
            assert (await reader.get("/v1/commands/" + "a" * 64)).status_code == 200
        found = values_of(parse_text((await ask(site)).text))
        counted = {dict(labels)["route"] for name, labels in found if name == "bftkit_admin_requests_total"}
        assert counted == {"none", "/v1/commands/{name}"}
        assert value(found, "bftkit_admin_requests_total", route="none", code="401") == 2
        assert value(found, "bftkit_admin_requests_total", route="none", code="404") == 1


# ------------------------------------------------------------------------------------------------- a run


async def test_counters_only_grow_and_tell_what_happened() -> None:
    """Over operations, one that fails, a change of protocol, and the crash of a leader."""
    async with served(4, protocol="pbft", checkpoint_interval=2, qos=QoS(deadline_ms=300_000)) as (group, sites):
        client = await group.client()
        facade = sites["m3"].facade
        seen = [told(facade)]

        def step() -> Values:
            now = told(facade)
            for metric in METRICS:
                if metric.kind in ("counter", "histogram"):
                    for key, before in seen[-1].items():
                        if key[0].startswith(metric.name):
                            assert now[key] >= before, key
            seen.append(now)
            return now

        # Others may have answered the client: this member comes to everything in its own time.
        node = group.node("m3")

        async def executes(least: int) -> None:
            await group.until(lambda: node.replica.state.executed >= least, TIMEOUT)

        for number in range(5):
            await client.submit(put(b"k", b"%d" % number), timeout=TIMEOUT)
            await executes(number + 1)
            step()
        with pytest.raises(OperationFailed):
            await client.submit(b"nonsense", timeout=TIMEOUT)
        await group.until(lambda: node.replica.state.failed, TIMEOUT)
        assert value(step(), "bftkit_operations_failed_total") == 1
        await group.switch("paxos", timeout=TIMEOUT)
        await client.submit(put(b"k", b"6"), timeout=TIMEOUT)
        await group.until(lambda: node.chronicle.switch and node.chronicle.switch.pause_ms is not None, TIMEOUT)
        assert ("bftkit_last_switch_pause_seconds", ()) in step()
        leader = await group.until(lambda: group.leader, TIMEOUT)
        assert leader is not None
        if leader != "m3":
            await group.crash(leader)
            await client.submit(put(b"k", b"7"), timeout=TIMEOUT)
            await group.until(lambda: not node.hub.is_up(leader), TIMEOUT)
            await group.until(lambda: node.replica.counters.view_changes, TIMEOUT)
        await group.until(lambda: node.replica.counters.checkpoints, TIMEOUT)
        await executes(7)
        last = step()
        assert value(last, "bftkit_switches_total", kind="planned", cause="operators") == 1
        assert value(last, "bftkit_epoch") == 1
        assert value(last, "bftkit_qos_deadline_seconds") == 300
        assert value(last, "bftkit_operations_executed_total") >= 7
        assert value(last, "bftkit_checkpoints_total") >= 1
        assert value(last, "bftkit_log_sync_duration_seconds_count") >= 7
        assert value(last, "bftkit_network_received_bytes_total") > value(
            seen[0], "bftkit_network_received_bytes_total"
        )
        assert value(last, "bftkit_applied_slot") <= value(last, "bftkit_decided_slot")
        if leader != "m3":
            assert value(last, "bftkit_leader_changes_total") >= 1
            assert value(last, "bftkit_peer_up", member=leader) == 0


async def test_a_liar_makes_numbers_and_no_labels() -> None:
    """FAULTS 42: frames of a thousand kinds are refused with as many words, which are nowhere among the metrics."""
    async with served(4, protocol="pbft") as (group, sites):
        facade = sites["m0"].facade
        liar = group.node("m1").hub
        await group.until(lambda: liar.is_up("m0"), TIMEOUT)  # what waits for a link for too long is dropped
        before = told(facade)
        for number in range(1000):
            assert liar.send("m0", bytes((100 + number % 100, number % 256)))
        liar.wake()

        counts = group.node("m0").blames
        await group.until(lambda: counts["m1", "refused"] >= 1000, TIMEOUT)
        after = told(facade)
        assert value(after, "bftkit_blames_total", member="m1", kind="refused") == 1000
        assert len(facade.node.status()["blamed"]) >= 50
        assert {key for key in after if key[0] != "bftkit_peer_silence_seconds"} == {
            key for key in before if key[0] != "bftkit_peer_silence_seconds"
        } | {key for key in after if key[0] in CLOCKS}
        assert value(after, "bftkit_refused_frames_total") >= 1000
        assert value(after, "bftkit_blames_total", member="m2", kind="refused") == 0
        assert "unknown kind" not in metrics_text(facade)[0].decode()


CLOCKS = {"bftkit_agreed_clock_offset_seconds"}
"""Begins when members have reported their clocks."""


async def test_whoever_is_no_member_has_no_name() -> None:
    async with served(1, protocol="coordinator") as (_, sites):
        facade = sites["m0"].facade
        blames = facade.node._blames  # pyright: ignore[reportPrivateUsage]
        for number in range(50):
            blames.blame(f"ghost{number}", "refused: boo", b"")
        found = told(facade)
        assert value(found, "bftkit_blames_total", member=OTHERS, kind="refused") == 50
        assert "ghost" not in metrics_text(facade)[0].decode()


async def test_what_the_policy_sees_is_told_in_seconds() -> None:
    async with served(1, protocol="coordinator") as (_, sites):
        scrape = Scrape.of(sites["m0"].facade)
        conditions = attrs.asdict(Measurement(window_us=500_000, waited_us=2_500, silent=1))
        policy = {"mode": 1, "streak": 3, "stall_ms": 1500, "conditions": conditions}
        seen = attrs.evolve(scrape, status={**scrape.status, "policy": policy})

        def read(name: str, where: Scrape) -> list[Any]:
            (metric,) = (metric for metric in METRICS if metric.name == name)
            samples: Any = metric.read(where)
            return [value for _, value in samples]

        wanted: dict[str, float] = {
            "bftkit_policy_mode": 1,
            "bftkit_policy_streak": 3,
            "bftkit_policy_stall_limit_seconds": 1.5,
            "bftkit_policy_window_seconds": 0.5,
            "bftkit_policy_wait_median_seconds": 0.0025,
            "bftkit_policy_silent_members": 1,
        }
        assert {name: read(name, seen) for name in wanted} == {name: [value] for name, value in wanted.items()}
        assert all(read(name, scrape) == [] for name in wanted)


def test_durations_are_counted_by_size() -> None:
    times = SyncTimes()
    for seconds in (0.0, 0.0001, 0.00011, 10.0, 11.0, -1.0):
        times.add(seconds)
    found = dict(times.cumulative())
    assert (found["0.0001"], found["0.00025"], found["2.5"], found["10.0"], found["+Inf"]) == (3, 4, 4, 5, 6)
    assert times.total == pytest.approx(21.00021)
    assert list(BOUNDS) == sorted(set(BOUNDS))
