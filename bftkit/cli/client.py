"""`bftkit put`, `get`, `submit`, `status`: a client on the command line."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.client import connect_sync
from bftkit.membership.names import PROPOSALS_MAX, TEXT_MAX
from bftkit.service import keyvalue

FolderOption = Annotated[
    Path, Parameter(name=["--client", "-c"], help="The client's folder, as `bftkit init` made it.")
]
TimeoutOption = Annotated[float, Parameter(help="Seconds to wait for an answer.", validator=validators.Number(gt=0))]

DEFAULT_FOLDER = Path("client")


def put(
    key: Annotated[str, Parameter(help="The key.")],
    value: Annotated[str, Parameter(help="The value.")],
    /,
    *,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Store a value under a key of the key-value service."""
    operation = keyvalue.put(_key(key), value.encode())
    with connect_sync(client) as connection, _refusing_oversize():
        connection.submit(operation, timeout=timeout)
    output().event("put", key=key)
    output().plain("stored")


def get(
    key: Annotated[str, Parameter(help="The key.")],
    /,
    *,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
) -> ExitCode:
    """Read the value under a key of the key-value service; exit code 1 if there is none."""
    operation = keyvalue.get(_key(key))
    with connect_sync(client) as connection, _refusing_oversize():
        value = keyvalue.parse_value(connection.read(operation, timeout=timeout))
    if value is None:
        output().event("get", key=key, value=None)
        output().log(f"no value under {key!r}")
        return ExitCode.FAILED
    output().event("get", key=key, value=value.decode("utf-8", "replace"))
    output().plain(value.decode("utf-8", "replace"))
    return ExitCode.OK


def submit(
    operation: Annotated[
        str | None, Parameter(help="The operation's bytes, as text; without it they are read from standard input.")
    ] = None,
    /,
    *,
    hexadecimal: Annotated[bool, Parameter(name="--hex", help="The text is hexadecimal digits.", negative="")] = False,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Submit an operation as it is, and show the result's bytes."""
    if operation is None:
        data = sys.stdin.buffer.read()
    elif hexadecimal:
        try:
            data = bytes.fromhex(operation)
        except ValueError:
            raise CommandFailed(ExitCode.USAGE, f"--hex: {operation!r} is not hexadecimal digits") from None
    else:
        data = operation.encode()
    with connect_sync(client) as connection, _refusing_oversize():
        result = connection.submit(data, timeout=timeout)
    output().event("submit", result=result)
    output().plain(result.hex() if hexadecimal else result.decode("utf-8", "replace"))


def status(*, client: FolderOption = DEFAULT_FOLDER, timeout: TimeoutOption = 2.0) -> ExitCode:
    """Ask every member how it is. Each answers for itself: no quorum is needed, and a liar may lie."""
    with connect_sync(client) as connection:
        members = connection.core.machine.settings.members
        found = connection.status(timeout=timeout)
    for member in members:
        fields: dict[str, Any] = dict(found.get(member, {"member": member}))
        output().event("status", answered=member in found, **fields)
    if not output().json:
        _show(members, found)
    if not found:
        raise CommandFailed(ExitCode.NO_ANSWER, "no member answered")
    return ExitCode.OK


def _key(text: str) -> bytes:
    key = text.encode()
    if not 0 < len(key) < 1 << 16:
        raise CommandFailed(ExitCode.USAGE, f"KEY has 1 to 65535 bytes, not {len(key)}")
    return key


@contextmanager
def _refusing_oversize() -> Generator[None]:
    """What exceeds the group's limit is not even sent."""
    try:
        yield
    except ValueError as error:
        raise CommandFailed(ExitCode.REFUSED, str(error)) from None


def _show(members: tuple[str, ...], found: Any) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    names = ("epoch", "protocol", "view", "leader", "applied", "stable", "waiting", "durability")
    for title in ("member", "state", *names):
        table.add_column(title)
    for member in members:
        one = found.get(member)
        if one is None:
            table.add_row(member, "[red]no answer[/red]")
            continue
        state = "[red]stopped[/red]" if one.get("stopped") else "silent" if one.get("silent") else "[green]up[/green]"
        if one.get("catching_up"):
            state = "catching up"
        if one.get("everybody_proposes"):
            one = {**one, "leader": "everybody"}
        table.add_row(member, state, *("-" if one.get(name) is None else str(one[name]) for name in names))
    output().show(table)
    for line in proposed(found):
        output().plain(line)


def proposed(found: Mapping[str, Any]) -> list[str]:
    """Who could become a member, as name services told these members. A member may lie, so anything may stand there."""
    tellers: dict[tuple[str, str, str], dict[str, None]] = {}
    for member in sorted(found):
        match found[member]:
            case {"names": {"proposals": [*proposals]}}:
                for proposal in proposals[:PROPOSALS_MAX]:
                    match proposal:
                        case {"id": str(id_), "identity": str(identity), "note": str(note)}:
                            told = (_printable(id_), _printable(identity), _printable(note))
                            tellers.setdefault(told, {})[member] = None
                        case _:
                            pass
            case _:
                pass
    return [
        f"proposed as a member: {id_}, identity {identity}{f' ({note})' if note else ''}, says {', '.join(told_by)}"
        for (id_, identity, note), told_by in sorted(tellers.items())
    ]


def _printable(text: str) -> str:
    return "".join(c for c in text[:TEXT_MAX] if c.isprintable())
