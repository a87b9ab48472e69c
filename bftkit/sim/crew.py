"""The worker processes of a campaign: each seed is run in one of them, and none outlives the campaign.

What a seed can do to its process must not be lost and must not stop the others: a process that dies (killed for its
memory, a crash in a library) takes the pool with it, so whatever was under way is run again, each seed in a process of
its own, and the one that dies again is the culprit. Time is limited inside the process, by its own timers; and where
no signal handler gets its turn, the kernel ends the process for the CPU time that it took.

Each worker holds the reading end of a pipe whose writing end nobody has but the campaign. When that is closed (by
Ctrl-C, or because the campaign was killed), the workers end at once.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED as ANY
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

Pipe: TypeAlias = "Connection[Any, Any]"

AHEAD: Final = 3
"""So many tasks wait for each worker: none is idle, and an interrupted campaign has not much to throw away."""
PATIENCE: Final = 10
"""A task may take so many times its CPU time by the wall's clock: other processes want the cores as well."""
LAST_RESORT_SECONDS: Final = 30.0


class TooLong(BaseException):
    """A task took longer than it may. No `Exception`: simulated members live through those."""


class Lost(Exception):
    """A worker died of a task. The text says how."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Here(Executor):
    """Runs each task in this process when it is submitted: for a few seeds, a debugger, a test."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """A future that is done already."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Crew(Generic[T, R]):
    """Does tasks with several workers, and never loses one."""

    def __init__(self, work: Callable[[T], R], jobs: int, executor: Executor | None = None) -> None:
        """`work` is a function of a module. An `executor` of somebody else's is neither started nor ended here."""
        self._work = work
        self._jobs = jobs
        self._given = executor
        self._pool: _Pool | None = None

    def do(self, tasks: Iterable[T], done: Callable[[T, R | BaseException], None], enough: Callable[[], bool]) -> None:
        """Do the tasks and call `done` for each when it ended, in whatever order that is.

        `done` gets what the task returned or raised, or `Lost`. No new task is begun once there is `enough`.
        """
        waiting = deque(tasks)
        running: dict[Future[R], T] = {}
        lost: list[T] = []
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * self._jobs and not lost and not enough():
                    task = waiting.popleft()
                    try:
                        running[self._executor().submit(self._work, task)] = task
                    except BrokenExecutor:
                        lost.append(task)
                if running:
                    ended, _ = wait(running, return_when=ANY)
                    for future in [future for future in running if future in ended]:
                        self._end(running.pop(future), future, done, lost)
                if lost and not running:
                    self._close()
                    self._given = None
                    for task in lost:
                        done(task, self._alone(task))
                    lost.clear()
                elif not running and enough():
                    break
        except BaseException:
            self._close(at_once=True)
            raise
        self._close()

    def _end(self, task: T, future: Future[R], done: Callable[[T, R | BaseException], None], lost: list[T]) -> None:
        try:
            error = future.exception()
        except CancelledError:
            lost.append(task)
            return
        if isinstance(error, BrokenExecutor):
            lost.append(task)
        else:
            done(task, error if error is not None else future.result())

    def _executor(self) -> Executor:
        if self._given is not None:
            return self._given
        if self._pool is None:
            self._pool = _Pool(self._jobs)
        return self._pool.executor

    def _close(self, *, at_once: bool = False) -> None:
        if self._pool is not None:
            self._pool.close(at_once=at_once)
            self._pool = None

    def _alone(self, task: T) -> R | BaseException:
        """In a process that nothing else depends on."""
        context = _context()
        here, there = cast("tuple[Pipe, Pipe]", context.Pipe(duplex=True))
        process = context.Process(target=_do_alone, args=(self._work, task, here, there), daemon=True)
        process.start()
        there.close()
        try:
            answer: R | BaseException = here.recv()
        except EOFError:
            process.join()
            answer = Lost(f"the process that ran it {_death(process.exitcode)}")
        finally:
            here.close()
            process.kill()
            process.join()
            process.close()
        return answer


class _Pool:
    """Worker processes that end when this object is closed or its process is gone."""

    def __init__(self, jobs: int) -> None:
        context = _context()
        self._reader, self._writer = cast("tuple[Pipe, Pipe]", context.Pipe(duplex=False))
        self.executor = ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin, initargs=(self._reader, self._writer)
        )

    def close(self, *, at_once: bool) -> None:
        """Wait for the workers' end; `at_once`: do not wait for what they are doing."""
        if at_once:
            self._writer.close()
        self.executor.shutdown(wait=True, cancel_futures=True)
        self._writer.close()
        self._reader.close()


def _context() -> Any:
    """Forking is quick and needs no importable main module; beside other threads it is not safe."""
    return multiprocessing.get_context("fork" if threading.active_count() == 1 else "forkserver")


def _begin(reader: Pipe, writer: Pipe) -> None:
    """The first thing that a worker does."""
    writer.close()
    # Ctrl-C goes to all processes of the terminal. The campaign decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(reader,), daemon=True).start()


def _end_with(reader: Pipe) -> None:
    try:
        reader.poll(None)
    finally:
        os._exit(1)


def _do_alone(work: Callable[[T], R], task: T, here: Pipe, there: Pipe) -> None:
    _begin(there, here)
    try:
        there.send(work(task))
    except BaseException as error:
        there.send(error)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


@contextmanager
def limited(seconds: float) -> Generator[None]:
    """Within, at most so many seconds of CPU time (`TooLong`), and ten times as many by the wall's clock.

    Only the main thread can be interrupted; in any other nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"{seconds:g} s of CPU time" if number == signal.SIGPROF else f"{PATIENCE * seconds:g} s")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE * seconds))
    worker = multiprocessing.parent_process() is not None
    before = [signal.signal(number, interrupt) for number, _, _ in timers]
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    try:
        if worker:
            # Not by `faulthandler`: its thread of C does not live on in a forked process, and if the campaign's
            # process has one (pytest's faulthandler_timeout), whoever wants another waits for its end for ever.
            last = int(time.process_time() + seconds + LAST_RESORT_SECONDS)
            resource.setrlimit(resource.RLIMIT_CPU, (_least(last, soft, hard), hard))
        for _, timer, after in timers:
            # Again and again: what was raised inside a destructor is lost.
            signal.setitimer(timer, after, 1.0)
        yield
    finally:
        for _, timer, _ in timers:
            signal.setitimer(timer, 0.0)
        if worker:
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        for (number, _, _), handler in zip(timers, before, strict=True):
            signal.signal(number, handler)


def _least(*limits: int) -> int:
    return min(limit for limit in limits if limit != resource.RLIM_INFINITY)
