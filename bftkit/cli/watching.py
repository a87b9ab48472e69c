"""`bftkit status --watch`: the members' statuses, asked for again and again.

On a terminal it is one table that changes in its place; in a pipe, a line for each member whenever something about it
has changed; with ``--json``, an event for each member and round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import trio

from bftkit.cli.app import output
from bftkit.cli.client import TITLES, status_row, status_table
from bftkit.cli.reach import Connection


async def watch_status(connection: Connection, every: float, timeout: float, rounds: int | None) -> None:
    """Ask until cancelled, or so many times."""
    if output().interactive:
        await _watch_table(connection, every, timeout, rounds)
        return
    told: dict[str, tuple[str, ...]] = {}
    number = 0
    while rounds is None or number < rounds:
        number += 1
        found = await connection.status(timeout=timeout)
        for member in connection.asked(found):
            fields = {"member": member, "answered": member in found, "round": number}
            output().event("status", **{**found.get(member, {}), **fields})
            row = status_row(member, found.get(member))
            if told.get(member) != row:
                told[member] = row
                words = (f"{title} {value}" for title, value in zip(TITLES[2:], row[2:], strict=True) if value)
                output().plain(f"{time.strftime('%H:%M:%S')}  {row[0]}  {row[1]}  {', '.join(words)}".rstrip())
        if number != rounds:
            await trio.sleep(every)


async def _watch_table(connection: Connection, every: float, timeout: float, rounds: int | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    number = 0
    with Live(console=output().console, auto_refresh=False, transient=False) as live:
        while rounds is None or number < rounds:
            number += 1
            found = await connection.status(timeout=timeout)
            table, below = status_table(connection.asked(found), found)
            lines = [*below, *policy_lines(found), time.strftime("%H:%M:%S")]
            live.update(Group(table, *(Text(line) for line in lines)), refresh=True)
            if number != rounds:
                await trio.sleep(every)


def policy_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the members' policy waits for, as each of them says it."""
    told: dict[str, list[str]] = {}
    for member in sorted(found):
        match found[member].get("policy"):
            case {"waits": str(waits)} if waits:
                text = "".join(one for one in waits[:200] if one.isprintable())
                told.setdefault(text, []).append(member)
            case _:
                pass
    return [f"policy: {text} ({', '.join(members)})" for text, members in told.items()]
