"""A connection with the group, by the way that the command line was told (`way`).

Over links, a client's folder says where the members are. Through members' HTTP interfaces the folder is not needed: its
genesis is what the history is verified from, if it is there, and its memory of the chain is kept (SAFETY rule 28);
without it, the genesis is the word of the first member that answers, and that is said.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bftkit.admin.tokens import read_token
from bftkit.channel.client_chain import KEPT_LINKS
from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.keygen import new_key
from bftkit.cli.way import Way, way
from bftkit.client import AsyncClient, connect
from bftkit.client.chain_file import ChainFile
from bftkit.client.errors import Contradicted, NoAnswer, refused_in_words
from bftkit.configuration.settings import ClientSettings
from bftkit.membership.chain import HandOver
from bftkit.node.folders import CLIENT_FILE, ClientFolder, read_client

if TYPE_CHECKING:
    from bftkit.client.http import Access
    from bftkit.client.http_group import ApiConnection

Connection: TypeAlias = "AsyncClient | ApiConnection"


@asynccontextmanager
async def reached(folder: Path) -> AsyncGenerator[tuple[Connection, ClientFolder]]:
    """A connection, and what is known of the group. Raises `ConfigurationError`, `CommandFailed`, `ClientError`."""
    chosen = way()
    if chosen is None:
        found = read_client(folder)
        async with connect(found) as client:
            yield client, found
        return
    from bftkit.client.http_group import connect_http  # httpx is for those who need it

    known = read_client(folder) if (folder / CLIENT_FILE).exists() else None
    accesses = accesses_of(chosen)
    async with connect_http(accesses, known.genesis if known is not None else None) as connection:
        if known is None:
            output().log(
                f"bftkit: there is no client's folder at {folder}: which group this is, is the word of {chosen.urls[0]}"
            )
            known = ClientFolder(folder, ClientSettings(), connection.genesis, new_key("client"))
        yield connection, known


def nobody(connection: Connection) -> NoAnswer:
    """That no member answered, and what is known of why."""
    if way() is None or isinstance(connection, AsyncClient):
        return NoAnswer(0, "; ".join(("no member answered", *refused_in_words(connection.refused_links))))
    return connection.unanswered()


def accesses_of(chosen: Way) -> tuple[Access, ...]:
    """How to reach the interfaces. Raises `ConfigurationError` for a token, `CommandFailed` for the rest."""
    from bftkit.client.http import Access

    found: list[Access] = []
    for url, file in zip(chosen.urls, chosen.token_files, strict=True):
        access = Access(url, read_token(file), chosen.authority)
        try:
            access.check()
        except ValueError as error:
            raise CommandFailed(ExitCode.USAGE, f"--api: {error}") from None
        try:
            access.options(1.0)
        except OSError as error:  # an `ssl.SSLError` is one as well
            why = error.strerror or str(error)
            raise CommandFailed(ExitCode.BAD_CONFIGURATION, f"--ca {chosen.authority}: {why}") from None
        found.append(access)
    return tuple(found)


async def history_of(connection: Connection, known: ClientFolder, timeout: float) -> tuple[HandOver, ...]:
    """The group's history, verified, and never less than this folder's clients have seen (SAFETY rule 28)."""
    links = await connection.history(timeout=timeout)
    _check_trusted(known, links)
    if way() is not None and (known.path / CLIENT_FILE).exists():
        _remember(known, links)
    return links


def _check_trusted(known: ClientFolder, links: Sequence[HandOver]) -> None:
    """Whether the history has the hand-over that the folder says is to be trusted. Raises as `history_of` does.

    A client with links finds that out by itself, and earlier.
    """
    trusted = known.settings.trusted
    if trusted is None:
        return
    if len(links) < trusted.epoch:
        raise CommandFailed(
            ExitCode.TOO_FEW_AGREED,
            f"these members show epoch {len(links)}, and {known.path} believes nobody before epoch {trusted.epoch} "
            "(trusted_epoch): they are behind, or lie; ask others",
        )
    contradiction = trusted.contradicted_by(links[trusted.epoch - 1])
    if contradiction is not None:
        raise Contradicted(contradiction)


def _remember(known: ClientFolder, links: Sequence[HandOver]) -> None:
    kept = ChainFile(known.path, known.genesis)
    seen = kept.read()
    if seen and len(links) <= seen[-1].ending.epoch:
        raise CommandFailed(
            ExitCode.TOO_FEW_AGREED,
            f"these members show epoch {len(links)}, and {known.path} has seen epoch {seen[-1].next.epoch}: they are "
            "behind, or lie; ask others",
        )
    if links:
        contradiction = kept.keep([link.encode() for link in links[-KEPT_LINKS:]])
        if contradiction is not None:
            raise Contradicted(contradiction)
