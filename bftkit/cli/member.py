"""`bftkit member`: who is in the group, and changes of that while the service runs.

A new member's keys are made on its own machine (`bftkit init DIR --join GENESIS`), which prints a *card*: what the
group must know of it, and nothing secret. With the card an operator takes it in. It should run by then: it follows the
group as an observer, and counts from the next epoch on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output, protocol_named
from bftkit.cli.change import How, Known, change_group, connected
from bftkit.cli.client import DEFAULT_FOLDER, FolderOption, TimeoutOption
from bftkit.cli.keygen import address_argument
from bftkit.cli.switch import NOW, AtOption, ByzantineOption, CrashOption, SetOption, settings_of
from bftkit.configuration.text import ConfigurationError
from bftkit.membership.card import MemberCard
from bftkit.membership.commands import Seat
from bftkit.membership.wishes import Wish, bears

app = App(name="member", help="See who is in the group, and change that.")

CardOption = Annotated[Path, Parameter(help="The member's card, as `bftkit init --join` made it (or its folder).")]
MoreCardsOption = Annotated[
    tuple[Path, ...],
    Parameter(name="--card", help="A new member's card; may be repeated.", negative="", consume_multiple=True),
]
ProtocolOption = Annotated[str | None, Parameter(help="Change the protocol in the same step.")]
IdArgument = Annotated[str, Parameter(help="The member's id.")]
CARD_FILE = "card.toml"


@app.command(name="list")
async def list_(*, client: FolderOption = DEFAULT_FOLDER, timeout: TimeoutOption = 10.0) -> None:
    """The members of the present epoch, as the verified history names them, and whether each answers."""
    async with connected(client, timeout) as (connection, known):
        there = connection.present(await connection.status(timeout=min(timeout, 2.0)))
    here = known.here
    for entry in here.roster.entries:
        output().event(
            "member",
            id=entry.id,
            epoch=here.epoch,
            addresses=entry.addresses,
            identity=entry.identity,
            epoch_root=entry.epoch_root,
            epochs_left=entry.epoch_count - 1 - here.epoch,
            answered=entry.id in there,
        )
    quorum = here.quorum
    output().event(
        "group",
        epoch=here.epoch,
        protocol=here.protocol,
        members=here.members,
        byzantine=here.f,
        crash=here.c,
        quorum=quorum.certificate,
    )
    if output().json:
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("member", "", "addresses", "identity", "epochs left"):
        table.add_column(title)
    for entry in here.roster.entries:
        state = "[green]up[/green]" if entry.id in there else "[red]no answer[/red]"
        left = str(entry.epoch_count - 1 - here.epoch)
        table.add_row(entry.id, state, " ".join(entry.addresses), entry.identity.hex()[:16], left)
    output().show(table)
    output().plain(
        f"\nEpoch {here.epoch}: {here.protocol} on {quorum.n} members; {bears(here.f, here.c)}; "
        f"{quorum.certificate} decide."
    )


@app.command
async def add(
    *,
    card: MoreCardsOption,
    protocol: ProtocolOption = None,
    byzantine: ByzantineOption = None,
    crash: CrashOption = None,
    set_: SetOption = (),
    at: AtOption = 0,
    how: How = NOW,
) -> ExitCode:
    """Take new members in, and change the protocol in the same step if you like."""
    if not card:
        raise CommandFailed(ExitCode.USAGE, "--card is missing: give the card of each new member")
    if protocol is not None:
        protocol_named(protocol)

    def make(known: Known) -> Wish:
        seats = tuple(read_seat(path, known) for path in card)
        return Wish(protocol, settings_of(set_), byzantine, crash, add=seats, at=at)

    return await change_group(make, how)


@app.command
async def remove(
    member: IdArgument,
    /,
    *more: IdArgument,
    protocol: ProtocolOption = None,
    byzantine: ByzantineOption = None,
    crash: CrashOption = None,
    set_: SetOption = (),
    at: AtOption = 0,
    how: How = NOW,
) -> ExitCode:
    """Let members go. They serve the state until the next epoch has begun, and are refused from then on."""
    wish = Wish(protocol, settings_of(set_), byzantine, crash, remove=(member, *more), at=at)
    return await change_group(lambda known: wish, how)


@app.command
async def replace(member: IdArgument, /, *, card: CardOption, at: AtOption = 0, how: How = NOW) -> ExitCode:
    """Put a new member in the place of an old one."""

    def make(known: Known) -> Wish:
        seat = read_seat(card, known)
        if seat.id == member:
            raise CommandFailed(ExitCode.USAGE, f"the card is of {member} itself: use bftkit member rotate")
        return Wish(replace={member: seat}, at=at)

    return await change_group(make, how)


@app.command
async def rotate(member: IdArgument, /, *, card: CardOption, at: AtOption = 0, how: How = NOW) -> ExitCode:
    """Give a member new keys: when the old ones run out, may be known to others, or were forgotten with its disk."""

    def make(known: Known) -> Wish:
        seat = read_seat(card, known)
        if seat.id != member:
            raise CommandFailed(ExitCode.USAGE, f"the card is of {seat.id}, not of {member}: use bftkit member replace")
        return Wish(replace={member: seat}, at=at)

    return await change_group(make, how)


@app.command
async def address(
    member: IdArgument,
    /,
    *addresses: Annotated[str, Parameter(help="Where it is reached from then on, in this order, as tcp://host:port.")],
    at: AtOption = 0,
    how: How = NOW,
) -> ExitCode:
    """Change where a member is reached. Its own settings must say where it listens."""
    if not addresses:
        raise CommandFailed(ExitCode.USAGE, f"give at least one address for {member}, as tcp://host:port")
    places = tuple(address_argument(text, text) for text in addresses)
    return await change_group(lambda known: Wish(addresses={member: places}, at=at), how)


def read_seat(path: Path, known: Known) -> Seat:
    """The seat of the member whose card this is. Raises `ConfigurationError`, also for another group's card."""
    file = path / CARD_FILE if path.is_dir() else path
    card = _parse(file)
    if card.group is not None and card.group != known.group:
        raise ConfigurationError(
            str(file),
            f"the card was made for the group {card.group.hex()}, and this is {known.group.hex()}",
            "make the member's folder with this group's genesis",
        )
    return card.seat()


def _parse(file: Path) -> MemberCard:
    try:
        return MemberCard.from_text(file.read_text("utf-8"))
    except ConfigurationError as error:
        raise error.inside(str(file)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(str(file), "the file is not UTF-8 text", "give the path of the right file") from None
