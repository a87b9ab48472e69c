"""What holds for all tests: no thresholds of time, and system tests that do not crowd each other out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SYSTEM = Path(__file__).parent / "system"

# A slow machine is not a failing property: neither an example nor its generation is timed.
settings.register_profile("bftkit", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    # `--hypothesis-profile` on the command line still wins: Hypothesis applies it in its own hook.
    if not config.getoption("--hypothesis-profile", default=None):
        settings.load_profile("bftkit")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """System tests start groups of processes: they are marked, and share one worker (`--dist loadgroup`)."""
    for item in items:
        if SYSTEM in item.path.parents:
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.xdist_group("system"))
