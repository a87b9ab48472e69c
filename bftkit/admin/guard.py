"""The door of the HTTP interface: what every request must pass before any route sees it.

In this order, each with its own answer, and before a byte of the body is read:

1. *Host*: the name that the request asks for must be one of this member's (421). A page on the web that makes its own
   name point here is stopped by that.
2. *Origin*: a request that a web page of another origin makes is refused (403), whatever else it brings along. No
   answer ever allows another origin to read it (there are no CORS headers), and there are no cookies at all.
3. *Token*: ``Authorization: Bearer ...`` (401), on every route, the description of the interface and the metrics among
   them. Who shows none learns neither which routes there are nor who this is.
4. *Role*: whatever could enter a command needs the role ``operate`` (403).
5. *Body*: JSON, of bounded length (413, 415), read within bounded time (408).

Nothing that a route raises reaches the caller: a bug is a fixed sentence there, and a traceback in the log. It is a
plain ASGI application around another one, so the tests meet it without any socket.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, TypeAlias

import attrs
import trio

from bftkit.admin.refusals import BUG, Refused
from bftkit.admin.tokens import ROLES, Role, Tokens
from bftkit.membership.commands import COMMAND_BYTES_MAX

logger = logging.getLogger("bftkit.admin")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX: Final = 2 * COMMAND_BYTES_MAX
"""The largest command in base64, with room for what stands around it."""
BODY_SECONDS: Final = 10.0
"""So long a request's body may take to come."""
READING_POSTS: Final = frozenset({"/v1/dry-run"})
"""Where a POST only asks: for the rest of them, the role is ``operate``."""

HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)


@attrs.frozen
class Names:
    """By which names this member is asked for, in lower case."""

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, address: tuple[str, int], hosts: Iterable[str], origins: Iterable[str], *, tls: bool) -> Names:
        """For one that listens there and is known by these names besides."""
        host, port = address
        own = [f"[{host}]" if ":" in host else host]
        if host == "::1" or host.startswith("127."):
            own += ["localhost", "127.0.0.1"]
        usual, scheme = (443, "https") if tls else (80, "http")
        names = {f"{name}:{port}" for name in own} | set(hosts)
        if port == usual:
            names |= set(own)
        return cls(frozenset(names), frozenset({*origins, *(f"{scheme}://{name}" for name in names)}))


def role_for(method: str, path: str) -> Role:
    """The role that a request needs. What nobody thought of needs the greater one."""
    if method in ("GET", "HEAD", "OPTIONS") or (method == "POST" and path in READING_POSTS):
        return "read"
    return "operate"


class Guard:
    """An ASGI application that lets only good requests through to another one."""

    def __init__(
        self, app: App, tokens: Tokens, names: Names, requests: Counter[tuple[str, int]] | None = None
    ) -> None:
        """`requests`: where answers are counted, by route (``none``: refused here, or there is none) and status."""
        self._app = app
        self._requests = requests if requests is not None else Counter[tuple[str, int]]()
        self._tokens = tokens
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Answer(send, scope, self._requests)
        try:
            self._judge(scope)
            body = await _read_body(scope, receive)
            await self._app(scope, _Body(body, receive), answer)
        except Refused as refused:
            await answer.refuse(refused)
        except Exception:
            logger.exception("this is a bug in bftkit: the HTTP interface could not answer")
            if not answer.begun:
                await answer.refuse(BUG)

    def _judge(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts, origins = _all(headers, b"host"), _all(headers, b"origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._names.hosts:
            raise Refused(421, "this member is not asked for by that name", "Host", "its address, or one of its names")
        if len(origins) > 1 or any(origin.lower() not in self._names.origins for origin in origins):
            raise Refused(403, "no page of that origin may ask", "Origin", "no Origin, or that of this member")
        if _all(headers, b"sec-fetch-site") not in ([], ["same-origin"], ["none"]):
            raise Refused(403, "no page of another site may ask", "Sec-Fetch-Site", "a request of this origin")
        shown = _all(headers, b"authorization")
        scheme, _, token = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
        role = self._tokens.role_of(token.strip()) if scheme.lower() == "bearer" else None
        if role is None:
            challenge = (b"www-authenticate", b'Bearer realm="bftkit"')
            right = "Bearer, and a token of this member"
            raise Refused(401, "a token is needed", "Authorization", right, (challenge,))
        needed = role_for(scope["method"], scope["path"])
        if ROLES.index(role) < ROLES.index(needed):
            raise Refused(403, f"the token is for the role {role}", "Authorization", f"a token for the role {needed}")


class _Answer:
    """Sends a response, with the headers that all have."""

    def __init__(self, send: Send, scope: Scope, requests: Counter[tuple[str, int]]) -> None:
        self._send = send
        self._scope = scope
        self._requests = requests
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            # As it is described, and never as it was asked for: whoever asks must not choose what is counted.
            route = getattr(self._scope.get("route"), "path", "none")
            self._requests[route, message["status"]] += 1
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        body = refused.body()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": refused.code, "headers": [*headers, *refused.headers]})
        await self({"type": "http.response.body", "body": body})


class _Body:
    """Hands out a body that was read, and afterwards what comes still."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    most = BODY_BYTES_MAX if scope["method"] == "POST" else 0
    too_large = Refused(413, "the body is too large", "body", f"at most {most} bytes")
    lengths = _all(headers, b"content-length")
    if lengths and (not lengths[0].isascii() or not lengths[0].isdigit() or int(lengths[0][:20]) > most):
        raise too_large
    if scope["method"] == "POST":
        kinds = [kind.partition(";")[0].strip().lower() for kind in _all(headers, b"content-type")]
        if kinds != ["application/json"]:
            raise Refused(415, "the body is not JSON", "Content-Type", "application/json")
    parts: list[bytes] = []
    size = 0
    with trio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Refused(400, "the request was cut off", "body", "the whole of it")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise too_large
            if not message.get("more_body", False):
                return b"".join(parts)
    raise Refused(408, "the body did not come", "body", f"all of it within {BODY_SECONDS:g} s")


def _all(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]
