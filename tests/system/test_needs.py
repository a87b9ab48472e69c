"""Needs that take effect in real processes: durability that operators raise, deadlines, and reads that one answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bftkit.client import SyncClient, TooLate
from bftkit.node.processes import ProcessGroup
from bftkit.service.keyvalue import get, put
from bftkit.storage.durability import MARK

MakeGroup = Callable[..., ProcessGroup]
OpenClient = Callable[..., SyncClient]
RunCommand = Callable[..., Any]
Watch = Callable[..., Any]
TIMEOUT = 60.0


def test_needs_hold_from_the_epoch_that_they_begin_with(
    found: MakeGroup, client: OpenClient, command: RunCommand, watch: Watch
) -> None:
    options = ("--durability", "async", "--deadline-ms", 30_000, "--consistency", "best-effort")
    group = found(*options, "--checkpoint-interval", 8)
    group.start_all()
    folder: Path = group.directory / "client"

    def all_are(durability: str, epoch: int) -> Callable[[Mapping[str, dict[str, Any]]], bool]:
        return lambda told: (
            len(told) == 4
            and all(
                (one["durability"], one["epoch"], one["silent"]) == (durability, epoch, False) for one in told.values()
            )
        )

    def marked() -> set[bool]:
        return {(group.directory / member / "data" / MARK).exists() for member in group.members}

    one = client(group)
    assert one.submit(put(b"k", b"v"), timeout=TIMEOUT) == b"="
    watch(group, "async at the beginning", all_are("async", 0))
    assert marked() == {True}
    assert one.read_marked(get(b"k"), timeout=TIMEOUT).consistency == "best-effort"
    right = one.core._wall_clock  # pyright: ignore[reportPrivateUsage]
    watch(group, "the members' clocks", partial(_clocks, one))
    one.core._wall_clock = lambda: right() - 90.0  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(TooLate):
        one.submit(put(b"k", b"late"), timeout=TIMEOUT)
    one.core._wall_clock = right  # pyright: ignore[reportPrivateUsage]

    assert command("qos", "set", "--durability", "fsync", "--client", folder, "--yes").code == 0
    watch(group, "fsync in the next epoch", all_are("fsync", 1))
    assert marked() == {False}
    assert one.submit(put(b"k", b"kept"), timeout=TIMEOUT) == b"="
    for member in group.members:
        group.kill(member)
    group.start_all()
    watch(group, "nobody has forgotten", all_are("fsync", 1))
    # The second life of a client whose old opening the members execute again: it takes no session of its first life.
    assert (
        command("get", "k", "--client", folder, "--timeout", TIMEOUT, "--consistency", "strong").last["value"] == "kept"
    )


def _clocks(client: SyncClient, told: Mapping[str, dict[str, Any]]) -> bool:
    """Clock reports travel in batches, and an idle group has none."""
    client.submit(put(b"k", b"v"), timeout=TIMEOUT)
    return len(told) == 4 and all(one["agreed_time_ms"] for one in told.values())
