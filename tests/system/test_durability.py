"""No vote and no reply leaves a process before the disk has what it depends on, as the kernel saw it (SAFETY rule 5).

SIGKILL cannot show this: what was written and not synced survives it in the page cache. So one member runs under
strace, and its system calls are read: after a round's mark (see `support/marking.py`), the log's `fdatasync` must have
returned before anything is written to a socket. The same reading finds fault with a member that does not sync.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.client import NoAnswer, OutcomeUnknown, SyncClient
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue

MakeGroup = Callable[..., ProcessGroup]
OpenClient = Callable[..., SyncClient]
Watch = Callable[[ProcessGroup, str, Callable[[Mapping[str, dict[str, Any]]], object]], object]

AFTER_THE_KILL = 10
MARKED_MIN = 2 * AFTER_THE_KILL
"""Once a member is gone, each slot needs two promises of the traced one: for its proposal or prepare, and its commit.
Before, a quorum does without it, and how many slots share a round is up to the machine."""

SYNCS_THAT_WORK = 30
"""More than a start takes."""

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None,
    reason="strace is not installed, and only it can show the order of system calls",
)

_CALL = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<fd>\d+)<(?P<path>[^>]*)>")
_RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. (?P<name>\w+) resumed>")


@attrs.frozen
class Call:
    """One system call of the traced member's main thread."""

    name: str
    path: str
    text: str
    done: bool
    """Whether this line says that it has returned without error."""


def calls(trace: Path, pid: int) -> Iterator[Call]:
    """The main thread's calls, in order. One that strace shows in two parts counts twice, the second time as done."""
    unfinished: dict[str, Call] = {}
    for line in trace.read_text("utf-8", "replace").splitlines():
        found = _CALL.match(line)
        if found is not None and int(found["pid"]) == pid:
            whole = "<unfinished" not in line
            call = Call(found["name"], found["path"], line, whole and not re.search(r"= -1 E", line))
            if not whole:
                unfinished[call.name] = call
            yield call
            continue
        found = _RESUMED.match(line)
        if found is not None and int(found["pid"]) == pid:
            begun = unfinished.pop(found["name"])
            yield attrs.evolve(begun, text=line, done="= -1 E" not in line)


@attrs.define
class Reading:
    """What a trace shows."""

    marked: int = 0
    """Rounds that sent something that depends on a record."""
    confirmed: int = 0
    """Those in which the log was synced before."""
    violations: list[str] = attrs.field(factory=list[str])


def read_trace(trace: Path, pid: int) -> Reading:
    """Compare every marked round with what the kernel was asked to do."""
    reading = Reading()
    waits = wrote = False
    for call in calls(trace, pid):
        if call.name == "write" and call.path.endswith("/marks"):
            if not call.done:
                continue
            waits, wrote = "after-record" in call.text, False
            reading.marked += waits
        elif "/data/log/" in call.path:
            if call.name == "write":
                wrote = True
            elif call.name in ("fdatasync", "fsync") and call.done and waits and wrote:
                waits = False
                reading.confirmed += 1
        elif call.path.startswith(("socket:", "TCP:", "TCPv6:")) and waits:
            if call.name == "sendto" and re.search(r'"\\0", 1, ', call.text):
                continue  # the event loop wakes itself; nobody else is told anything
            reading.violations.append(call.text)
            waits = False
    return reading


def _run_traced(group: ProcessGroup, client: SyncClient, watch: Watch, trace: Path, marks: Path) -> Reading:
    traced = "m1"  # follows at first, and leads after the kill below: it sends votes, proposals and replies
    for member in group.members:
        if member == traced:
            tracing = ["strace", "-D", "-f", "-yy", "-s", "32", "-o", str(trace)]
            tracing += ["-e", "trace=write,writev,sendto,sendmsg,fdatasync,fsync"]
            group.start(member, "--adversary", "marking:Marking", under=["env", f"BFTKIT_MARKS={marks}", *tracing])
        else:
            group.start(member)
    for member in group.members:
        group.wait_ready(member)
    pid = group.pid(traced)
    for index in range(10):
        assert client.submit(keyvalue.put(b"key", b"%d" % index), timeout=60) == b"="
    assert all(result == b"=" for result in client.submit_many([keyvalue.put(b"k", b"v")] * 500, timeout=60))
    group.kill("m0")
    for index in range(AFTER_THE_KILL):
        assert client.submit(keyvalue.put(b"key", b"%d" % index), timeout=60) == b"="
    watch(group, "marks", lambda found: found.get(traced, {}).get("marks", 0) > 0)
    assert group.stop([traced]) == {traced: 0}
    return read_trace(trace, pid)


@needs_strace
def test_nothing_leaves_before_its_record_is_on_the_disk(
    found: MakeGroup, client: OpenClient, watch: Watch, tmp_path: Path
) -> None:
    group = found("--checkpoint-interval", 16)
    reading = _run_traced(group, client(group), watch, tmp_path / "trace", tmp_path / "marks")
    assert reading.violations == []
    assert reading.marked >= MARKED_MIN
    assert reading.confirmed == reading.marked


@needs_strace
def test_the_reading_finds_fault_with_a_member_that_does_not_sync(
    found: MakeGroup, client: OpenClient, watch: Watch, tmp_path: Path
) -> None:
    group = found("--durability", "async", "--checkpoint-interval", 16)
    reading = _run_traced(group, client(group), watch, tmp_path / "trace", tmp_path / "marks")
    assert len(reading.violations) >= MARKED_MIN
    assert reading.confirmed < reading.marked


@needs_strace
def test_a_member_whose_disk_fails_ends_with_a_code_that_no_supervisor_starts_again(
    found: MakeGroup, client: OpenClient
) -> None:
    """The kernel may have dropped what it could not write, and may report success the next time (FAULTS line 16)."""
    group = found("--members", 1, "--protocol", "coordinator")
    failing = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync"]
    group.start("m0", under=[*failing, "-e", f"inject=fdatasync:error=EIO:when={SYNCS_THAT_WORK + 1}+"])
    group.wait_ready("m0")
    one = client(group)
    for _ in range(SYNCS_THAT_WORK + 1):  # each is durable before it is answered
        try:
            one.submit(keyvalue.put(b"key", b"value"), timeout=5)
        except (OutcomeUnknown, NoAnswer):
            break
    assert group.wait_end("m0") == 7
    assert "Input/output error" in group.log_tail("m0")
