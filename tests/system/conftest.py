"""Groups of real processes for tests: founded in a temporary folder, and ended whatever happens.

Whatever a test does to a group, nobody may ever see a traceback: the fixture looks for one in every member's log.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import pytest

from bftkit.cli import main
from bftkit.client import SyncClient
from bftkit.client.connect import open_core
from bftkit.node.processes import ProcessGroup

PATIENCE_SECONDS = 60.0
"""How long anything may take before a test gives up: far more than it takes on a busy machine."""

SUPPORT = Path(__file__).parent / "support"
"""Modules that members load: services and adversaries for these tests alone."""

T = TypeVar("T")

PORTS_AT_ONCE = 7
"""More than any of these groups has members."""
_BLOCKS = range(32_000, 32_760, PORTS_AT_ONCE + 1)
_turns = itertools.count(secrets.randbelow(len(_BLOCKS)))


@contextlib.contextmanager
def ports() -> Generator[int]:
    """The first of `PORTS_AT_ONCE` ports in a row that nobody else gets meanwhile, listened on or not.

    A group listens some time after it has got its ports, and not all the time. So these lie where neither `bftkit init`
    draws its own nor the system those of whoever dials, and the port after them is held: another run of these tests at
    the same time takes others.
    """
    for turn in itertools.islice(_turns, len(_BLOCKS)):
        base = _BLOCKS[turn % len(_BLOCKS)]
        with contextlib.ExitStack() as trial, contextlib.ExitStack() as held:
            try:
                held.enter_context(socket.socket()).bind(("127.0.0.1", base + PORTS_AT_ONCE))
                for port in range(base, base + PORTS_AT_ONCE):
                    trial.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            trial.close()
            yield base
            return
    raise AssertionError("no free ports")


def until(condition: Callable[[], T], what: str) -> T:
    """Waits for what nothing announces: it is looked for again and again, until it is there."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"never saw {what}"
        time.sleep(0.02)
    return found


@attrs.frozen
class Told:
    """What one command said."""

    code: int
    events: list[dict[str, Any]]
    error: str

    @property
    def last(self) -> dict[str, Any]:
        """Its last line."""
        return self.events[-1]


class RunCommand(Protocol):
    """Runs a command of the command line in this process."""

    def __call__(self, *words: object) -> Told: ...


class MakeGroup(Protocol):
    """Founds a group by `bftkit init` with these options; nothing is started yet."""

    def __call__(self, *options: object, name: str = "group") -> ProcessGroup: ...


def _run(*words: object) -> Told:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main([*map(str, words), "--json"])
    assert "Traceback" not in error.getvalue(), error.getvalue()
    return Told(code, [json.loads(line) for line in out.getvalue().splitlines()], error.getvalue())


@pytest.fixture(scope="session")
def command() -> RunCommand:
    """The command line, in this process; what it says is read as JSON."""
    return _run


@pytest.fixture
def found(tmp_path: Path) -> Iterator[MakeGroup]:
    """Founds groups; at the end their processes are ended, and their logs hold no traceback."""
    with _founding(tmp_path) as make:
        yield make


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGroup]:
    """A PBFT group of four that runs all the time, for tests that leave it as it is."""
    with _founding(tmp_path_factory.mktemp("shared")) as make:
        group = make()
        group.start_all()
        yield group


@contextlib.contextmanager
def _founding(directory: Path) -> Generator[MakeGroup]:
    groups: list[ProcessGroup] = []
    held = contextlib.ExitStack()

    def make(*options: object, name: str = "group") -> ProcessGroup:
        told = _run("init", directory / name, "--base-port", held.enter_context(ports()), *options)
        assert told.code == 0, told.error
        path = os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH", ""))))
        groups.append(ProcessGroup(directory / name, environment={"PYTHONPATH": path}))
        return groups[-1]

    try:
        yield make
    finally:
        for group in groups:
            group.stop()
        held.close()
    for group in groups:
        for member in group.members:
            text = group.log_text(member)
            assert "Traceback" not in text, text


class Watch(Protocol):
    """Waits until what all members say of themselves satisfies a condition."""

    def __call__(
        self, group: ProcessGroup, what: str, condition: Callable[[Mapping[str, dict[str, Any]]], object]
    ) -> Mapping[str, dict[str, Any]]: ...


@pytest.fixture
def watch() -> Watch:
    """Asks the members for their status until a condition holds; fails with what they said last."""

    def until(
        group: ProcessGroup, what: str, condition: Callable[[Mapping[str, dict[str, Any]]], object]
    ) -> Mapping[str, dict[str, Any]]:
        end = time.monotonic() + PATIENCE_SECONDS
        found: Mapping[str, dict[str, Any]] = {}
        patience = 0.5
        with client_of(group) as client:
            while time.monotonic() < end:
                found = client.status(timeout=patience)
                if condition(found):
                    return found
                patience *= 1.2  # one that is very slow is heard in the end, and one that is gone is not waited for
        raise AssertionError(f"never saw {what}; last: {json.dumps(found, indent=1)}")

    return until


def client_of(group: ProcessGroup, seed: bytes | None = None) -> SyncClient:
    """A synchronous client of its own identity."""
    return SyncClient(open_core(group.genesis, seed if seed is not None else os.urandom(32)))


class OpenClient(Protocol):
    """A synchronous client of its own identity, closed with the test."""

    def __call__(self, group: ProcessGroup, seed: bytes | None = None) -> SyncClient: ...


@pytest.fixture
def client() -> Iterator[OpenClient]:
    """Opens clients that are closed with the test."""
    with contextlib.ExitStack() as stack:

        def make(group: ProcessGroup, seed: bytes | None = None) -> SyncClient:
            return stack.enter_context(client_of(group, seed))

        yield make
