"""`bftkit switch`: another protocol, or other settings of the same one, while the service runs.

A planned switch goes through the present protocol and happens at a checkpoint. If that protocol has stopped, it cannot
order its own end: then `--force` makes the members leave it without its help.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, validators

from bftkit.cli.app import CommandFailed, ExitCode, protocol_named
from bftkit.cli.change import How, change_group
from bftkit.membership.wishes import Wish

SetOption = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        help="A setting, as name=number: a parameter of the protocol, checkpoint_interval or window; may be repeated.",
        negative="",
        consume_multiple=True,
    ),
]
ByzantineOption = Annotated[
    int | None, Parameter(help="How many members may lie. Default: as now, or as many as the next group can bear.")
]
CrashOption = Annotated[int | None, Parameter(help="How many more may only crash. Default: the same.")]
AtOption = Annotated[
    int,
    Parameter(help="Not before the first checkpoint from this slot on.", validator=validators.Number(gte=0)),
]
NOW = How()


async def switch(
    protocol: Annotated[str, Parameter(help="The next protocol; the present one, to change its settings.")],
    /,
    *,
    force: Annotated[
        bool, Parameter(help="Leave a protocol that has stopped. Members, operators and faults stay.", negative="")
    ] = False,
    accept_loss: Annotated[
        bool,
        Parameter(
            help="With --force, from a group with c = 0: what a member that is gone alone has written may be lost.",
            negative="",
        ),
    ] = False,
    at: AtOption = 0,
    set_: SetOption = (),
    byzantine: ByzantineOption = None,
    crash: CrashOption = None,
    how: How = NOW,
) -> ExitCode:
    """Change the group's protocol or its settings while the service runs.

    A planned switch ends the epoch at a checkpoint; operations that wait move over, and each is executed once. With
    --force it is not ordered by the protocol: the members stop it, agree on what was decided, and go on from there.
    """
    if accept_loss and not force:
        raise CommandFailed(
            ExitCode.USAGE, "--accept-loss means nothing without --force; a planned switch loses nothing"
        )
    if force and at:
        raise CommandFailed(ExitCode.USAGE, "--at means nothing with --force: a forced switch happens at once")
    protocol_named(protocol)  # told before anybody is asked
    wish = Wish(
        protocol=protocol,
        settings=settings_of(set_),
        byzantine=byzantine,
        crash=crash,
        forced=force,
        at=at,
        accept_loss=accept_loss,
    )
    return await change_group(lambda known: wish, how)


def settings_of(given: tuple[str, ...]) -> dict[str, int]:
    """What the ``--set`` options say. Raises `CommandFailed`."""
    found: dict[str, int] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not (value.isascii() and value.isdigit()) or len(value) > 18:
            raise CommandFailed(ExitCode.USAGE, f"--set {text}: give name=number")
        if name in found:
            raise CommandFailed(ExitCode.USAGE, f"--set {text}: {name} is there twice")
        found[name] = int(value)
    return found
