"""A group of real processes from the outside: the command line, clients of every kind, a clean end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bftkit.client import SyncClient
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.records import Kind
from bftkit.storage.recovery import read_log
from tests.system.conftest import PATIENCE_SECONDS

MakeGroup = Callable[..., ProcessGroup]
RunCommand = Callable[..., Any]
OpenClient = Callable[..., SyncClient]
Watch = Callable[[ProcessGroup, str, Callable[[Mapping[str, dict[str, Any]]], object]], Mapping[str, dict[str, Any]]]


def test_put_get_submit_and_status_of_the_command_line(shared: ProcessGroup, command: RunCommand) -> None:
    folder = shared.directory / "client"
    patient = ("-c", folder, "--timeout", PATIENCE_SECONDS)
    assert command("put", "colour", "blue", *patient).code == 0
    told = command("get", "colour", *patient)
    assert (told.code, told.last["value"]) == (0, "blue")
    absent = command("get", "no such key", *patient)
    assert (absent.code, absent.last["value"]) == (1, None)
    told = command("submit", keyvalue.get(b"colour").hex(), "--hex", *patient)
    assert (told.code, told.last["result"]) == (0, b"+blue".hex())
    told = command("status", *patient)
    assert told.code == 0
    assert {line["member"]: line["answered"] for line in told.events} == dict.fromkeys(shared.members, True)
    assert {line["pid"] for line in told.events} == {shared.pid(member) for member in shared.members}


def test_an_operation_that_fails_says_why_and_stops_nobody(
    shared: ProcessGroup, command: RunCommand, client: OpenClient
) -> None:
    told = command("submit", "no operation", "-c", shared.directory / "client", "--timeout", PATIENCE_SECONDS)
    assert told.code == 1
    assert "unknown operation" in told.error or "does not fit" in told.error
    assert client(shared).submit(keyvalue.put(b"after", b"it"), timeout=60) == b"="


_WORK = textwrap.dedent(
    """
    import sys
    from functools import partial
    from bftkit.client import OperationFailed, connect
    from bftkit.service import keyvalue

    async def work(folder, name, count):
        try:
            async with connect(folder) as client:
                await client.submit(b"rubbish", timeout=60)
        except OperationFailed:
            pass  # as it was raised, in no group
        async with connect(folder) as client:
            for index in range(count):
                assert await client.submit(keyvalue.append(b"log-" + name, b"%d," % index), timeout=60) == b"="
                assert await client.submit(keyvalue.append(b"together", name), timeout=60) == b"="
            expected = b"+" + b"".join(b"%d," % index for index in range(count))
            assert await client.read(keyvalue.get(b"log-" + name), timeout=60) == expected, expected
            outcomes = await client.submit_many([keyvalue.put(b"many", name), b"rubbish"], timeout=60)
            assert outcomes[0] == b"=" and isinstance(outcomes[1], Exception), outcomes
            together = await client.read(keyvalue.get(b"together"), timeout=60)
            assert together.count(name) == count, together
            print("verified", client.core.machine.session)

    folder, name, count = sys.argv[2], sys.argv[3].encode(), int(sys.argv[4])
    if sys.argv[1] == "trio":
        import trio
        trio.run(work, folder, name, count)
    else:
        import asyncio
        asyncio.run(work(folder, name, count))
    """
)


def test_two_client_processes_in_two_event_loops_and_a_synchronous_one_work_together(
    shared: ProcessGroup, command: RunCommand, client: OpenClient, tmp_path: Path
) -> None:
    """Each with an identity of its own, at the same time, each checking its results."""
    script = tmp_path / "work.py"
    script.write_text(_WORK)
    count = 25
    processes: list[subprocess.Popen[str]] = []
    for loop, name in (("trio", "T"), ("asyncio", "A")):
        folder = _client_folder(shared, tmp_path / name, command)
        words = [sys.executable, "-W", "always", str(script), loop, str(folder), name, str(count)]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        mine = client(shared)
        for index in range(count):
            assert mine.submit(keyvalue.append(b"log-S", b"%d," % index), timeout=60) == b"="
            assert mine.submit(keyvalue.append(b"together", b"S"), timeout=60) == b"="
        sessions: set[str] = set()
        for process in processes:
            out, error = process.communicate(timeout=120)
            assert (process.returncode, error) == (0, ""), error
            assert out.startswith("verified")
            sessions.add(out)
        assert len(sessions) == 2
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    together = keyvalue.parse_value(mine.read(keyvalue.get(b"together"), timeout=60))
    assert together is not None
    assert {name: together.count(name) for name in (b"T", b"A", b"S")} == {b"T": count, b"A": count, b"S": count}


def _client_folder(group: ProcessGroup, folder: Path, command: RunCommand) -> Path:
    folder.mkdir()
    for name in ("genesis.toml", "client.toml"):
        (folder / name).write_bytes((group.directory / "client" / name).read_bytes())
    assert command("keygen", "--kind", "client", folder / "client.key").code == 0
    return folder


def test_sigterm_ends_a_member_cleanly_under_load_with_its_log_sealed(
    found: MakeGroup, client: OpenClient, command: RunCommand
) -> None:
    group = found("--checkpoint-interval", 8)
    os.environ["PYTHONDEVMODE"] = "1"  # what is not closed is told on standard error
    try:
        group.start_all()
    finally:
        del os.environ["PYTHONDEVMODE"]
    mine = client(group)
    assert all(result == b"=" for result in mine.submit_many([keyvalue.append(b"k", b"x")] * 100, timeout=60))
    pending = mine.core.submit([keyvalue.append(b"k", b"x")] * 1000, lambda: None)
    while not mine.core.hub.queued("m0") and pending.missing == 1000:
        mine.core.turn(0.01)
    assert group.stop() == dict.fromkeys(group.members, 0)
    for member in group.members:
        log = group.directory / member / "data" / "log"
        newest = read_log(DiskDirectory(log)).segments[-1]
        assert (newest.last_kind, newest.torn_bytes) == (Kind.SEAL, 0)
        assert command("log", "verify", group.directory / member).code == 0
        assert "Warning" not in group.log_text(member), group.log_text(member)
    group.start_all()
    value = keyvalue.parse_value(client(group).submit(keyvalue.get(b"k"), timeout=60))
    assert value is not None
    assert len(value) >= 100
