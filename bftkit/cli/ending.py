"""How a command that started other processes ends, whatever signal ends it: as with Ctrl-C, and it leaves nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None

TAKEN: Final = (signal.SIGTERM, signal.SIGHUP)
ALL: Final = (signal.SIGINT, *TAKEN)


@contextmanager
def ended_as_by_control_c() -> Generator[None]:
    """Within, SIGTERM and a closed terminal mean what Ctrl-C means, so that every `finally` is run.

    A signal that is ignored stays ignored (``nohup``), but for SIGINT: shells ignore it in whatever they start in the
    background, and then there would be nothing that the others could stand for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before: list[tuple[signal.Signals, Handler]] = []
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        before.append((signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler)))
    for number in TAKEN:
        if signal.getsignal(number) is signal.SIG_DFL:
            # Not raised from here: trio knows where a KeyboardInterrupt does no harm, and has its handler for SIGINT.
            before.append((number, signal.signal(number, _interrupt)))
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def uninterrupted() -> Generator[None]:
    """Within, who is impatient and presses Ctrl-C once more does not keep us from cleaning up. Keep it short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in ALL]
    try:
        yield
    finally:
        _restore(before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def _restore(handlers: Sequence[tuple[signal.Signals, Handler]]) -> None:
    for number, handler in handlers:
        signal.signal(number, handler)
