"""`bftkit history`: the chain of the group's configurations, each link verified from the genesis on.

Nothing here is believed: every link has the signatures of a quorum of the epoch that it ends, and the operators'
command that caused it (SAFETY rule 28). Whoever joins a group whose founders are gone learns from them who the members
are: `--save` writes them for `bftkit init --join` (docs/adr/0024-history-for-who-joins.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.change import Known, connected
from bftkit.cli.client import DEFAULT_FOLDER, FolderOption, TimeoutOption
from bftkit.membership.chain import HandOver
from bftkit.membership.epochs import Configuration
from bftkit.membership.history_file import history_to_bytes
from bftkit.node.folders import write_file


async def history(
    *,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
    from_epoch: Annotated[int, Parameter(name="--from", help="The first epoch to show.")] = 0,
    save: Annotated[
        Path | None, Parameter(help="Write the hand-overs to this new file, for `bftkit init --join --history`.")
    ] = None,
) -> None:
    """Fetch the group's history, verify all of it, and show it."""
    if save is not None and save.exists():
        raise CommandFailed(ExitCode.FAILED, f"{save} is there already; nothing was changed")
    async with connected(client, timeout) as (connection, known):
        refused = dict(connection.refused_links)
    if save is not None:
        try:
            write_file(save, history_to_bytes(known.group, known.links))
        except OSError as error:
            raise CommandFailed(ExitCode.FAILED, f"{save} cannot be written: {error.strerror}") from None
    configurations = (Configuration.first(known.folder.genesis), *(link.next for link in known.links))
    for configuration in configurations[max(0, from_epoch) :]:
        link = known.links[configuration.epoch - 1] if configuration.epoch else None
        _event(configuration, link)
    newest = known.links[-1].ending if known.links else None
    output().event(
        "history",
        epochs=len(configurations),
        verified=True,
        refused=refused,
        trusted_epoch=newest.epoch + 1 if newest is not None else None,
        trusted_digest=newest.opening if newest is not None else None,
    )
    if not output().json:
        _show(known, configurations[max(0, from_epoch) :])
    for member, (count, why) in sorted(refused.items()):
        output().log(f"bftkit: {member} showed {count} links that do not hold; the last: {why}")


def _event(configuration: Configuration, link: HandOver | None) -> None:
    quorum = configuration.quorum
    output().event(
        "epoch",
        epoch=configuration.epoch,
        protocol=configuration.protocol,
        members=configuration.members,
        byzantine=configuration.f,
        crash=configuration.c,
        quorum=quorum.certificate,
        kind=link.kind if link is not None else "founded",
        cause=link.cause if link is not None else "founders",
        reason=link.signed.command.reason if link is not None else "",
        after_slot=link.ending.slot if link is not None else 0,
        state=link.ending.root if link is not None else None,
        opening=link.ending.opening if link is not None else None,
        command=link.ending.command if link is not None else None,
        signed_by=[vote.member for vote in link.certificate.votes] if link is not None else [],
        operators=[item.operator.hex() for item in link.signed.signatures] if link is not None else [],
    )


def _show(known: Known, configurations: tuple[Configuration, ...]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("epoch", "", "after slot", "protocol", "members", "f", "c", "signed by", "operators"):
        table.add_column(title)
    for one in configurations:
        link = known.links[one.epoch - 1] if one.epoch else None
        table.add_row(
            str(one.epoch),
            _kind(link) if link is not None else "founded",
            f"{link.ending.slot:,}" if link is not None else "-",
            one.protocol,
            " ".join(one.members),
            str(one.f),
            str(one.c),
            " ".join(vote.member for vote in link.certificate.votes) if link is not None else "-",
            " ".join(item.operator.hex()[:8] for item in link.signed.signatures) if link is not None else "-",
        )
    output().show(table)
    for one in configurations:
        reason = known.links[one.epoch - 1].signed.command.reason if one.epoch else ""
        if reason:
            output().plain(f"epoch {one.epoch}, why: {reason}")
    name = known.folder.genesis.name
    output().plain(f"\n{name} is in epoch {known.here.epoch}; every link was verified from its genesis on.")
    if known.links:
        output().plain("For another client's client.toml, so that it believes nobody before this epoch:")
        output().plain(f'trusted_epoch = {known.here.epoch}\ntrusted_digest = "{known.links[-1].ending.opening.hex()}"')


def _kind(link: HandOver) -> str:
    return f"{link.kind} by policy" if link.cause == "policy" else link.kind
