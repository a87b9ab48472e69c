"""What a command that starts processes makes of the signals that end it."""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest
import trio

from bftkit.cli.ending import ALL, TAKEN, ended_as_by_control_c, uninterrupted


@pytest.fixture(autouse=True)
def handlers() -> Generator[None]:
    """As a shell hands them over; afterwards as they were."""
    before = [(number, signal.getsignal(number)) for number in ALL]
    for number in TAKEN:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
def test_each_runs_what_cleans_up_and_is_then_as_before(number: signal.Signals) -> None:
    cleaned: list[str] = []

    async def command() -> None:
        try:
            signal.raise_signal(number)
            await trio.sleep_forever()
        finally:
            cleaned.append("up")

    before = [signal.getsignal(each) for each in ALL]
    with pytest.raises(KeyboardInterrupt), ended_as_by_control_c():
        trio.run(command)
    assert cleaned == ["up"]
    assert [signal.getsignal(each) for each in ALL] == before


def test_in_the_background_where_shells_ignore_sigint_it_ends_all_the_same() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt), ended_as_by_control_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_as_by_control_c():
        signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("number", ALL)
def test_the_second_one_does_not_stop_the_cleaning(number: signal.Signals) -> None:
    with ended_as_by_control_c():
        with uninterrupted():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
