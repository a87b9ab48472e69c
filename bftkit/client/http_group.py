"""Several members' HTTP interfaces, in the place of a client that has links with them.

`ApiConnection` has the methods of `bftkit.client.aio.AsyncClient` that the command line changes a group by, so that it
works where no member's own port is at hand. A member that swallows a command is passed by: it goes to all of them
(FAULTS 44). One that lies about the group is believed nothing: the chain of hand-overs is verified from the genesis.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import anyio

from bftkit.channel import frames
from bftkit.channel.client import CommandState
from bftkit.client.errors import ClientError, NoAnswer, TooFewAgreed, refused_in_words
from bftkit.client.http import DOES_NOT_HOLD, TIMEOUT_SECONDS, Access, ApiRefused, AsyncHttpApi
from bftkit.core.machine import MemberId
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import SignedCommand
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import Genesis

POLL_SECONDS: Final = 0.1
AGAIN_SECONDS: Final = 2.0
"""So often a command is handed in again: a member that was behind may take it now."""
PATIENCE_SECONDS: Final = 5.0
"""So long one round of questions about a command waits for members that are slow, or answer without end."""
NAME_MAX: Final = 32
REASONS_TOLD: Final = 3

_STATES: Final[Mapping[str, int]] = {
    "unknown": frames.UNKNOWN_COMMAND,
    "taken": frames.TAKEN,
    "prepared": frames.PREPARED,
    "committed": frames.COMMITTED,
    "done": frames.DONE,
    "refused": frames.REFUSED,
}
_RANKS: Final = ("unknown", "refused", "taken", "prepared", "committed", "done")


class ApiConnection:
    """Several members' interfaces, in the place of a client with links. What it says of the group is verified.

    `status` and `order` ask all of them; `history` believes whoever shows the longest chain that holds.
    """

    def __init__(self, apis: Sequence[AsyncHttpApi], genesis: Genesis) -> None:
        """`genesis`: what the caller trusts."""
        self._apis = tuple(apis)
        self.genesis = genesis
        self._links: tuple[HandOver, ...] = ()
        self._named: set[str] = set()
        """Whose newest answer said who it is."""
        self.refused_links: dict[MemberId, tuple[int, str]] = {}
        """Whose hand-overs did not hold: how many, and why the last one did not."""
        self._silences: dict[str, str] = {}
        """Why the last question to a URL had no answer; without those that answered since."""

    @property
    def configuration(self) -> Configuration:
        """The newest configuration that was verified."""
        return self._links[-1].next if self._links else Configuration.first(self.genesis)

    async def status(self, *, timeout: float = 2.0) -> Mapping[MemberId, dict[str, Any]]:
        """What each member says of itself, by the name that it gives itself. Raises `ApiRefused` if all refuse."""
        found: dict[MemberId, dict[str, Any]] = {}
        failures: list[ApiRefused] = []

        async def ask(api: AsyncHttpApi) -> None:
            self._named.discard(api.access.url)
            self._silences[api.access.url] = f"{api.access.url} does not answer within {timeout:g} s"
            try:
                told = await api.status()
            except ClientError as error:  # one that refuses, or answers without end, must not hide the others
                self._silences[api.access.url] = str(error)
                if isinstance(error, ApiRefused):
                    self._silences[api.access.url] = f"{api.access.url} refuses: {error}"
                    failures.append(error)
                return
            self._silences.pop(api.access.url, None)
            self._named.add(api.access.url)
            found[str(told.get("member", ""))[:NAME_MAX]] = told

        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as group:
                for api in self._apis:
                    group.start_soon(ask, api)
        if failures and not found:
            raise failures[0]
        return dict(sorted(found.items()))

    def asked(self, answers: Mapping[MemberId, object]) -> tuple[MemberId, ...]:
        """Who was asked: those that answered, by the names that they give themselves; the others, by their URLs."""
        silent = tuple(url for url in (api.access.url for api in self._apis) if url not in self._named)
        return (*sorted(answers), *silent)

    def present(self, answers: Mapping[MemberId, Mapping[str, Any]]) -> frozenset[MemberId]:
        """Which members are there: those that answered, and, by their word, those that they have links with."""
        found = set(answers)
        for told in answers.values():
            links: object = told.get("links")
            if isinstance(links, list):
                found.update(link for link in cast("list[object]", links) if isinstance(link, str))
        return frozenset(found)

    async def history(self, *, timeout: float = TIMEOUT_SECONDS) -> tuple[HandOver, ...]:
        """All hand-overs since the founding, each verified. Raises `ClientError` if nobody shows any that holds."""
        errors: list[ClientError] = []
        answered = False
        known = self._links

        async def ask(api: AsyncHttpApi) -> None:
            nonlocal answered
            try:
                links = await api.history(self.genesis, known)
            except ClientError as error:
                errors.append(error)
                if isinstance(error, NoAnswer):
                    self._silences[api.access.url] = str(error)
                elif not isinstance(error, ApiRefused):
                    count, _ = self.refused_links.get(api.access.url, (0, ""))
                    reason = str(error).removeprefix(f"{api.access.url} {DOES_NOT_HOLD}: ")
                    self.refused_links[api.access.url] = (count + 1, reason)
                return
            answered = True
            if len(links) > len(self._links):
                self._links = links

        # All at once: one that answers byte by byte, without end, takes no time from the others.
        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as group:
                for api in self._apis:
                    group.start_soon(ask, api)
        if not answered:
            raise self._unanswered(errors)
        return self._links

    def unanswered(self) -> NoAnswer:
        """That no member answered, why not as far as it is known, and whose hand-overs were not believed."""
        reasons = [self._silences[name] for name in sorted(self._silences)][:REASONS_TOLD]
        return NoAnswer(0, "; ".join(("no member answered", *reasons, *refused_in_words(self.refused_links))))

    def _unanswered(self, errors: Sequence[ClientError]) -> ClientError:
        """Why there is no history."""
        refusal = next((error for error in errors if isinstance(error, ApiRefused)), None)
        if refusal is not None:
            return refusal
        if not self.refused_links:
            return self.unanswered()
        told = ("no member shows a history that holds", *refused_in_words(self.refused_links))
        return TooFewAgreed(0, "; ".join(told))

    async def order(self, signed: SignedCommand, *, timeout: float = 60.0) -> AsyncGenerator[CommandState]:
        """Hand in a command everywhere, and tell what becomes of it until that is final. As `AsyncClient.order`.

        That it was done, or that its epoch ended otherwise, the verified chain says. That it was refused, all members
        that answer must say.
        """
        end = anyio.current_time() + timeout
        told: CommandState | None = None
        again = 0.0
        while True:
            now = anyio.current_time()
            fresh = now >= again
            again = now + AGAIN_SECONDS if fresh else again
            answers = await self._ask(signed, fresh=fresh)
            state = self._state(signed, answers)
            if state is None or state.state == frames.DONE or not answers:
                state = await self._decided(signed, answers) or state
            if state is not None and state != told:
                told = state
                yield state
                if state.final:
                    return
            if anyio.current_time() >= end:
                if told is None:
                    raise self.unanswered()
                text = f"{', '.join(sorted(told.answers))} answered; it is not carried out yet"
                raise TooFewAgreed(0, "; ".join((text, *refused_in_words(self.refused_links))))
            await anyio.sleep(POLL_SECONDS)

    async def _ask(self, signed: SignedCommand, *, fresh: bool) -> dict[MemberId, tuple[int, str]]:
        """Hand it in everywhere, or, unless `fresh`, ask what became of it: state and text, by URL."""
        answers: dict[MemberId, tuple[int, str]] = {}

        async def give(api: AsyncHttpApi) -> None:
            try:
                found = await (api.submit(signed) if fresh else api.command(signed.name))
            except ApiRefused as error:
                if error.code not in (409, 413, 422):
                    raise
                answers[api.access.url] = (frames.REFUSED, error.error)
            except ClientError as error:
                self._silences[api.access.url] = str(error)
                return
            else:
                self._silences.pop(api.access.url, None)
                state = _STATES.get(str(found.get("state")), frames.UNKNOWN_COMMAND)
                answers[api.access.url] = (state, str(found.get("text", ""))[:500])

        failure: ApiRefused | None = None
        late = {api.access.url for api in self._apis}
        with anyio.move_on_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as group:

                async def guarded(api: AsyncHttpApi) -> None:
                    nonlocal failure
                    try:
                        await give(api)
                    except ApiRefused as error:
                        failure = error  # a bad token, say: raised below as it is, and in no group
                    late.discard(api.access.url)

                for api in self._apis:
                    group.start_soon(guarded, api)
        for url in sorted(late):
            self._silences[url] = f"{url} does not answer within {PATIENCE_SECONDS:g} s"
        if failure is not None and not answers:
            raise failure
        return answers

    def _state(self, signed: SignedCommand, answers: Mapping[MemberId, tuple[int, str]]) -> CommandState | None:
        """The furthest that any member says it is; refused only if all do."""
        if not answers:
            return None
        ranks = {_STATES[name]: rank for rank, name in enumerate(_RANKS)}
        state = max((one for one, _ in answers.values()), key=lambda one: ranks[one])
        by = tuple(sorted(name for name, (one, _) in answers.items() if one == state))
        final = state == frames.REFUSED
        return CommandState(signed.name, state, answers[by[0]][1], by, dict(answers), final)

    async def _decided(self, signed: SignedCommand, answers: Mapping[MemberId, tuple[int, str]]) -> CommandState | None:
        """What the verified chain says became of it."""
        try:
            links = await self.history()
        except ClientError:
            return None
        epoch = signed.command.epoch
        if epoch >= len(links):
            if signed.command.change is None and any(state == frames.DONE for state, _ in answers.values()):
                by = tuple(sorted(name for name, (state, _) in answers.items() if state == frames.DONE))
                return CommandState(signed.name, frames.DONE, answers[by[0]][1], by, dict(answers), final=True)
            return None
        if links[epoch].ending.command == signed.name:
            return CommandState(signed.name, frames.DONE, f"epoch {epoch + 1}", (), dict(answers), final=True)
        text = f"epoch {epoch} was ended by another command; this one was for that epoch only"
        return CommandState(signed.name, frames.REFUSED, text, (), dict(answers), final=True)


@asynccontextmanager
async def connect_http(accesses: Sequence[Access], genesis: Genesis | None = None) -> AsyncGenerator[ApiConnection]:
    """A connection through these members' interfaces.

    `genesis`: what the caller trusts; None: that of the first member that answers, whose word it then is.
    """
    apis = [AsyncHttpApi(access) for access in accesses]
    failure: Exception | None = None
    try:
        trusted = genesis if genesis is not None else await first_genesis(apis)
        try:
            yield ApiConnection(apis, trusted)
        except Exception as error:
            failure = error
    finally:
        for api in apis:
            await api.__aexit__()
    if failure is not None:
        raise failure


async def first_genesis(apis: Sequence[AsyncHttpApi]) -> Genesis:
    """The genesis as the first of these members shows it that shows one. Raises `ClientError` if none does."""
    failure: ClientError = NoAnswer(0, "no member answered")
    for api in apis:
        with anyio.move_on_after(TIMEOUT_SECONDS):  # it may answer byte by byte, without end
            try:
                return await api.genesis()
            except ClientError as error:
                failure = error
    raise failure
