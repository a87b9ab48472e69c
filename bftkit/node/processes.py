"""A group of separate operating-system processes on this machine: for the demo, the benchmark and system tests.

The folders are those that `bftkit init` makes, the processes are `bftkit node run`, and what ends them is a signal:
nothing here knows more about a member than an operator would.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import attrs

from bftkit.core.machine import MemberId
from bftkit.membership.genesis import Genesis
from bftkit.node.folders import GENESIS_FILE, read_client, read_genesis

READY_SECONDS = 60.0
STOP_SECONDS = 30.0


class ProcessFailed(Exception):
    """A member's process ended by itself, or did not get ready. The text has the end of its log."""


@attrs.define(eq=False)
class _Running:
    process: subprocess.Popen[bytes]
    log: IO[bytes]


class ProcessGroup:
    """Members as child processes, from the folders of `bftkit init`."""

    def __init__(self, directory: Path, *, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.genesis: Genesis = read_genesis(directory / GENESIS_FILE)
        self.client = read_client(directory / "client")
        self.members: tuple[MemberId, ...] = self.genesis.roster.ids
        self._environment = environment
        self._running: dict[MemberId, _Running] = {}

    def start(self, member: MemberId, *options: str, under: Sequence[str] = ()) -> None:
        """Start a member; `wait_ready` waits for it. `under`: a command that runs (and becomes) it, such as strace."""
        assert member not in self._running
        log = (self.directory / f"{member}.log").open("ab")
        process = subprocess.Popen(
            [*under, sys.executable, "-m", "bftkit", "node", "run", str(self.directory / member), "--json", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **(self._environment or {})},
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its members in order
        )
        self._running[member] = _Running(process, log)

    def joined(self, member: MemberId) -> None:
        """One more member, which is none of the genesis: what is said of all members is said of it, too."""
        self.members = (*self.members, member)

    def freeze(self, member: MemberId) -> None:
        """SIGSTOP: it stands still, with its links open, until it is let go on."""
        self._running[member].process.send_signal(signal.SIGSTOP)

    def thaw(self, member: MemberId) -> None:
        """SIGCONT: it goes on, and knows nothing of the time between."""
        self._running[member].process.send_signal(signal.SIGCONT)

    def start_all(self, members: Sequence[MemberId] | None = None) -> None:
        """Start several members, or all, and wait until they run. Raises `ProcessFailed`."""
        chosen = self.members if members is None else tuple(members)
        for member in chosen:
            self.start(member)
        for member in chosen:
            self.wait_ready(member)

    def wait_ready(self, member: MemberId) -> None:
        """Until the member says that it runs. Raises `ProcessFailed`."""
        running = self._running[member]
        process = running.process
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], READY_SECONDS)[0]:
            process.kill()
            process.wait()
            self._reap(member)
            raise ProcessFailed(f"{member} was not ready after {READY_SECONDS:g} s: {self.log_tail(member)}")
        line = process.stdout.readline()  # a process tells that it is ready in one write, or ends
        if b'"ready"' not in line:
            code = process.wait(READY_SECONDS)
            self._reap(member)
            raise ProcessFailed(f"{member} ended with exit code {code}: {self.log_tail(member)}")

    def kill(self, member: MemberId) -> None:
        """SIGKILL: no last words."""
        self.kill_all((member,))

    def kill_all(self, members: tuple[MemberId, ...] | None = None) -> None:
        """SIGKILL to several at once, as when the power goes."""
        chosen = [member for member in (members or self.members) if member in self._running]
        for member in chosen:
            self._running[member].process.send_signal(signal.SIGKILL)
        for member in chosen:
            self._running[member].process.wait(STOP_SECONDS)
            self._reap(member)

    def is_running(self, member: MemberId) -> bool:
        """Whether the process is there."""
        running = self._running.get(member)
        return running is not None and running.process.poll() is None

    def pid(self, member: MemberId) -> int:
        """The process's id."""
        return self._running[member].process.pid

    def log_text(self, member: MemberId) -> str:
        """All that the member wrote to its log, over all its lives."""
        path = self.directory / f"{member}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def log_tail(self, member: MemberId, lines: int = 3) -> str:
        """The last lines that the member wrote to its log."""
        return " | ".join(self.log_text(member).strip().splitlines()[-lines:])

    def wait_end(self, member: MemberId) -> int:
        """The exit code of a process that ends by itself. Raises `ProcessFailed` if it does not."""
        try:
            code = self._running[member].process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"{member} did not end within {READY_SECONDS:g} s: {self.log_tail(member)}") from None
        self._reap(member)
        return code

    def stop(self, members: Sequence[MemberId] | None = None) -> dict[MemberId, int]:
        """SIGTERM to these (or all), SIGKILL to those that do not end in time; their exit codes."""
        chosen = [member for member in (self.members if members is None else members) if member in self._running]
        for member in chosen:
            self._running[member].process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        codes: dict[MemberId, int] = {}
        for member in chosen:
            process = self._running[member].process
            try:
                codes[member] = process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                codes[member] = process.wait()
            self._reap(member)
        return codes

    def _reap(self, member: MemberId) -> None:
        running = self._running.pop(member)
        running.log.close()
        if running.process.stdout is not None:
            running.process.stdout.close()
