"""What holds for all tests: no thresholds of time, and system tests that do not crowd each other out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SYSTEM = Path(__file__).parent / "system"

# A slow machine is not a failing property: neither an example nor its generation is timed.
settings.register_profile("bftkit", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    # `--hypothesis-profile` on the command line still wins: Hypothesis applies it in its own hook.
    if not config.getoption("--hypothesis-profile", default=None):
        settings.load_profile("bftkit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """System tests start groups of processes; `-m "not system"` leaves them out."""
    for item in items:
        if SYSTEM in item.path.parents:
            item.add_marker(pytest.mark.system)


class SystemTestsOnOneWorker(LoadScopeScheduling):
    """All system tests go to one worker, in order; every other test goes wherever there is room."""

    def _split_scope(self, nodeid: str) -> str:
        return "system" if nodeid.startswith("tests/system/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SystemTestsOnOneWorker:
    return SystemTestsOnOneWorker(config, log)
