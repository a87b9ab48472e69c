"""`bftkit config check` and `bftkit config show`: on a member's folder, a client's, a genesis, or all of a group."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, Parameter

from bftkit.cli.app import ExitCode, output
from bftkit.configuration.text import ConfigurationError
from bftkit.core.plugin import UnknownProtocol, load_protocol, protocol_names
from bftkit.membership.genesis import Genesis, genesis_table
from bftkit.node.folders import CLIENT_FILE, GENESIS_FILE, MEMBER_FILE, read_client, read_genesis, read_member
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.head import HEAD_NAME

app = App(name="config", help="Check or show the configuration in a folder or a genesis.")

Target = Annotated[Path, Parameter(help="A member's folder, a client's folder, a genesis file, or a group's folder.")]


@attrs.frozen
class _Found:
    """One configuration, read and found good."""

    path: Path
    kind: str
    genesis: Genesis
    details: dict[str, object]
    notes: tuple[str, ...] = ()
    text: str = ""
    """The settings as they are in force, defaults included."""


@app.command
def check(target: Target = Path(), /) -> ExitCode:
    """Check a configuration; say what is wrong, where, and what would be right. Exit code 3 if anything is wrong."""
    out = output()
    groups: dict[bytes, Path] = {}
    wrong = 0
    for path, read in _readers(target):
        try:
            found = read(path)
            _check_installed(found)
            other = next(iter(groups.values()), None)
            if other is not None and found.genesis.group_id not in groups:
                raise ConfigurationError(
                    str(path), f"this is another group than {other}", "copy one genesis to all members and clients"
                )
            groups.setdefault(found.genesis.group_id, path)
        except ConfigurationError as error:
            wrong += 1
            out.event("problem", path=str(path), where=error.where, wrong=error.wrong, right=error.suggestion)
            out.log(f"bftkit: {error}")
            continue
        out.event("checked", path=str(path), kind=found.kind, group=found.genesis.group_id, notes=found.notes)
        out.plain(f"{path}: this {found.kind} is good (group {found.genesis.group_id.hex()[:16]})")
        for note in found.notes:
            out.plain(f"  note: {note}")
    return ExitCode.BAD_CONFIGURATION if wrong else ExitCode.OK


@app.command
def show(target: Target = Path(), /) -> None:
    """Show a configuration as it is in force, defaults included. Secrets are never shown."""
    out = output()
    for path, read in _readers(target):
        found = read(path)
        quorum = found.genesis.quorum
        out.event(
            "configuration",
            path=str(path),
            kind=found.kind,
            group=found.genesis.group_id,
            quorum={"certificate": quorum.certificate, "available": quorum.available, "weak": quorum.weak},
            genesis=genesis_table(found.genesis),
            **found.details,
        )
        out.plain(f"# {path}: a {found.kind}")
        out.plain(
            f"# {quorum.n} members, {quorum.f} may lie, {quorum.c} more may crash: "
            f"{quorum.certificate} decide, {quorum.weak} equal answers convince a client\n"
        )
        out.plain("\n".join(text.rstrip() for text in (found.text, found.genesis.to_text()) if text) + "\n")


# ------------------------------------------------------------------------------------------------- reading


def _readers(target: Path) -> Iterator[tuple[Path, Callable[[Path], _Found]]]:
    """What there is to read at the target, each with its reader, in a fixed order."""
    if (target / MEMBER_FILE).exists():
        yield target, _member
    elif (target / CLIENT_FILE).exists():
        yield target, _client
    elif target.is_dir():
        yield target / GENESIS_FILE, _genesis
        for folder in sorted(child for child in target.iterdir() if child.is_dir()):
            if (folder / MEMBER_FILE).exists():
                yield folder, _member
            elif (folder / CLIENT_FILE).exists():
                yield folder, _client
    else:
        yield target, _genesis


def _genesis(path: Path) -> _Found:
    return _Found(path, "genesis", read_genesis(path), {})


def _client(path: Path) -> _Found:
    folder = read_client(path)
    details: dict[str, object] = {"client": folder.key.public, "settings": attrs.asdict(folder.settings)}
    return _Found(path, "client", folder.genesis, details, text=folder.settings.to_text())


def _member(path: Path) -> _Found:
    folder = read_member(path)
    notes: list[str] = []
    if HEAD_NAME not in DiskDirectory(folder.log).names():
        notes.append(f"{folder.log} has no log: this member has forgotten, and will stay silent (SAFETY rule 16)")
    if folder.settings.durability != "fsync":
        notes.append(f'durability "{folder.settings.durability}": a restart counts as having forgotten everything')
    details: dict[str, object] = {"member": folder.settings.id, "settings": attrs.asdict(folder.settings)}
    return _Found(path, "member", folder.genesis, details, tuple(notes), folder.settings.to_text())


def _check_installed(found: _Found) -> None:
    """Whether what the configuration names is installed here: the protocol, and for a member the service."""
    genesis = found.genesis
    try:
        genesis.check_protocol(load_protocol(genesis.protocol).record)
    except UnknownProtocol as error:
        names = ", ".join(protocol_names())
        raise ConfigurationError(str(found.path), str(error), f"give one of {names}, or install it") from None
    except ConfigurationError as error:
        raise error.inside(str(found.path)) from None
    if found.kind == "member":
        _check_service(found)


def _check_service(found: _Found) -> None:
    module, _, name = found.genesis.service.partition(":")
    # As for the member itself, a service may lie in the folder that one stands in.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        service: object = importlib.import_module(module)
        for part in name.split("."):
            service = getattr(service, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{found.path / MEMBER_FILE}: service",
            f"{found.genesis.service} cannot be imported here: {error}",
            "install the package that has it",
        ) from None
    if not callable(service):
        raise ConfigurationError(
            f"{found.path / MEMBER_FILE}: service", f"{found.genesis.service} is no class", "name a class"
        )
