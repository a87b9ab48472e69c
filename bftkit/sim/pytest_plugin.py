"""The pytest plug-in: a fixture that runs scenarios in a test of your own, and says how to repeat what failed.

    def test_my_shop_survives_everything(simulate):
        simulate("mixed", protocol="pbft", service=Shop)

How many seeds it tries is no matter of the test: ``pytest --bftkit-seeds 500`` tries more, and with
``BFTKIT_SEEDS_FROM=12000`` other ones, as a nightly job wants.

pytest loads this file whenever bftkit is installed, so nothing else is loaded here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from bftkit.sim.campaign import Campaign
    from bftkit.sim.examining import ProtocolLike, ServiceLike
    from bftkit.sim.outcomes import Outcome

SEEDS: Final = 5
"""A few, so that a suite stays quick."""
OPTION: Final = "--bftkit-seeds"
FROM: Final = "BFTKIT_SEEDS_FROM"


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many seeds."""
    parser.getgroup("bftkit").addoption(
        OPTION,
        type=_count,
        default=None,
        metavar="N",
        help=f"seeds that each test with bftkit's fixture `simulate` tries (default {SEEDS}); the first is 0, or what "
        f"the environment variable {FROM} says",
    )


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Callable[..., Campaign]:
    """``simulate(scenario, protocol=…, seeds=…, service=…)``: run the scenario; the test fails if a promise is broken.

    The scenario is a name as for ``bftkit simulate``; protocol and service are names, or a `Plugin` and a class at the
    top level of a module. `seeds` is any iterable of numbers; if it is left out, the command line says how many. With
    `jobs` more than 1, seeds are run in so many processes. Returns the `Campaign`, with its figures.
    """
    count: int = request.config.getoption(OPTION) or SEEDS
    first = _first()

    def run(
        scenario: str,
        *,
        protocol: ProtocolLike = "pbft",
        seeds: Iterable[int] | None = None,
        service: ServiceLike | None = None,
        jobs: int = 1,
    ) -> Campaign:
        # No frames of ours in the traceback of the test.
        __tracebackhide__ = True
        from bftkit.sim.campaign import sweep
        from bftkit.sim.crew import Here
        from bftkit.sim.plan import KEY_VALUE

        campaign = sweep(
            scenario,
            protocol,
            range(first, first + count) if seeds is None else seeds,
            service=KEY_VALUE if service is None else service,
            executor=Here() if jobs == 1 else None,
            jobs=jobs,
            stop_at=1,
        )
        if campaign.failing:
            told = _told(campaign, campaign.failing[0], request.node.nodeid, chosen=seeds is not None)
            pytest.fail(told, pytrace=False)
        return campaign

    return run


def _told(campaign: Campaign, outcome: Outcome, test: str, *, chosen: bool) -> str:
    from bftkit.sim.examining import check_fit
    from bftkit.sim.running import replay_line
    from bftkit.sim.story import tell

    again = replay_line(campaign.scenario, campaign.protocol, outcome.seed, campaign.service)
    plan = check_fit(campaign.scenario, campaign.protocol, campaign.service).plan(
        campaign.protocol, outcome.seed, campaign.service
    )
    # What the engine did not survive cannot be told; the report has the traceback.
    story = outcome.report if outcome.oracle in ("exception", "figure") else tell(plan)
    lines = [
        f"{campaign.scenario}, {campaign.protocol}, seed {outcome.seed}: {outcome.oracle}: {outcome.violation}",
        "",
        story,
        "",
        "again, and made as small as it can be:",
        f"  {again} --shrink",
    ]
    if not chosen:
        lines += ["this test with this seed:", f"  {FROM}={outcome.seed} pytest '{test}' {OPTION} 1"]
    return "\n".join(lines)


def _first() -> int:
    text = os.environ.get(FROM, "0")
    if not text.isdecimal():
        raise pytest.UsageError(f"{FROM}={text}: the first seed is a number")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise pytest.UsageError(f"{OPTION} {text}: at least 1")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what is no number before anything runs."""
    _first()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Which seeds, if somebody chose them."""
    count: Any = config.getoption(OPTION)
    if count is None and FROM not in os.environ:
        return None
    return f"bftkit: {count or SEEDS} seeds from {_first()}"
