"""The door of the HTTP interface: nothing passes without a token, the right role, the right names, a bounded body."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from bftkit.admin.guard import BODY_BYTES_MAX, BODY_SECONDS, Guard, Message, Names, Receive, Scope, Send
from bftkit.admin.tokens import Tokens, entry_of, new_token, read_token, read_tokens
from bftkit.configuration.settings import AdminSettings, MemberSettings
from bftkit.configuration.text import ConfigurationError

from .admin_site import check_headers, check_problem, served

FOREIGN = [
    ({"Host": "evil.example"}, 421),
    ({"Host": "127.0.0.1"}, 421),
    ({"Host": "127.0.0.1:8000.evil.example"}, 421),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "https://127.0.0.1:8000"}, 403),
    ({"Origin": "http://127.0.0.1:8001"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
]
BAD_TOKENS = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Basic dXNlcjpwYXNz",
    "Bearer " + "a" * 5000,
    "Token {read}",
    "{read}",
]


async def test_no_route_answers_without_a_good_token() -> None:
    """FAULTS 40: 401, for every route of the description, and for those that do not exist."""
    async with served(1, protocol="coordinator") as (_, sites):
        site = sites["m0"]
        others = [("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/v1/none"), ("PUT", "/v1/status")]
        every = [(method, path) for method, path, _ in site.operations] + others
        assert len(site.operations) >= 19
        for method, path in every:
            async with site.client(None) as client:
                check_problem(await client.request(method, path), 401)
                for shown in BAD_TOKENS:
                    headers = {"Authorization": shown.format(read=site.tokens["read"])}
                    answer = await client.request(method, path, headers=headers)
                    check_problem(answer, 401)
                    assert answer.headers["www-authenticate"].startswith("Bearer")
                good = f"Bearer {site.tokens['operate']}"
                twice = [("Authorization", good), ("Authorization", good)]
                check_problem(await client.request(method, path, headers=twice), 401)


async def test_the_role_read_enters_no_command() -> None:
    """FAULTS 40: 403, for every route whose role is the greater one, and for every method that nobody thought of."""
    async with served(1, protocol="coordinator") as (_, sites):
        site = sites["m0"]
        greater = [(method, path) for method, path, role in site.operations if role == "operate"]
        assert greater == [("POST", "/v1/commands")]
        for method, path in [*greater, ("POST", "/v1/none"), ("PUT", "/v1/status"), ("DELETE", "/v1/history/1")]:
            async with site.client("read") as client:
                check_problem(await client.request(method, path, json={}), 403)
        reading = [one for one in site.operations if one[2] == "read" and not one[1].endswith("stream")]
        for method, path, _ in reading:
            for role in ("read", "operate"):
                async with site.client(role) as client:
                    answer = await client.request(method, path, json={"wish": {}} if method == "POST" else None)
                    assert answer.status_code in (200, 404), (path, answer.text)
                    check_headers(answer)


async def test_foreign_hosts_and_origins_are_refused_on_every_route() -> None:
    """FAULTS 41: whatever token comes along."""
    async with served(1, protocol="coordinator") as (_, sites):
        site = sites["m0"]
        for headers, code in FOREIGN:
            async with site.client("operate", headers) as client:
                for method, path, _ in [*site.operations, ("OPTIONS", "/v1/status", "read")]:
                    check_problem(await client.request(method, path), code)


async def test_own_names_are_answered_and_no_answer_allows_another_origin_to_read_it() -> None:
    async with served(1, protocol="coordinator") as (_, sites):
        for headers in (
            {"Host": "localhost:8000"},
            {"Host": "LocalHost:8000"},
            {"Origin": "http://127.0.0.1:8000"},
            {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        ):
            async with sites["m0"].client("read", headers) as client:
                answer = await client.get("/v1/status")
                assert answer.status_code == 200
                check_headers(answer)


# ------------------------------------------------------------------------------------------------- bodies


@attrs.define
class Talk:
    """One request to a guard by hand, and what came back."""

    messages: Sequence[Message]
    received: int = 0
    sent: list[Message] = attrs.field(factory=list[Message])

    async def receive(self) -> Message:
        if self.received == len(self.messages):
            await trio.sleep_forever()
        self.received += 1
        return self.messages[self.received - 1]

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def _ask(talk: Talk, *headers: tuple[bytes, bytes], method: str = "POST") -> None:
    token = new_token()
    guard = Guard(_echo, Tokens((entry_of("t", "operate", token),)), Names.of(("127.0.0.1", 1), (), (), tls=False))
    own = [(b"host", b"127.0.0.1:1"), (b"authorization", f"Bearer {token}".encode())]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": "/v1/commands", "headers": [*own, *headers]}
    await guard(scope, talk.receive, talk.send)


JSON = (b"content-type", b"application/json")


async def test_a_body_that_says_it_is_too_large_is_never_read() -> None:
    talk = Talk([{"type": "http.request", "body": b"x"}])
    await _ask(talk, JSON, (b"content-length", str(BODY_BYTES_MAX + 1).encode()))
    assert (talk.status, talk.received) == (413, 0)


@pytest.mark.parametrize("length", [b"-1", b"1e9", b"9" * 4000, b"\xc2\xb2", b"1, 2"])
async def test_a_length_that_is_none_is_refused(length: bytes) -> None:
    talk = Talk([])
    await _ask(talk, JSON, (b"content-length", length))
    assert talk.status == 413


async def test_a_body_that_does_not_say_how_long_it_is_is_read_up_to_the_bound() -> None:
    part = {"type": "http.request", "body": bytes(1 << 16), "more_body": True}
    talk = Talk([part] * 1000)
    await _ask(talk, JSON)
    assert talk.status == 413
    assert talk.received == BODY_BYTES_MAX // (1 << 16) + 1


async def test_a_body_that_does_not_come_is_waited_for_so_long(autojump_clock: trio.testing.MockClock) -> None:
    talk = Talk([{"type": "http.request", "body": b"{", "more_body": True}])
    began = trio.current_time()
    await _ask(talk, JSON)
    assert talk.status == 408
    assert trio.current_time() - began == pytest.approx(BODY_SECONDS)


async def test_a_request_that_is_cut_off_changes_nothing() -> None:
    talk = Talk([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    await _ask(talk, JSON)
    assert talk.status == 400


@pytest.mark.parametrize("kind", [b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"])
async def test_a_body_is_json_or_refused(kind: bytes) -> None:
    """A web page can send these without asking first."""
    talk = Talk([{"type": "http.request", "body": b"{}"}])
    await _ask(talk, (b"content-type", kind))
    assert (talk.status, talk.received) == (415, 0)


async def test_whoever_only_asks_sends_no_body() -> None:
    talk = Talk([{"type": "http.request", "body": b"x"}])
    await _ask(talk, method="GET")
    assert talk.status == 413


async def test_a_whole_body_passes() -> None:
    parts: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.request", "body": b"}"},
    ]
    talk = Talk(parts)
    await _ask(talk, JSON)
    assert talk.status == 200
    assert talk.sent[1]["body"] == b"{}"


async def test_a_websocket_is_closed() -> None:
    talk = Talk([{"type": "websocket.connect"}])
    guard = Guard(_echo, Tokens(()), Names(frozenset(), frozenset()))
    await guard({"type": "websocket"}, talk.receive, talk.send)
    assert talk.sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_bug_is_a_fixed_sentence_outside_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(1, protocol="coordinator") as (_, sites):
        site = sites["m0"]

        def broken() -> dict[str, Any]:
            raise RuntimeError("secret of the inside")

        monkeypatch.setattr(site.facade.node, "status", broken)
        async with site.client("read") as client:
            with caplog.at_level(logging.ERROR, "bftkit.admin"):
                answer = await client.get("/v1/status")
        told = check_problem(answer, 500)
        assert "secret" not in json.dumps(told)
        assert "secret of the inside" in caplog.text


# ------------------------------------------------------------------------------------------------- tokens, settings


def test_the_file_of_tokens_has_none_of_them(tmp_path: Path) -> None:
    read, operate = new_token(), new_token()
    tokens = Tokens((entry_of("a", "read", read), entry_of("b", "operate", operate)))
    path = tmp_path / "tokens"
    path.write_text(tokens.to_text())
    path.chmod(0o600)
    again = read_tokens(path)
    assert read not in path.read_text()
    assert operate not in path.read_text()
    assert (again.role_of(read), again.role_of(operate)) == ("read", "operate")
    for wrong in ("", read[:-1], read + " ", read.upper(), entry_of("a", "read", read).digest, "\ud800", "é"):
        assert again.role_of(wrong) is None


def test_a_file_of_tokens_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(Tokens((entry_of("a", "read", new_token()),)).to_text())
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            read_tokens(path)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            read_token(path)


@pytest.mark.parametrize(
    "text",
    ["", "token = []", '[[token]]\nname = "a"\nrole = "root"\ndigest = "00"', '[[token]]\nname = "a"\nrole = "read"'],
)
def test_a_file_of_tokens_with_a_mistake_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="token"):
        read_tokens(path)


MEMBER = 'id = "m0"\nservice = "a.b:C"\nlisten = "tcp://127.0.0.1:1"\n'


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ('listen = "m0.example:80"', "no IP address"),
        ('listen = "udp://127.0.0.1:80"', "admin.listen"),
        ('listen = "192.0.2.1:80"', "would read the tokens"),
        ('listen = "0.0.0.0:80"\nplaintext = true', "no name to ask for"),
        ('listen = "127.0.0.1:80"\nkey = "k.pem"', "certificate and key"),
        ('listen = "127.0.0.1:80"\nhosts = ["Evil"]', "no host"),
        ('listen = "127.0.0.1:80"\norigins = ["evil.example"]', "no origin"),
        ('listen = "127.0.0.1:80"\ntoken = "x"', "tokens"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(table: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        MemberSettings.from_text(f"{MEMBER}[admin]\n{table}\n")


def test_settings_come_back_as_they_were_written() -> None:
    settings = MemberSettings.from_text(f'{MEMBER}[admin]\nlisten = "[::1]:80"\nhosts = ["a.example:80"]\n')
    assert settings.admin == AdminSettings("[::1]:80", hosts=("a.example:80",))
    assert MemberSettings.from_text(settings.to_text()) == settings
    assert MemberSettings.from_text(MEMBER).admin is None
    assert cast("AdminSettings", settings.admin).address.port == 80
