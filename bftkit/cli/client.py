"""`bftkit put`, `get`, `submit`, `status`: a client on the command line."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.client import connect_sync
from bftkit.membership.names import PROPOSALS_MAX, TEXT_MAX
from bftkit.service import keyvalue

if TYPE_CHECKING:
    from rich.table import Table

FolderOption = Annotated[
    Path, Parameter(name=["--client", "-c"], help="The client's folder, as `bftkit init` made it.")
]
DeadlineOption = Annotated[
    float | None,
    Parameter(
        help="Execute it within so many seconds of agreed time, or never. Default: what the group's needs say.",
        validator=validators.Number(gt=0),
    ),
]
TimeoutOption = Annotated[float, Parameter(help="Seconds to wait for an answer.", validator=validators.Number(gt=0))]

DEFAULT_FOLDER = Path("client")

TITLES = ("member", "state", "epoch", "protocol", "view", "leader", "applied", "stable", "waiting", "durability")
"""What `status` shows in a line; the last ones are missed least."""
COLUMNS_MIN = 4
GAP = 2
COLOURS = {"no answer": "red", "stopped": "red", "up": "green"}


def put(
    key: Annotated[str, Parameter(help="The key.")],
    value: Annotated[str, Parameter(help="The value.")],
    /,
    *,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
    deadline: DeadlineOption = None,
) -> None:
    """Store a value under a key of the key-value service."""
    operation = keyvalue.put(_key(key), value.encode())
    with connect_sync(client) as connection, _refusing_oversize():
        connection.submit(operation, timeout=timeout, deadline=deadline)
    output().event("put", key=key)
    output().plain("stored")


def get(
    key: Annotated[str, Parameter(help="The key.")],
    /,
    *,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
    consistency: Annotated[
        Literal["strong", "best-effort"] | None,
        Parameter(help="best-effort: one member's word is enough. Default: what the group's needs say."),
    ] = None,
) -> ExitCode:
    """Read the value under a key of the key-value service; exit code 1 if there is none."""
    operation = keyvalue.get(_key(key))
    with connect_sync(client) as connection, _refusing_oversize():
        found = connection.read_marked(operation, timeout=timeout, consistency=consistency)
    value = keyvalue.parse_value(found.result)
    told: dict[str, Any] = {"consistency": found.consistency}
    if found.member is not None:
        told |= {"member": found.member, "applied": found.applied}
        output().log(f"best-effort: {found.member} alone says so, from its state after slot {found.applied}")
    if value is None:
        output().event("get", key=key, value=None, **told)
        output().log(f"no value under {key!r}")
        return ExitCode.FAILED
    output().event("get", key=key, value=value.decode("utf-8", "replace"), **told)
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
    deadline: DeadlineOption = None,
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
        result = connection.submit(data, timeout=timeout, deadline=deadline)
    output().event("submit", result=result)
    output().plain(result.hex() if hexadecimal else result.decode("utf-8", "replace"))


async def status(
    *,
    watch: Annotated[bool, Parameter(help="Go on asking, until Ctrl-C.", negative="")] = False,
    every: Annotated[
        float, Parameter(help="With --watch: seconds from one round to the next.", validator=validators.Number(gte=0.1))
    ] = 1.0,
    rounds: Annotated[
        int | None, Parameter(help="With --watch: so many rounds only.", validator=validators.Number(gt=0))
    ] = None,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 2.0,
) -> ExitCode:
    """Ask every member how it is. Each answers for itself: no quorum is needed, and a liar may lie."""
    from bftkit.cli.reach import nobody, reached
    from bftkit.cli.watching import watch_status

    async with reached(client) as (connection, _):
        if watch:
            await watch_status(connection, every, timeout, rounds)
            return ExitCode.OK
        found = await connection.status(timeout=timeout)
        members, failure = connection.asked(found), nobody(connection)
    for member in members:
        # A member may say anything of itself, under any name.
        output().event("status", **{**found.get(member, {}), "member": member, "answered": member in found})
    if not output().json:
        show_status(members, found)
    if not found:
        raise failure
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


def show_status(members: tuple[str, ...], found: Mapping[str, Mapping[str, Any]]) -> None:
    """The answers as a table, as wide as there is room."""
    table, more = status_table(members, found)
    output().show(table)
    for line in more:
        output().plain(line)


def status_table(members: tuple[str, ...], found: Mapping[str, Mapping[str, Any]]) -> tuple[Table, list[str]]:
    """The table, and what is to be said below it."""
    from rich.table import Table
    from rich.text import Text

    rows = [TITLES, *(status_row(member, found.get(member)) for member in members)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    # On a narrow terminal the last columns are left out whole: a row that is cut in the middle of a word says less.
    room = output().console.width
    fit = next(
        (count for count in range(len(TITLES), COLUMNS_MIN, -1) if sum(widths[:count]) + GAP * (count - 1) <= room),
        COLUMNS_MIN,
    )
    table = Table(box=None, pad_edge=False)
    for title in TITLES[:fit]:
        table.add_column(title)
    for member, state, *more in rows[1:]:
        colour = COLOURS.get(state)
        # As texts: rich would take what stands in brackets for its own.
        table.add_row(Text(member), Text(state, style=colour or ""), *map(Text, more[: fit - 2]))
    below = [f"({', '.join(TITLES[fit:])}: on a wider terminal, or with --json)"] if fit < len(TITLES) else []
    return table, [*below, *proposed(found)]


def status_row(member: str, one: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A member's line. It may say anything of itself."""
    member = _printable(member)
    if one is None:
        return (member, "no answer", *[""] * (len(TITLES) - 2))
    state = "stopped" if one.get("stopped") else "silent" if one.get("silent") else "up"
    if one.get("catching_up"):
        state = "catching up"
    if one.get("everybody_proposes"):
        one = {**one, "leader": "everybody"}
    told = ("-" if one.get(name) is None else _printable(str(one[name])) for name in TITLES[2:])
    return (member, state, *told)


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
