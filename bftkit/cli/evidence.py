"""`bftkit evidence`: what members can prove of each other's lies.

A member keeps its proofs in its folder. `verify` believes neither the member nor the file: it takes the keys from the
group's history, verified from the genesis on, and checks every signature itself. So a file can be mailed to somebody
who has nothing but a client's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, Parameter

from bftkit.channel.batches import judge_batch
from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.change import places_of
from bftkit.cli.client import DEFAULT_FOLDER, FolderOption, TimeoutOption
from bftkit.cli.output import harmless
from bftkit.cli.reach import accesses_of, history_of, reached
from bftkit.cli.way import way
from bftkit.client import OutcomeUnknown
from bftkit.core.plugin import load_protocol
from bftkit.core.wire import WireError
from bftkit.membership.chain import HandOver, Place
from bftkit.membership.evidence import Evidence, proves_false_dealing, why_not_proved
from bftkit.membership.verifiers import roster_verifier
from bftkit.node.assembly import genesis_settings
from bftkit.node.evidence import FOLDER, evidence_files, read_all, read_evidence
from bftkit.node.folders import ClientFolder, read_client

app = App(name="evidence", help="See and check what members can prove of each other's lies.")


@app.command(name="list")
async def list_(
    folder: Annotated[
        Path | None, Parameter(help="A member's folder, or its folder of evidence. With --api: the members' own.")
    ] = None,
    /,
) -> None:
    """The proofs that a member keeps, unchecked. The member may be running."""
    if folder is not None:
        found = [(path.name, str(path), evidence) for path, evidence in read_all(_folder(folder))]
    elif way() is not None:
        found = [(name, name, evidence) for name, evidence in await _fetched()]
    else:
        raise CommandFailed(ExitCode.USAGE, "give a member's folder, or --api with a member's HTTP interface")
    for _, place, evidence in found:
        output().event(
            "evidence",
            file=place,
            epoch=evidence.epoch,
            protocol=evidence.protocol,
            member=evidence.member,
            fault=evidence.fault,
            bytes=len(evidence.proof),
            seen_by=evidence.seen_by,
            seen_ms=evidence.seen_ms,
        )
    output().event("result", count=len(found))
    if output().json:
        return
    if not found:
        output().plain("no evidence")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("file", "epoch", "protocol", "member", "fault"):
        table.add_column(title)
    for name, _, evidence in found:
        texts = (name, str(evidence.epoch), evidence.protocol, evidence.member, evidence.fault)
        table.add_row(*(Text(harmless(text)) for text in texts))
    output().show(table)


@app.command
async def verify(
    *paths: Annotated[Path, Parameter(help="Files with evidence, or folders of them, or members' folders.")],
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
) -> ExitCode:
    """Check evidence with nothing but the group's genesis and history; exit code 1 if any of it proves nothing."""
    files = [file for path in paths for file in (evidence_files(_folder(path)) if path.is_dir() else [path])]
    if paths:
        found = [(file, read_evidence(file)) for file in files]
    elif way() is not None:
        found = [(Path(name), evidence) for name, evidence in await _fetched()]
    else:
        raise CommandFailed(ExitCode.USAGE, "give a file with evidence, or a member's folder")
    folder = read_client(client)  # the genesis must be somebody's word whom the operator trusts
    links = await _links(folder, [evidence for _, evidence in found], timeout)
    bad = 0
    for file, evidence in found:
        reason = check(evidence, folder, links)
        bad += reason is not None
        output().event(
            "evidence",
            file=file,
            epoch=evidence.epoch,
            member=evidence.member,
            fault=evidence.fault,
            proved=reason is None,
            reason=reason,
        )
        verdict = "proved" if reason is None else f"NOT proved: {reason}"
        output().plain(
            f"{file.name}: {evidence.member} in epoch {evidence.epoch}: {harmless(evidence.fault)}: {verdict}"
        )
    output().event("result", count=len(found), proved=len(found) - bad)
    if not found:
        output().plain("no evidence")
    return ExitCode.OK if bad == 0 else ExitCode.FAILED


def check(evidence: Evidence, folder: ClientFolder, links: tuple[HandOver, ...]) -> str | None:
    """Why this evidence proves nothing to one who knows the group's history, verified; None if it does."""
    group, places = folder.genesis.group_id, places_of(folder, links)
    if evidence.group != group:
        return "it is about another group"
    if not 0 <= evidence.epoch < len(places):
        return f"the group has not come to epoch {evidence.epoch}"
    place = places[evidence.epoch]
    here = place.configuration
    verifiers = roster_verifier(group)
    near = links[max(0, evidence.epoch - 1) : evidence.epoch + 1]
    if evidence.opening == place.opening and any(proves_false_dealing(evidence, link, verifiers) for link in near):
        return None
    verifier = verifiers(here, place.opening)
    return why_not_proved(evidence, place, load_protocol(here.protocol), verifier, _judge(folder, place))


def _judge(folder: ClientFolder, place: Place) -> Callable[[bytes], bool]:
    """Whether a batch is bad, by the rules of the group's members in that epoch."""
    genesis = folder.genesis
    rules = attrs.evolve(
        genesis_settings(genesis, genesis.roster.ids[0], None, None),
        member_keys={entry.epoch_key: entry.id for entry in place.configuration.roster.entries},
        place=place,
    )

    def is_bad(batch: bytes) -> bool:
        try:
            judge_batch(batch, rules)
        except WireError:
            return True
        return False

    return is_bad


async def _links(folder: ClientFolder, found: list[Evidence], timeout: float) -> tuple[HandOver, ...]:
    """The group's history, verified. For what happened in epoch 0 the genesis may be enough: then nobody is asked."""
    if folder.genesis.schedule is None or all(check(evidence, folder, ()) is None for evidence in found):
        return ()
    try:
        async with reached(folder.path) as (connection, _):
            return await history_of(connection, folder, timeout)
    except OutcomeUnknown as error:
        if any(evidence.epoch for evidence in found):
            raise
        output().log(f"bftkit: the group's history is not known ({error}); the genesis alone has to do")
        return ()


async def _fetched() -> list[tuple[str, Evidence]]:
    """The evidence that the members of the command's way keep, unchecked, each proof once."""
    from bftkit.client.http import AsyncHttpApi

    chosen = way()
    assert chosen is not None
    found: dict[str, Evidence] = {}
    for access in accesses_of(chosen):
        async with AsyncHttpApi(access) as api:
            for name, evidence in await api.evidence():
                found.setdefault(name, evidence)
    return sorted(found.items())


def _folder(path: Path) -> Path:
    """The folder with evidence in it."""
    if not path.is_dir():
        raise CommandFailed(ExitCode.BAD_CONFIGURATION, f"{path}: there is no such folder")
    return path / FOLDER if (path / FOLDER).is_dir() or (path / "member.toml").exists() else path
