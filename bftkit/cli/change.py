"""What all commands that change a group have in common: from an operator's wish to the epoch that it began.

First the group's history is fetched and verified from the genesis on, so that the wish meets the configuration that is
in force. Then it is told what will happen, and asked whether it should. Then the command is signed, here and by nobody
else (no member ever sees an operator's key), sent to all members, and followed until it is carried out or refused.

If more operators must sign than have their keys here, `--out FILE` writes the command in place of sending it.
"""

from __future__ import annotations

import difflib
import secrets
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, cast

import attrs
import trio
from cyclopts import Parameter, validators

from bftkit.channel import frames
from bftkit.channel.client import CommandState
from bftkit.channel.preparing import trial
from bftkit.cli.app import CommandFailed, ExitCode, output, protocol_named
from bftkit.cli.change_view import FollowView
from bftkit.cli.presence import look
from bftkit.cli.reach import Connection, history_of, reached
from bftkit.client import OutcomeUnknown
from bftkit.client.errors import refused_in_words
from bftkit.configuration.keyfiles import KeyPair
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import verify_signature
from bftkit.membership.chain import HandOver, Place
from bftkit.membership.command_files import command_to_text
from bftkit.membership.commands import FORCED, Command, CommandError, SignedCommand, sign_command
from bftkit.membership.epochs import Configuration, Schedule, extended
from bftkit.membership.verifiers import founding_place
from bftkit.membership.wishes import OF_THE_GROUP, Prospect, Wish, explain, foresee
from bftkit.node.folders import ClientFolder, read_key, write_file

STATES: Final[Mapping[int, str]] = {
    frames.UNKNOWN_COMMAND: "unknown",
    frames.TAKEN: "taken",
    frames.PREPARED: "prepared",
    frames.COMMITTED: "committed",
    frames.DONE: "done",
    frames.REFUSED: "refused",
}
STATUS_SECONDS: Final = 0.25
PAUSE_SECONDS: Final = 3.0
"""So long members may take, after the switch, to know how long it took."""
IDLE_ROUNDS: Final = 2
"""So often members that are ready are asked again whether they have decided anything."""
DEFAULT_KEY: Final = Path("operator") / "operator.key"


@Parameter(name="*")
@attrs.frozen
class How:
    """How a change is made: the options that all these commands share."""

    client: Annotated[Path, Parameter(name=["--client", "-c"], help="A client's folder, as `bftkit init` made it.")] = (
        Path("client")
    )
    operator_key: Annotated[
        tuple[Path, ...],
        Parameter(
            help="An operator's key file. For several, the option is repeated, once before each. Default: "
            "operator/operator.key beside the client's folder.",
            negative="",
            metavar="PATH",
            show_default=False,
        ),
    ] = ()
    out: Annotated[
        Path | None,
        Parameter(help="Write the signed command to this new file in place of sending it, for others to sign."),
    ] = None
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], help="Do not ask.", negative="")] = False
    dry_run: Annotated[bool, Parameter(help="Only tell what would happen.", negative="")] = False
    timeout: Annotated[
        float, Parameter(help="Seconds to wait until it is carried out.", validator=validators.Number(gt=0))
    ] = 60.0


@attrs.frozen
class Known:
    """What an operator knows of the group, verified from the genesis on."""

    folder: ClientFolder
    links: tuple[HandOver, ...]
    here: Configuration
    schedule: Schedule

    @property
    def group(self) -> bytes:
        """The group's id."""
        return self.folder.genesis.group_id


@asynccontextmanager
async def connected(folder: Path, timeout: float) -> AsyncGenerator[tuple[Connection, Known]]:
    """A connection with the group, and its verified history. Raises as `AsyncClient.history` does."""
    async with reached(folder) as (client, found):
        changes = found.genesis.schedule is not None
        links = await history_of(client, found, min(timeout, 10.0)) if changes else ()
        yield client, known_by(found, links)


def known_by(found: ClientFolder, links: Sequence[HandOver]) -> Known:
    """What follows from a verified history."""
    genesis = found.genesis
    schedule: Schedule = genesis.schedule if genesis.schedule is not None else {}
    here = Configuration.first(genesis)
    for link in links:
        schedule = extended(schedule, link.signed.command)
        here = link.next
    return Known(found, tuple(links), here, schedule)


def places_of(found: ClientFolder, links: Sequence[HandOver]) -> tuple[Place, ...]:
    """Configuration and opening of every epoch of a verified history, from epoch 0 on."""
    return (founding_place(found.genesis), *(Place(link.next, link.ending.opening) for link in links))


# ------------------------------------------------------------------------------------------------- the whole way


async def change_group(make: Callable[[Known], Wish], how: How) -> ExitCode:
    """Carry out a wish, from the history to the new epoch. `make` gets the group as it is now."""
    async with connected(how.client, how.timeout) as (client, known):
        require_change(known)
        try:
            wish = make(known)
            present = load_protocol(known.here.protocol).record
            wished = protocol_named(wish.protocol) if wish.protocol is not None else present
            require_names(wish, wished)
            nonce = secrets.token_bytes(16)
            prospect = foresee(known.here, known.schedule, wish, present, wished, group=known.group, nonce=nonce)
            require_beginning(prospect)
        except CommandError as error:
            raise CommandFailed(ExitCode.REFUSED, str(error)) from None
        return await carry_out(client, known, prospect, how)


def require_names(wish: Wish, record: ProtocolRecord) -> None:
    """Whether all settings of a wish are settings. Raises `CommandFailed`."""
    known = {*record.parameters, *OF_THE_GROUP}
    for name in wish.settings:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, 1))
            told = f"did you mean {near!r}?" if near else f"known here: {', '.join(sorted(known))}"
            raise CommandFailed(ExitCode.USAGE, f"--set {name}: {record.name} has no parameter {name!r}; {told}")


def require_change(known: Known) -> None:
    """Whether this group can change at all. Raises `CommandFailed`."""
    genesis = known.folder.genesis
    if genesis.schedule is None:
        raise CommandFailed(
            ExitCode.REFUSED,
            f"{genesis.name} was founded without the list of its members' keys, so its configuration never changes",
        )


async def carry_out(client: Connection, known: Known, prospect: Prospect, how: How) -> ExitCode:
    """Tell, ask, sign, and send or write."""
    await tell(client, known, prospect, dry_run=how.dry_run)
    if how.dry_run:
        return ExitCode.OK
    signed = sign_command(prospect.command, *(key.signing_key for key in operator_keys(known, how)))
    if how.out is not None:
        return write_command(how.out, signed, known.here)
    require_enough(known, signed)
    ask(how)
    return await send(client, known, signed, how.timeout)


def prospect_of(known: Known, command: Command) -> Prospect:
    """What a command would do that came in a file. Raises `CommandFailed` for one that the members would refuse."""
    require_change(known)
    here = known.here
    if command.group != known.group:
        raise CommandFailed(ExitCode.BAD_CONFIGURATION, f"the command is for another group, {command.group.hex()}")
    if command.epoch != here.epoch:
        raise CommandFailed(
            ExitCode.REFUSED,
            f"the command is for epoch {command.epoch}, and this is epoch {here.epoch}: it means nothing any more",
        )
    try:
        present = load_protocol(here.protocol).record
        wished = load_protocol(command.change.protocol).record if command.change is not None else present
        prospect = explain(here, known.schedule, command, present, wished)
        require_beginning(prospect)
        return prospect
    except CommandError as error:
        raise CommandFailed(ExitCode.REFUSED, str(error)) from None


def require_beginning(prospect: Prospect) -> None:
    """Whether the protocol would begin under the next configuration, as far as it is installed here.

    Members ask the same of theirs. Raises `CommandError`.
    """
    there = prospect.next
    reason = trial(load_protocol(there.protocol), there) if there is not None else None
    if reason is not None:
        raise CommandError(reason)


# ------------------------------------------------------------------------------------------------- before


async def tell(client: Connection, known: Known, prospect: Prospect, *, dry_run: bool) -> None:
    """What will happen, and who of those that must be there for it was heard of."""
    here, command = prospect.here, prospect.command
    change = command.change
    presence = await look(client, known.folder, here, change) if change is not None else None
    missing = presence.in_words() if presence is not None else ()
    output().event(
        "plan",
        kind=prospect.kind,
        epoch=here.epoch,
        members=[seat.id for seat in change.members] if change is not None else list(here.members),
        **{"from": here.protocol, "to": change.protocol if change is not None else here.protocol},
        changes=[{"what": what, "before": before, "after": after} for what, before, after in prospect.differences],
        meanwhile=prospect.meanwhile,
        warnings=(*prospect.warnings, *missing),
        absent=presence.missing if presence is not None else (),
        bears=presence.bears if presence is not None else None,
        dry_run=dry_run,
    )
    if output().json:
        return
    from rich.markup import escape
    from rich.table import Table

    name = known.folder.genesis.name
    what = f"A {prospect.kind} change of {name}" if change is not None else f"Taking back a change of {name}"
    output().show(f"{what}, which is in epoch {here.epoch}:\n")
    if prospect.rows:
        table = Table(box=None, pad_edge=False)
        for title in ("", "now", "then"):
            table.add_column(title)
        for what, before, after in prospect.rows:
            table.add_row(what, before, "" if before == after else f"[bold]{after}[/bold]")
        output().show(table)
    output().plain("")
    for told in prospect.meanwhile:
        output().plain(told)
    for told in (*prospect.warnings, *missing):
        output().show(f"[yellow]Note:[/yellow] {escape(told)}")
    if dry_run:
        output().plain("\nNothing was signed, nothing was sent.")


def operator_keys(known: Known, how: How) -> tuple[KeyPair, ...]:
    """The operators' keys that are to sign. Raises `CommandFailed`, `ConfigurationError`."""
    paths = how.operator_key
    if not paths:
        beside = known.folder.path.resolve().parent / DEFAULT_KEY
        if not beside.exists():
            raise CommandFailed(ExitCode.USAGE, f"--operator-key is missing, and there is no {beside}")
        paths = (beside,)
    return read_operator_keys(paths, known.here)


def read_operator_keys(paths: Sequence[Path], here: Configuration) -> tuple[KeyPair, ...]:
    """Operators' keys, each that of an operator of this configuration."""
    keys = tuple(read_key(path, "operator") for path in paths)
    for path, key in zip(paths, keys, strict=True):
        if key.public not in here.operators:
            listed = ", ".join(public.hex()[:16] for public in here.operators)
            raise CommandFailed(
                ExitCode.REFUSED,
                f"{path}: {key.public.hex()[:16]} is no operator in epoch {here.epoch}; the operators are {listed}",
            )
    return keys


def require_enough(known: Known, signed: SignedCommand) -> None:
    """Whether enough operators of this epoch signed. Raises `CommandFailed`."""
    here = known.here
    try:
        signed.check(known.group, here.epoch, here.operators, here.operator_threshold, verify_signature)
    except CommandError as error:
        advice = "; give more with --operator-key, or write a file for others to sign with --out"
        few = len(signed.signatures) < here.operator_threshold
        raise CommandFailed(ExitCode.REFUSED, f"{error}{advice if few else ''}") from None


def write_command(path: Path, signed: SignedCommand, here: Configuration) -> ExitCode:
    """Write the command for others to sign."""
    try:
        write_file(path, command_to_text(signed))
    except FileExistsError:
        raise CommandFailed(ExitCode.FAILED, f"{path} is there already; nothing was changed") from None
    missing = max(0, here.operator_threshold - len(signed.signatures))
    tell_written(path, signed, missing)
    return ExitCode.OK


def tell_written(path: Path, signed: SignedCommand, missing: int) -> None:
    """Say where a signed command is, and what is still to do with it."""
    output().event(
        "written",
        file=path,
        command=signed.name,
        signed_by=[item.operator.hex() for item in signed.signatures],
        missing=missing,
    )
    more = f"{missing} more must sign it: bftkit operator sign {path} --operator-key KEY" if missing else ""
    output().plain(f"Written to {path}. {more or f'Send it: bftkit operator send {path}'}")


def ask(how: How) -> None:
    """Go on only if somebody said so. Raises `CommandFailed`."""
    if how.yes or output().json:
        return
    if not (output().interactive and sys.stdin.isatty()):
        raise CommandFailed(
            ExitCode.USAGE, "nobody can be asked whether to go on; say --yes (or --dry-run to look only)"
        )
    output().console.print("\nGo on? [y/N] ", end="", markup=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed(ExitCode.FAILED, "nothing was changed")


# ------------------------------------------------------------------------------------------------- after


async def send(client: Connection, known: Known, signed: SignedCommand, timeout: float) -> ExitCode:
    """Send the command, follow it, and say what became of it."""
    here = known.here
    began = time.monotonic()
    view = FollowView(client.configuration.members)
    last: CommandState | None = None
    late: OutcomeUnknown | None = None
    with view:
        async with trio.open_nursery() as nursery:
            if output().interactive:
                nursery.start_soon(_watch, client, view)
            try:
                async for state in client.order(signed, timeout=timeout):
                    last = state
                    view.on_state(state)
                    _tell_state(state)
            except OutcomeUnknown as error:
                # Said below, when the view is gone and nothing is asked any more.
                late = error
            nursery.cancel_scope.cancel()
    if late is not None:
        if last is None or last.state == frames.UNKNOWN_COMMAND:
            raise late
        raise still_under_way(last, signed.command.kind, timeout, client.refused_links)
    assert last is not None, "a client that has nothing to say any more raises"
    if last.state == frames.REFUSED:
        raise CommandFailed(ExitCode.REFUSED, refusal_of(last))
    seconds = round(time.monotonic() - began, 3)
    if signed.command.change is None:
        output().event("result", command=signed.name, epoch=here.epoch, seconds=seconds)
        output().plain(f"Taken back; epoch {here.epoch} goes on.")
        return ExitCode.OK
    await _tell_switch(client, known, signed, seconds)
    return ExitCode.OK


def _tell_state(state: CommandState) -> None:
    output().event(
        "command",
        command=state.name,
        state=STATES[state.state],
        text=state.text,
        by=state.by,
        answers={member: [STATES[one], text] for member, (one, text) in sorted(state.answers.items())},
    )


def still_under_way(
    state: CommandState, kind: int, timeout: float, refused: Mapping[MemberId, tuple[int, str]]
) -> CommandFailed:
    """What is known when the operator's patience is over."""
    where = STATES[state.state] + (f" ({state.text})" if state.text else "")
    way_out = "bftkit operator cancel takes back what is not committed"
    if kind == FORCED:
        way_out = "a forced change is not taken back, and goes on as soon as enough members are up"
    elif state.state == frames.COMMITTED:
        way_out = "what is committed cannot be cancelled, only bftkit switch --force ends the epoch before"
    told = (
        f"not carried out within {timeout:g} s: {where}. It stays under way: bftkit history says whether it was done",
        way_out,
        *refused_in_words(refused),
    )
    return CommandFailed(ExitCode.TOO_FEW_AGREED, "; ".join(told))


async def _watch(client: Connection, view: FollowView) -> None:
    while True:
        view.on_statuses(await client.status(timeout=STATUS_SECONDS))
        await trio.sleep(STATUS_SECONDS)


def refusal_of(state: CommandState) -> str:
    """Why a command was refused: what the members agree on, else what each of them says."""
    if state.text:
        return state.text
    told: dict[str, list[MemberId]] = {}
    for member, (one, text) in sorted(state.answers.items()):
        if one == frames.REFUSED:
            told.setdefault(text, []).append(member)
    return "; ".join(f"{', '.join(members)}: {text}" for text, members in told.items()) or "refused"


async def _tell_switch(client: Connection, known: Known, signed: SignedCommand, seconds: float) -> None:
    """The end: what is in force now, and how long service was paused, as the members measured it."""
    here, epoch = known.here, known.here.epoch + 1
    change = signed.command.change
    assert change is not None
    told = await _switches(client, epoch)
    pause, ready = median_of(told, "pause_ms"), median_of(told, "ready_ms")
    # Where nothing was waiting there is no pause, and what is told is when the group was ready.
    by = _measured(told, "pause_ms") or _measured(told, "ready_ms")
    kind = "forced" if signed.command.forced else "planned"
    members = [seat.id for seat in change.members]
    words: dict[str, Any] = {"from": here.protocol, "to": change.protocol}
    output().event("switch", epoch=epoch, **words, kind=kind, members=len(members), pause_ms=pause, ready_ms=ready)
    output().event(
        "result",
        command=signed.name,
        epoch=epoch,
        protocol=change.protocol,
        members=members,
        byzantine=change.f,
        crash=change.c,
        pause_ms=pause,
        ready_ms=ready,
        measured_by=by,
        seconds=seconds,
    )
    output().plain(f"Epoch {epoch} has begun: {change.protocol} on {', '.join(members)}.")
    output().plain(pause_in_words(pause, ready, len(by)))


async def _switches(client: Connection, epoch: int) -> dict[MemberId, dict[str, Any]]:
    """What the members say of the switch to this epoch, once most of them know how long it took."""
    found: dict[MemberId, dict[str, Any]] = {}
    enough = client.configuration.quorum.available
    idle = 0
    with trio.move_on_after(PAUSE_SECONDS):
        while True:
            for member, status in (await client.status(timeout=STATUS_SECONDS)).items():
                switch: Any = status.get("switch")
                if isinstance(switch, dict) and cast("dict[str, Any]", switch).get("epoch") == epoch:
                    found[member] = cast("dict[str, Any]", switch)
            if len(_measured(found, "pause_ms")) >= enough:
                break
            if len(_measured(found, "ready_ms")) >= enough:
                idle += 1
                if idle > IDLE_ROUNDS:
                    break  # nobody has anything to decide
            await trio.sleep(STATUS_SECONDS)
    return found


def _measured(told: Mapping[MemberId, Mapping[str, Any]], name: str) -> list[MemberId]:
    """Whose figures these are."""
    return sorted(member for member, one in told.items() if type(one.get(name)) in (int, float))


def median_of(told: Mapping[MemberId, Mapping[str, Any]], name: str) -> float | None:
    """The median of what members say; None if nobody does. One that lies moves it by one place at most."""
    values = [float(told[member][name]) for member in _measured(told, name)]
    return round(statistics.median(values), 1) if values else None


def pause_in_words(pause: float | None, ready: float | None, count: int) -> str:
    """How long service was paused, as far as it is known."""
    whose = f"median of {count} members" if count > 1 else "as one member measured it"
    if pause is not None:
        return f"Service was paused for {pause:g} ms ({whose})."
    if ready is not None:
        return f"The group was ready again after {ready:g} ms ({whose}); nothing was waiting."
    return "No member has said how long service was paused."


__all__ = [
    "STATES",
    "How",
    "Known",
    "carry_out",
    "change_group",
    "connected",
    "known_by",
    "places_of",
    "prospect_of",
    "send",
]
