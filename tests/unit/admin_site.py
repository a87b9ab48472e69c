"""Members of a local group with their HTTP interfaces, asked in this process without any socket."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import attrs
import httpx

from bftkit.admin.events import Feed
from bftkit.admin.facade import Facade
from bftkit.admin.guard import App, Guard, Names
from bftkit.admin.metrics import metrics_text
from bftkit.admin.routes import create_app, describe
from bftkit.admin.tokens import ROLES, Role, Tokens, entry_of, new_token
from bftkit.client.http import Access, AsyncHttpApi
from bftkit.client.local import LocalGroup, local_group
from bftkit.membership.commands import SignedCommand
from bftkit.service.keyvalue import KeyValueStore

PORT: Final = 8000
URL: Final = f"http://127.0.0.1:{PORT}"


@attrs.frozen
class Site:
    """One member's interface."""

    app: App
    facade: Facade
    schema: dict[str, Any]
    tokens: Mapping[Role, str]
    member: str

    def client(self, role: Role | None, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
        """Somebody with a token of this role, or without any."""
        shown = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        transport = httpx.ASGITransport(cast("Any", self.app))
        return httpx.AsyncClient(transport=transport, base_url=URL, headers={**shown, **(headers or {})})

    def api(self, role: Role = "operate") -> AsyncHttpApi:
        """The same, as the client library has it."""
        access = Access(f"{URL}/#{self.member}", self.tokens[role])
        return AsyncHttpApi(access, client=self.client(role))

    @property
    def operations(self) -> list[tuple[str, str, str]]:
        """(method, path, role) of everything that the description has, with examples in place of parameters."""
        found: list[tuple[str, str, str]] = []
        for path, methods in self.schema["paths"].items():
            for method, operation in methods.items():
                filled = path.replace("{epoch}", "1")
                name = "a" * 64 if "commands" in path else f"0-m1-{'a' * 12}"
                found.append((method.upper(), filled.replace("{name}", name), operation["x-role"]))
        return found


def site_of(group: LocalGroup, member: str) -> Site:
    """The interface of a running member."""
    node = group.node(member)
    facade = Facade(node, group.genesis, Feed(node.chronicle.newest))
    inner = create_app(facade, metrics_text)
    tokens: dict[Role, str] = {role: new_token() for role in ROLES}
    entries = tuple(entry_of("test", role, token) for role, token in tokens.items())
    names = Names.of(("127.0.0.1", PORT), (), (), tls=False)
    guard = Guard(cast("App", inner), Tokens(entries), names, facade.requests)
    return Site(guard, facade, describe(inner), tokens, member)


@asynccontextmanager
async def served(members: int = 4, **options: Any) -> AsyncGenerator[tuple[LocalGroup, dict[str, Site]]]:
    """A group, and every member's interface."""
    async with local_group(KeyValueStore, members=members, **options) as group:
        yield group, {member: site_of(group, member) for member in group.members}


def as_body(signed: SignedCommand) -> dict[str, str]:
    """A command as it is posted."""
    return {"command": base64.b64encode(signed.encode()).decode("ascii")}


def check_problem(response: httpx.Response, code: int) -> dict[str, str]:
    """An error has this status, the one form that all errors have, and tells nothing of the inside."""
    assert response.status_code == code, response.text
    told: dict[str, str] = json.loads(response.content)
    assert sorted(told) == ["error", "right", "where"]
    assert all(isinstance(text, str) for text in told.values())
    check_headers(response)
    for secret in ("Traceback", "/bftkit/", "site-packages", 'File "'):
        assert secret not in response.text
    return told


def check_headers(response: httpx.Response) -> None:
    """What every answer has, and what none has."""
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert "text/html" not in response.headers.get("content-type", "")
    for name in response.headers:
        assert not name.startswith("access-control-")
        assert name != "set-cookie"
