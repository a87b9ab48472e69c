"""`bftkit events`: what happened to the group's configuration, and what went wrong, as members saw it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.client import DEFAULT_FOLDER, FolderOption, TimeoutOption
from bftkit.cli.output import harmless
from bftkit.cli.reach import nobody, reached
from bftkit.node.chronicle import read_events
from bftkit.node.folders import MEMBER_FILE, read_settings


async def events(
    folder: Annotated[
        Path | None,
        Parameter(help="A member's folder, for all its events. Without it, each member's newest ones."),
    ] = None,
    /,
    *,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 2.0,
) -> None:
    """Show the epochs that were entered, pauses, refused commands, blames and halts. A member may lie about its own."""
    if folder is not None:
        if not (folder / MEMBER_FILE).exists():
            raise CommandFailed(ExitCode.BAD_CONFIGURATION, f"{folder} is no member's folder")
        found = {read_settings(folder).id: list(read_events(folder))}
    else:
        async with reached(client) as (connection, _):
            statuses = await connection.status(timeout=timeout)
            if not statuses:
                raise nobody(connection)
        found = {member: newest_of(status) for member, status in statuses.items()}
    for when, member, entry in in_order(found):
        fields = {name: value for name, value in entry.items() if name not in ("event", "time_ms", "member")}
        subject = {"about": entry["member"]} if "member" in entry else {}
        what = str(entry.get("event"))
        told = {"what": what, "member": member, "time_ms": when}
        output().event(
            "happened", **{**told, **subject, **fields, **told}
        )  # whatever else an entry has, under any name
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when / 1000))
        output().plain(f"{stamp}  {member}  {harmless(in_words(entry))}")
    output().event("result", count=sum(map(len, found.values())))


def newest_of(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events in what a member says of itself; it may say anything."""
    said: object = status.get("events")
    if not isinstance(said, list):
        return []
    return [cast("dict[str, Any]", one) for one in cast("list[object]", said) if isinstance(one, dict)]


def in_order(found: Mapping[str, Sequence[dict[str, Any]]]) -> list[tuple[int, str, dict[str, Any]]]:
    """All members' events by time, each by its own clock."""
    every = [
        (entry["time_ms"], member, entry)
        for member in sorted(found)
        for entry in found[member]
        if type(entry.get("time_ms")) is int and 0 <= entry["time_ms"] < 1 << 42
    ]
    return sorted(every, key=lambda one: one[:2])


def in_words(entry: Mapping[str, Any]) -> str:
    """One line for an event."""
    match entry:
        case {"event": "started", "epoch": epoch, "protocol": protocol, "applied": applied}:
            return f"started in epoch {epoch} ({protocol}), slot {applied}" + (
                ", silent" if entry.get("silent") else ""
            )
        case {"event": "entered", "epoch": epoch, "from": before, "to": after, "kind": kind, "members": members}:
            slot = entry.get("after_slot")
            by = " by the policy" if entry.get("cause") == "policy" else ""
            why = f"; why: {entry['reason']}" if entry.get("reason") else ""
            return f"entered epoch {epoch} after slot {slot}: {before} to {after}, {kind}{by}, {_names(members)}{why}"
        case {"event": "resumed", "epoch": epoch, "pause_ms": pause}:
            return f"first decision of epoch {epoch}, {pause} ms after the last one of the epoch before"
        case {"event": "refused", "command": str(command), "reason": reason}:
            return f"refused command {command[:16]}: {reason}"
        case {"event": "blamed", "member": member, "fault": fault, "count": count}:
            proof = f"; proof {entry['evidence']}" if entry.get("evidence") else ""
            return f"blames {member}: {fault} ({count} times){proof}"
        case {"event": "halted", "reason": reason}:
            return f"halted: {reason}"
        case _:
            return " ".join(f"{name}={value}" for name, value in entry.items() if name != "time_ms")


def _names(members: object) -> str:
    return ", ".join(map(str, cast("list[object]", members))) if isinstance(members, list) else str(members)
