"""Clients of members' HTTP interfaces: `HttpApi` for plain callers, `AsyncHttpApi` under trio or asyncio.

One of these speaks to one member, which may lie about everything that it says of itself. What can be verified is
verified: hand-overs lead from the genesis, which the caller has from somebody it trusts, to the present configuration
(`AsyncHttpApi.history`), and a command was carried out when the chain says so. A command is signed before it comes
here; nothing here holds an operator's key.

`bftkit.client.http_group` speaks to several members at once.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import attrs
import httpx

from bftkit.client.errors import ClientError, NoAnswer, Refused
from bftkit.configuration.text import ConfigurationError
from bftkit.core.wire import WireError
from bftkit.crypto.keys import verify_signature
from bftkit.membership.chain import ChainError, HandOver, Place, follow
from bftkit.membership.commands import SignedCommand
from bftkit.membership.evidence import Evidence
from bftkit.membership.genesis import Genesis
from bftkit.membership.verifiers import founding_place, roster_verifier

ANSWER_BYTES_MAX: Final = 32 << 20
"""The longest answer; a hand-over with all its keys is shorter."""
TIMEOUT_SECONDS: Final = 10.0
DOES_NOT_HOLD: Final = "shows a hand-over that does not hold"


class ApiRefused(Refused):
    """The member's interface said no; the text says what, where, and what would be right."""

    def __init__(self, code: int, error: str, where: str, right: str) -> None:
        """`code`: the HTTP status; the rest as the answer has it."""
        told = f"{where}: {error}" if where else error
        super().__init__(f"{told}; {right}" if right else told)
        self.code = code
        self.error = error
        self.where = where
        self.right = right


@attrs.frozen
class Access:
    """How to reach one member's interface."""

    url: str
    token: str = attrs.field(repr=False)
    authority: Path | None = None
    """A file of certificates (PEM) to trust in place of the system's, for ``https://``."""

    def check(self) -> httpx.URL:
        """Raises `ValueError` for what is no such URL."""
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r}: {error}") from None
        if url.scheme not in ("http", "https") or not url.host or url.path not in ("", "/") or url.query:
            raise ValueError(f"{self.url!r} is no address of a member's HTTP interface, such as http://127.0.0.1:8000")
        return url

    def options(self, timeout: float) -> dict[str, Any]:
        """For httpx. Raises `ValueError` for what is no such URL."""
        url = self.check()
        verify: ssl.SSLContext | bool = True
        if self.authority is not None:
            verify = ssl.create_default_context(cafile=str(self.authority))
        return {
            "base_url": url,
            "headers": {"Authorization": f"Bearer {self.token}"},
            "timeout": timeout,
            "verify": verify,
            "trust_env": False,  # no proxy that somebody's environment names sees the token
        }


@attrs.frozen
class _Ask:
    method: str
    path: str
    query: Mapping[str, str | int] = attrs.field(factory=dict[str, "str | int"])
    body: Mapping[str, Any] | None = None


def _history(first: int) -> _Ask:
    return _Ask("GET", "/v1/history", {"first": first})


def _events(after: str | None) -> _Ask:
    return _Ask("GET", "/v1/events", {"after": after} if after is not None else {})


def _submit(signed: SignedCommand) -> _Ask:
    return _Ask("POST", "/v1/commands", body={"command": base64.b64encode(signed.encode()).decode("ascii")})


def _try(wish: Mapping[str, Any] | SignedCommand) -> _Ask:
    if isinstance(wish, SignedCommand):
        return attrs.evolve(_submit(wish), path="/v1/dry-run")
    return _Ask("POST", "/v1/dry-run", body={"wish": dict(wish)})


def _answer(response: httpx.Response, data: bytes) -> Any:
    """What the answer says. Raises `ApiRefused`; `NoAnswer` for what no member would answer."""
    try:
        told: Any = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        told = None
    if response.is_success and told is not None:
        return told
    if isinstance(told, dict):
        texts = [str(cast("dict[str, Any]", told).get(name, ""))[:500] for name in ("error", "where", "right")]
        raise ApiRefused(response.status_code, *texts)
    where = f"{response.url.scheme}://{response.url.netloc.decode('ascii', 'replace')}"
    raise NoAnswer(0, f"{where} answered with status {response.status_code}, and not as a member does")


def _too_long() -> ClientError:
    return ClientError(f"an answer of more than {ANSWER_BYTES_MAX} bytes is none")


class HttpApi:
    """One member's interface, for plain callers; close it, or use it in a ``with`` block.

    All methods return what the interface's description says, and raise `ApiRefused`, `NoAnswer` or `ClientError`.
    """

    def __init__(self, access: Access, *, timeout: float = TIMEOUT_SECONDS, client: httpx.Client | None = None) -> None:
        """`client`: another one than over the network, for tests. Raises `ValueError` for a bad URL."""
        self.access = access
        self._client = client if client is not None else httpx.Client(**access.options(timeout))

    def __enter__(self) -> HttpApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def status(self) -> dict[str, Any]:
        """How the member is."""
        return self._call(_Ask("GET", "/v1/status"))

    def get(self, what: str) -> dict[str, Any]:
        """What it says under ``/v1/`` and this name, such as ``configuration``, ``members``, ``policy``."""
        return self._call(_Ask("GET", f"/v1/{what}"))

    def history(self, first: int = 0) -> dict[str, Any]:
        """Hand-overs from this epoch on, unverified."""
        return self._call(_history(first))

    def events(self, after: str | None = None) -> dict[str, Any]:
        """What happened after the event with this id."""
        return self._call(_events(after))

    def submit(self, signed: SignedCommand) -> dict[str, Any]:
        """Hand in a command."""
        return self._call(_submit(signed))

    def dry_run(self, wish: Mapping[str, Any] | SignedCommand) -> dict[str, Any]:
        """What a wish or a command would do."""
        return self._call(_try(wish))

    @contextmanager
    def stream(self, after: str | None = None) -> Generator[Generator[dict[str, Any]]]:
        """Events as they happen: ``with api.stream() as events: for event in events``."""
        try:
            with self._client.stream("GET", "/v1/events/stream", **_streaming(after)) as response:
                if not response.is_success:
                    _answer(response, response.read())
                reader = _Reader()
                yield (event for line in response.iter_lines() if (event := reader.on_line(line)) is not None)
        except httpx.RequestError as error:
            raise _no_answer(self.access, error) from None

    def _call(self, ask: _Ask) -> dict[str, Any]:
        try:
            with self._client.stream(ask.method, ask.path, params=dict(ask.query), **_json(ask)) as response:
                data = b""
                for part in response.iter_bytes():
                    data += part
                    if len(data) > ANSWER_BYTES_MAX:
                        raise _too_long()
                return _table(_answer(response, data))
        except httpx.RequestError as error:
            raise _no_answer(self.access, error) from None


class AsyncHttpApi:
    """As `HttpApi`, for trio and asyncio; use it in an ``async with`` block."""

    def __init__(
        self, access: Access, *, timeout: float = TIMEOUT_SECONDS, client: httpx.AsyncClient | None = None
    ) -> None:
        """`client`: another one than over the network, for tests. Raises `ValueError` for a bad URL."""
        self.access = access
        self._client = client if client is not None else httpx.AsyncClient(**access.options(timeout))

    async def __aenter__(self) -> AsyncHttpApi:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def status(self) -> dict[str, Any]:
        """How the member is."""
        return await self._call(_Ask("GET", "/v1/status"))

    async def get(self, what: str) -> dict[str, Any]:
        """As `HttpApi.get`."""
        return await self._call(_Ask("GET", f"/v1/{what}"))

    async def events(self, after: str | None = None) -> dict[str, Any]:
        """As `HttpApi.events`."""
        return await self._call(_events(after))

    async def submit(self, signed: SignedCommand) -> dict[str, Any]:
        """Hand in a command."""
        return await self._call(_submit(signed))

    async def dry_run(self, wish: Mapping[str, Any] | SignedCommand) -> dict[str, Any]:
        """What a wish or a command would do."""
        return await self._call(_try(wish))

    async def command(self, name: bytes) -> dict[str, Any]:
        """What the member knows of a command."""
        return await self.get(f"commands/{name.hex()}")

    async def genesis(self) -> Genesis:
        """The genesis as this member has it: its word, unless the caller knows the group's id from somebody else.

        Raises `ClientError` for one that is none.
        """
        try:
            return Genesis.from_text(str((await self.get("genesis")).get("text", "")))
        except ConfigurationError as error:
            raise ClientError(f"{self.access.url} shows a genesis that is none: {error}") from None

    async def history(self, genesis: Genesis, known: Sequence[HandOver] = ()) -> tuple[HandOver, ...]:
        """All hand-overs, each verified from the genesis on. `known`: those that were verified before.

        Raises `ClientError` for one that does not hold.
        """
        group, verifiers = genesis.group_id, roster_verifier(genesis.group_id)
        place = Place(known[-1].next, known[-1].ending.opening) if known else founding_place(genesis)
        links = list(known)
        epoch = (await self.get("configuration")).get("epoch")
        if type(epoch) is not int or epoch >= 1 << 20:
            raise ClientError(f"{self.access.url} is in no epoch that can be")
        for number in range(place.configuration.epoch + 1, epoch + 1):
            told = await self.get(f"history/{number}")
            try:
                link = HandOver.decode(base64.b64decode(str(told.get("handover", "")), validate=True))
                place = follow(group, place, link, verifiers, verify_signature)
            except (ChainError, WireError, ValueError) as error:
                raise ClientError(f"{self.access.url} {DOES_NOT_HOLD}: {error}") from None
            links.append(link)
        return tuple(links)

    async def evidence(self) -> list[tuple[str, Evidence]]:
        """The proofs that the member keeps, by their names, unchecked. Raises `ClientError` for what is none."""
        listed: object = (await self.get("evidence")).get("evidence")
        names = [str(_table(item).get("name", "")) for item in cast("list[Any]", listed)] if _is_list(listed) else []
        found: list[tuple[str, Evidence]] = []
        for name in names:
            if not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
                raise ClientError(f"{self.access.url} lists evidence under a name that is none")
            try:
                found.append((name, Evidence.from_text(str((await self.get(f"evidence/{name}")).get("file", "")))))
            except ConfigurationError as error:
                raise ClientError(f"{self.access.url} shows evidence {name} that cannot be read: {error}") from None
        return found

    @asynccontextmanager
    async def stream(self, after: str | None = None) -> AsyncGenerator[AsyncGenerator[dict[str, Any]]]:
        """As `HttpApi.stream`, with ``async``."""
        try:
            async with self._client.stream("GET", "/v1/events/stream", **_streaming(after)) as response:
                if not response.is_success:
                    _answer(response, await response.aread())
                yield _events_of(response)
        except httpx.RequestError as error:
            raise _no_answer(self.access, error) from None

    async def _call(self, ask: _Ask) -> dict[str, Any]:
        try:
            async with self._client.stream(ask.method, ask.path, params=dict(ask.query), **_json(ask)) as response:
                data = b""
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > ANSWER_BYTES_MAX:
                        raise _too_long()
                return _table(_answer(response, data))
        except httpx.RequestError as error:
            raise _no_answer(self.access, error) from None


class _Reader:
    """Puts the lines of a stream together."""

    def __init__(self) -> None:
        self._data = ""

    def on_line(self, line: str) -> dict[str, Any] | None:
        """An event, if the line ends one."""
        if line.startswith("data:"):
            self._data += line[5:].strip()
        elif not line and self._data:
            text, self._data = self._data, ""
            try:
                return _table(json.loads(text))
            except (ValueError, RecursionError):
                return None
        if len(self._data) > ANSWER_BYTES_MAX:
            raise _too_long()
        return None


async def _events_of(response: httpx.Response) -> AsyncGenerator[dict[str, Any]]:
    reader = _Reader()
    async for line in response.aiter_lines():
        event = reader.on_line(line)
        if event is not None:
            yield event


def _is_list(told: object) -> bool:
    return isinstance(told, list)


def _table(told: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {}


def _json(ask: _Ask) -> dict[str, Any]:
    return {"json": dict(ask.body)} if ask.body is not None else {}


def _streaming(after: str | None) -> dict[str, Any]:
    headers = {"Last-Event-ID": after} if after is not None else {}
    return {"headers": headers, "timeout": httpx.Timeout(TIMEOUT_SECONDS, read=60.0)}


def _no_answer(access: Access, error: httpx.RequestError) -> NoAnswer:
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__  # what TLS had to say stands further below
    return NoAnswer(0, f"{access.url} does not answer: {_transport_in_words(access, error, cause)}")


def _transport_in_words(access: Access, error: httpx.RequestError, cause: BaseException | None) -> str:
    """What the transport had to say, and what to do about it."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        ca = "name the certificates to trust with --ca FILE"
        if access.authority is not None:
            ca = f"is {access.authority} (--ca) the right file for it?"
        return f"its certificate is not trusted: {cause.verify_message}; {ca}"
    if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; is it http:// in place of https://?"
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)) and access.url.startswith("http:"):
        return f"{cause or type(error).__name__}; does it speak TLS? Then it is https:// in place of http://"
    return str(cause or type(error).__name__)
