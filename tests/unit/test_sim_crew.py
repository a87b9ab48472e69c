"""The worker processes of a campaign: what ends a task that does not end by itself."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable

import pytest

from bftkit.sim import crew
from bftkit.sim.crew import Crew, Lost, limited


def _double(number: int) -> int:
    with limited(30):
        return 2 * number


def _spin(number: int) -> int:
    with limited(0.3):
        return sum(range(number))  # in C, where no signal handler gets its turn


def _do(work: Callable[[int], int], tasks: list[int]) -> dict[int, int | BaseException]:
    results: dict[int, int | BaseException] = {}
    Crew[int, int](work, 2).do(tasks, results.__setitem__, lambda: False)
    return results


def test_workers_start_beside_a_watchdog_of_faulthandler() -> None:
    faulthandler.dump_traceback_later(3600)
    try:
        assert _do(_double, [1, 2, 3]) == {1: 2, 2: 4, 3: 6}
    finally:
        faulthandler.cancel_dump_traceback_later()


def test_a_task_that_cannot_be_interrupted_ends_its_worker_and_no_other_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LAST_RESORT_SECONDS", 0.8)
    results = _do(_spin, [10, 1 << 60])
    assert results[10] == 45
    assert isinstance(results[1 << 60], Lost)
    assert "SIGXCPU" in str(results[1 << 60])
