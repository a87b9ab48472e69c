"""The HTTP interface of real members: FAULTS 40 to 44, streams, shutdown, callers that misbehave, and no 500 at all."""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from bftkit.admin.events import Feed
from bftkit.client.http import Access, ApiRefused, HttpApi
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import HandOver
from bftkit.membership.command_files import command_from_text, command_to_text
from bftkit.membership.commands import CANCEL, PLANNED, Command, SignedCommand, sign_command
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import Genesis
from bftkit.node.chronicle import read_events
from bftkit.node.folders import read_key
from bftkit.node.processes import ProcessGroup
from tests.system.conftest import PATIENCE_SECONDS, ports, until

pytestmark = pytest.mark.system

MakeGroup = Callable[..., ProcessGroup]
RunCommand = Callable[..., Any]
EXAMPLES: Final = int(os.environ.get("BFTKIT_EXAMPLES", "2"))
FUZZ: Final = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
_conformance: Any = importlib.import_module("schemathesis.specs.openapi.checks")  # its types are its own affair
CRASHES: Final[list[Any]] = [vars(importlib.import_module("schemathesis.checks"))["not_a_server_error"]]
CHECKS: Final[list[Any]] = [
    *CRASHES,
    _conformance.status_code_conformance,
    _conformance.content_type_conformance,
    _conformance.response_schema_conformance,
]


@attrs.frozen
class Sites:
    """A group whose members have HTTP interfaces."""

    group: ProcessGroup
    base: int

    @property
    def directory(self) -> Path:
        return self.group.directory

    def url(self, member: str) -> str:
        return f"http://127.0.0.1:{self.base + int(member[1:])}"

    def token(self, member: str, role: str) -> str:
        return (self.directory / "admin" / f"{member}.{role}").read_text().strip()

    def way(self, *members: str, role: str = "operate") -> list[str]:
        words: list[str] = []
        for member in members:
            words += ["--api", self.url(member), "--token-file", str(self.directory / "admin" / f"{member}.{role}")]
        return words

    def client(self, member: str, role: str = "operate") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token(member, role)}"}
        return httpx.Client(base_url=self.url(member), headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)

    def api(self, member: str, role: str = "operate") -> HttpApi:
        return HttpApi(Access(self.url(member), self.token(member, role)), timeout=PATIENCE_SECONDS)


@pytest.fixture
def sites(found: MakeGroup) -> Iterator[Callable[..., Sites]]:
    """Founds groups with HTTP interfaces; nothing is started."""
    with contextlib.ExitStack() as held:

        def make(*options: object) -> Sites:
            base = held.enter_context(ports())
            return Sites(found("--admin-base-port", base, *options), base)

        yield make


def test_an_operator_changes_a_group_through_one_member_and_no_link(
    sites: Callable[..., Sites], command: RunCommand, tmp_path: Path
) -> None:
    """From `init` to another protocol and back, with nothing but an address and a token."""
    site = sites("--checkpoint-interval", 4)
    site.group.start_all()
    way = site.way("m1", "m2")
    nowhere = ("--client", tmp_path / "none")
    patient = ("--timeout", PATIENCE_SECONDS)
    told = command("status", *way, *nowhere, *patient)
    assert (told.code, [one["member"] for one in told.events]) == (0, ["m1", "m2"])
    key = ("--operator-key", site.directory / "operator" / "operator.key")
    told = command("switch", "cks", *way, *nowhere, *key, "--yes")
    assert told.code == 0, told.error
    assert told.last["protocol"] == "cks"

    def entered(*way: object) -> set[str]:
        told = command("events", *way, *nowhere, *patient)
        return {one["member"] for one in told.events if one.get("what") == "entered"}

    # That one of m1 and m2 has shown the hand-over says nothing of the others.
    until(lambda: entered(*way) == {"m1", "m2"}, "m1 and m2 in epoch 1")
    until(lambda: entered(*site.way("m3", role="read")) == {"m3"}, "m3 in epoch 1")
    told = command("history", *site.way("m3", role="read"), "--client", site.directory / "client")
    assert [one.get("kind") for one in told.events] == ["founded", "planned", None]
    assert (site.directory / "client" / "chain.bin").exists()

    def answered() -> list[bool]:
        told = command("member", "list", *way, *nowhere, *patient)
        return [one["answered"] for one in told.events[:4]]

    until(lambda: answered() == [True] * 4, "links of m1 and m2 with the others")
    told = command("qos", "show", *way, *nowhere)
    assert told.code == 0, told.error
    assert command("evidence", "list", *way).last == {"event": "result", "count": 0}
    assert command("evidence", "verify", *way, "--client", site.directory / "client").last["count"] == 0
    assert command("evidence", "list").code == 2
    told = command("status", "--watch", "--rounds", 2, "--every", 0.1, *way, *nowhere, *patient)
    assert [(one["round"], one["member"], one["epoch"]) for one in told.events] == [
        (1, "m1", 1),
        (1, "m2", 1),
        (2, "m1", 1),
        (2, "m2", 1),
    ]
    reading = command("switch", "pbft", *site.way("m1", role="read"), *nowhere, *key, "--yes")
    assert reading.code == 6
    assert "the token is for the role read" in reading.error
    wrong = command("status", "--api", site.url("m1"), "--token-file", site.directory / "admin" / "m2.read")
    assert (wrong.code, "a token is needed" in wrong.error) == (6, True)


def test_a_silent_member_swallows_a_command_and_is_passed_by(sites: Callable[..., Sites], command: RunCommand) -> None:
    """FAULTS 44, with a member that lies."""
    site = sites("--checkpoint-interval", 4)
    site.group.start("m3", "--adversary", "silent")
    site.group.start_all(["m0", "m1", "m2"])
    site.group.wait_ready("m3")
    signed = _signed(site, command)
    with site.api("m3") as liar, site.api("m1") as honest:
        liar.submit(signed)
        until(lambda: liar.status()["member"] == "m3", "an answer")
        assert liar.get(f"commands/{signed.name.hex()}")["state"] in ("unknown", "taken")
        assert honest.get("configuration")["epoch"] == 0
        honest.submit(signed)
        until(lambda: honest.get("configuration")["epoch"] == 1, "epoch 1")
        assert honest.submit(signed)["state"] == "done"
        with pytest.raises(ApiRefused, match="this is epoch 1"):
            honest.dry_run(signed)


def _signed(site: Sites, command: RunCommand) -> Any:
    file = site.directory / "command.toml"
    told = command("switch", "cks", "--client", site.directory / "client", "--out", file)
    assert told.code == 0, told.error
    return command_from_text(file.read_text())


# ------------------------------------------------------------------------------------------------- the server


def test_the_server_of_a_real_member(sites: Callable[..., Sites]) -> None:
    """One group for what needs a socket; each step leaves it as it was, but for the last."""
    site = sites("--members", 1, "--protocol", "coordinator", "--checkpoint-interval", 4)
    site.group.start_all()
    _raw_requests(site)
    _callers_that_misbehave(site)
    _everything_in_the_description(site)
    _sequences(site)
    _streams_end_with_the_member(site)


def _raw(site: Sites, request: bytes) -> bytes:
    answer = b""
    with socket.create_connection(("127.0.0.1", site.base), timeout=PATIENCE_SECONDS) as connection:
        # A member that answers before it has read all resets the connection; what it said is there all the same.
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                answer += part
    return answer


def _raw_requests(site: Sites) -> None:
    """What no client library would send. An answer or a closed connection; never a 500, and the member stays up."""
    token = b"Authorization: Bearer " + site.token("m0", "operate").encode() + b"\r\n"
    host = b"Host: 127.0.0.1:%d\r\n" % site.base
    close = b"Connection: close\r\n\r\n"
    cases: list[tuple[bytes, bytes]] = [
        (b"GET /v1/status HTTP/1.1\r\n" + host + token + close, b" 200"),
        (b"GET /v1/status HTTP/1.1\r\n" + host + close, b" 401"),
        (b"GET /v1/status HTTP/1.1\r\n" + token + close, b" 400"),
        (b"GET /v1/status HTTP/1.1\r\n" + host + b"Host: evil.example\r\n" + token + close, b" 400"),
        (b"GET /v1/status HTTP/1.0\r\n" + token + b"\r\n", b" 421"),
        (b"GET http://evil.example/v1/status HTTP/1.1\r\n" + host + token + close, b" 404"),
        (b"GET /v1/../v1/status HTTP/1.1\r\n" + host + token + close, b" 404"),
        (b"GET /v1/evidence/..%2f..%2fgenesis.toml HTTP/1.1\r\n" + host + token + close, b" 404"),
        (b"GET /v1/status HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n" + host + token + close, b" 431"),
        (b"POST /v1/commands HTTP/1.1\r\n" + host + token + b"Content-Length: 99999999999\r\n" + close, b" 413"),
        (b"POST /v1/commands HTTP/1.1\r\n" + host + token + b"Content-Length: -1\r\n" + close, b" 400"),
        (b"POST /v1/commands HTTP/1.1\r\n" + host + token + b"Content-Length: 2\r\n" + close + b"{}", b" 415"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", b" 400"),
        (b"GARBAGE\r\n\r\n", b" 400"),
    ]
    for request, expected in cases:
        answer = _raw(site, request)
        assert expected in answer.split(b"\r\n")[0], (request[:90], answer[:200])
        assert b"Traceback" not in answer


def _callers_that_misbehave(site: Sites) -> None:
    """More connections than there may be, halves of requests, bodies that nobody wants: others are still served."""
    idle = [socket.create_connection(("127.0.0.1", site.base)) for _ in range(40)]
    for number, connection in enumerate(idle):
        connection.sendall(b"POST /v1/commands HTTP/1.1\r\nContent-Le"[: number + 1])
    pushing = socket.create_connection(("127.0.0.1", site.base))
    pushing.settimeout(PATIENCE_SECONDS)
    pushing.sendall(b"POST /v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
    with pytest.raises(OSError):
        pushing.sendall(bytes(100_000_000))
    with site.client("m0") as client:
        assert client.get("/v1/status").status_code == 200
    more = [socket.create_connection(("127.0.0.1", site.base)) for _ in range(60)]
    for connection in (*idle, *more, pushing):
        connection.close()

    def served() -> bool:
        """Half of all that there may be, at the same time: so the others are gone."""
        try:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(site.client("m0")) for _ in range(32)]
                return all(client.get("/v1/log").status_code == 200 for client in clients)
        except httpx.TransportError:
            return False

    until(served, "answers after the flood")
    assert site.group.is_running("m0")


def _schema(site: Sites) -> Any:
    with site.client("m0") as client:
        raw = client.get("/v1/openapi.json").json()
    del raw["paths"]["/v1/events/stream"]  # it has no end
    loaded: Any = schemathesis.openapi.from_dict(raw)
    loaded.config.update(base_url=site.url("m0"))
    return loaded


def _headers(site: Sites) -> dict[str, str]:
    return {"Authorization": f"Bearer {site.token('m0', 'operate')}"}


def _everything_in_the_description(site: Sites) -> None:
    """Whatever fits the description, and what does not: answers as described, no 500."""
    for result in _schema(site).get_all_operations():
        operation = result.ok()

        @FUZZ
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
        def good(case: Any) -> None:
            case.call_and_validate(headers=_headers(site), checks=CHECKS)

        @FUZZ
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        def bad(case: Any) -> None:
            case.call_and_validate(headers=_headers(site), checks=[*CRASHES, _conformance.content_type_conformance])

        good()
        if operation.body or operation.path_parameters or operation.query:
            bad()


def _sequences(site: Sites) -> None:
    """Sequences in which each step uses what earlier ones told: commands that succeed, and all that is wrong with them.

    Every answer is one that the description has, and none is a 500.
    """
    with site.client("m0") as client:
        paths: dict[str, Any] = client.get("/v1/openapi.json").json()["paths"]
        genesis = Genesis.from_text(client.get("/v1/genesis").json()["text"])
        key = read_key(site.directory / "operator" / "operator.key", "operator").signing_key
        for seed in range(EXAMPLES):
            Walk(client, paths, genesis, key, random.Random(seed)).run()


@attrs.define
class Walk:
    """One sequence."""

    client: httpx.Client
    paths: dict[str, Any]
    genesis: Genesis
    key: SigningKey
    chance: random.Random
    commands: list[SignedCommand] = attrs.field(factory=list[SignedCommand])
    events: list[str] = attrs.field(factory=lambda: ["0-0"])

    def run(self, steps: int = 25) -> None:
        self.order()
        for _ in range(steps):
            self.chance.choice([self.order, self.again, self.bend, self.cancel, self.look, self.try_out, self.follow])()

    def ask(self, method: str, path: str, declared: str = "", **more: Any) -> Any:
        answer = self.client.request(method, path, **more)
        responses = self.paths[declared or path][method.lower()]["responses"]
        assert str(answer.status_code) in responses, (method, path, answer.text)
        assert answer.status_code != 500
        return answer.json()

    def post(self, signed: SignedCommand, path: str = "/v1/commands") -> Any:
        return self.ask("POST", path, json={"command": base64.b64encode(signed.encode()).decode("ascii")})

    def look(self) -> None:
        name = self.chance.choice(self.commands).name.hex()
        told = self.ask("GET", f"/v1/commands/{name}", "/v1/commands/{name}")
        assert told["name"] == name
        self.ask("GET", f"/v1/commands/{'0' * 64}", "/v1/commands/{name}")

    def order(self) -> None:
        """A change to the same again, in the present epoch; perhaps the one before is still under way."""
        links = self.ask("GET", "/v1/history")["links"]
        here = Configuration.first(self.genesis)
        if links:
            last = self.ask("GET", f"/v1/history/{links[-1]['epoch']}", "/v1/history/{epoch}")
            here = HandOver.decode(base64.b64decode(last["handover"])).next
        nonce = self.chance.randbytes(16)
        command = Command(self.genesis.group_id, here.epoch, PLANNED, 0, False, here.change(), nonce, "a walk")
        self.commands.append(sign_command(command, self.key))
        self.again()

    def again(self) -> None:
        self.post(self.chance.choice(self.commands[-3:]))

    def bend(self) -> None:
        """Bytes of a good command, changed."""
        data = bytearray(self.commands[-1].encode())
        data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        body = {"command": base64.b64encode(data).decode("ascii")}
        told = self.ask("POST", self.chance.choice(["/v1/commands", "/v1/dry-run"]), json=body)
        assert "error" in told or "kind" in told or told["name"] == self.commands[-1].name.hex()

    def cancel(self) -> None:
        last = self.commands[-1].command
        command = attrs.evolve(last, kind=CANCEL, change=None, nonce=self.chance.randbytes(16))
        self.commands.append(sign_command(command, self.key))
        self.again()
        self.commands.pop()

    def try_out(self) -> None:
        self.post(self.commands[-1], "/v1/dry-run")
        text = command_to_text(self.commands[-1])
        self.ask("POST", "/v1/dry-run", json={"file": text[: self.chance.randrange(len(text))]})

    def follow(self) -> None:
        told = self.ask("GET", "/v1/events", params={"after": self.chance.choice(self.events)})
        self.events += [one["id"] for one in told["events"]]
        configuration = self.ask("GET", "/v1/configuration")
        assert configuration["epoch"] >= 0
        for path in ("/v1/members", "/v1/log", "/v1/qos", "/v1/policy", "/v1/evidence"):
            self.ask("GET", path)


def _streams_end_with_the_member(site: Sites) -> None:
    """An event stream is resumed after its last id, and ends at once when the member stops; so does the member."""
    with site.api("m0", "read") as api:
        known: list[str] = []
        while page := [one["id"] for one in api.events(known[-1] if known else None)["events"]]:
            known += page
        assert len(known) >= 3
        with api.stream(known[-3]) as events:
            assert next(events)["id"] == known[-2]
            unread = socket.create_connection(("127.0.0.1", site.base))
            unread.sendall(b"GET /v1/events/stream HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % site.base)
            os.kill(site.group.pid("m0"), signal.SIGTERM)
            rest = [one["id"] for one in events]
            assert site.group.wait_end("m0") == 0
            unread.close()
    # What the walks have begun may come to its end meanwhile: then there is more than was known before.
    feed = Feed(read_events(site.directory / "m0"))
    assert rest[:1] == known[-1:]
    assert rest == [one.id for one in feed.after(feed.place_of(known[-2]), len(rest))]


# ------------------------------------------------------------------------------------------------- starting


def test_a_member_whose_interface_cannot_be_opened_says_so_in_a_line(sites: Callable[..., Sites]) -> None:
    site = sites("--members", 1, "--protocol", "coordinator")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", site.base))
        taken.listen()
        words = [sys.executable, "-m", "bftkit", "node", "run", str(site.directory / "m0"), "--json"]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    place = f"127.0.0.1:{site.base}"
    assert ended.stderr == f"bftkit: the HTTP interface cannot listen at {place}: Address already in use\n"
    assert json.loads(ended.stdout.splitlines()[-1])["event"] == "error"
    assert ended.returncode == 8
