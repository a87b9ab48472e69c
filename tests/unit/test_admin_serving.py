"""The server in the node's nursery: TLS, bounded connections, callers that do not read, and an end that is at once."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from bftkit.admin import serving
from bftkit.admin.founding import Access
from bftkit.admin.serving import Admin, AdminError, open_admin
from bftkit.cli import main, reach
from bftkit.cli.keygen import new_key
from bftkit.client.errors import NoAnswer
from bftkit.client.http import Access as HttpAccess
from bftkit.client.http import AsyncHttpApi
from bftkit.client.local import LocalGroup, local_group
from bftkit.configuration.settings import AdminSettings, ClientSettings
from bftkit.configuration.text import ConfigurationError
from bftkit.node.folders import CLIENT_FILE, ClientFolder
from bftkit.service.keyvalue import KeyValueStore

TIMEOUT = 60.0


class Opened:
    """A member of a local group with its HTTP interface open, in a folder."""

    def __init__(self, group: LocalGroup, folder: Path, settings: AdminSettings | None = None) -> None:
        self.group = group
        self.access = Access.at("tcp://127.0.0.1:1", 0)
        settings = settings if settings is not None else self.access.settings
        if not (folder / "admin.tokens").exists():
            self.access.write_digests(folder)
        self.admin = open_admin(group.node("m0"), group.genesis, settings, folder)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Asked again after every round of the member, so several times in a second."""
        await self.group.until(condition, TIMEOUT)

    @property
    def port(self) -> int:
        return int(self.admin.url.rpartition(":")[2])

    def api(self, authority: Path | None = None) -> AsyncHttpApi:
        return AsyncHttpApi(HttpAccess(self.admin.url, self.access.tokens["read"], authority), timeout=TIMEOUT)


@asynccontextmanager
async def serving_one(folder: Path, settings: AdminSettings | None = None) -> AsyncGenerator[Opened]:
    """A group of one, and its interface on a free port."""
    async with local_group(KeyValueStore, members=1, protocol="coordinator") as group:
        opened = Opened(group, folder, settings)
        async with trio.open_nursery() as nursery:
            await nursery.start(opened.admin.serve)
            yield opened
            opened.admin.stop()


def _certificate(folder: Path) -> AdminSettings:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=m0"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "k.pem"), "-out", str(folder / "c.pem")]
    subprocess.run(["openssl", *words.split(), *names], check=True, capture_output=True)
    return AdminSettings("127.0.0.1:0", certificate="c.pem", key="k.pem")


async def test_tls_is_served_and_nothing_else_beside_it(tmp_path: Path) -> None:
    settings = _certificate(tmp_path)
    async with serving_one(tmp_path, settings) as opened:
        assert opened.admin.url.startswith("https://127.0.0.1:")
        async with opened.api(tmp_path / "c.pem") as api:
            assert (await api.status())["member"] == "m0"
        async with opened.api() as stranger:
            with pytest.raises(NoAnswer, match=r"certificate is not trusted: self-signed .* --ca FILE"):
                await stranger.status()
        async with httpx.AsyncClient(trust_env=False) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(opened.admin.url.replace("https", "http"))
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_alpn_protocols(["h2", "http/1.1"])
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", opened.port, ssl_context=old)
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "http/1.1"
        await trio.aclose_forcefully(stream)
        async with opened.api(tmp_path / "c.pem") as api:
            assert (await api.status())["member"] == "m0"


async def test_status_says_why_no_interface_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a client's folder, too, where nothing was asked before it."""
    right, wrong, client = tmp_path / "right", tmp_path / "wrong", tmp_path / "client"
    for folder in (right, wrong, client):
        folder.mkdir()
    _certificate(wrong)

    def status(url: str, *more: object) -> tuple[int, str]:
        words = ["status", "--api", url, "--token-file", tmp_path / "m0.read", "--client", client, *more]
        code = main([str(word) for word in words])
        return code, capsys.readouterr().err

    async with serving_one(right, _certificate(right)) as opened:
        token = tmp_path / "m0.read"
        token.write_text(opened.access.tokens["read"])
        token.chmod(0o600)
        (client / CLIENT_FILE).touch()
        known = ClientFolder(client, ClientSettings(), opened.group.genesis, new_key("client"))

        def read_client(folder: Path) -> ClientFolder:
            return known

        monkeypatch.setattr(reach, "read_client", read_client)
        url = opened.admin.url
        for words, told in (
            ((url, "--ca", right / "c.pem"), ""),
            ((url, "--ca", wrong / "c.pem"), f"certificate is not trusted: .*; is {wrong}/c.pem .* the right file"),
            ((url,), "certificate is not trusted: self-signed certificate; name the certificates to trust with --ca"),
            ((url.replace("https", "http"),), "does it speak TLS. Then it is https://"),
        ):
            code, error = await trio.to_thread.run_sync(partial(status, *words))
            assert (code, bool(re.search(told, error))) == (4 if told else 0, True), error
            assert ("no member answered; " in error) == bool(told)
    async with serving_one(tmp_path) as opened:
        code, error = await trio.to_thread.run_sync(partial(status, opened.admin.url.replace("http", "https")))
        assert (code, "does not speak TLS; is it http:// in place of https://?" in error) == (4, True), error
        for path, why in ((tmp_path / "none.pem", "No such file"), (token, "no certificate")):
            code, error = await trio.to_thread.run_sync(partial(status, opened.admin.url, "--ca", path))
            assert (code, f"--ca {path}: " in error, why in error) == (3, True, True), error


async def test_a_certificate_that_cannot_be_used_is_a_mistake_that_names_its_file(tmp_path: Path) -> None:
    async with local_group(KeyValueStore, members=1, protocol="coordinator") as group:
        settings = AdminSettings("127.0.0.1:0", certificate="c.pem", key="k.pem")
        with pytest.raises(ConfigurationError, match=r"c\.pem: there is no such file"):
            Opened(group, tmp_path, settings)
        for name in ("c.pem", "k.pem"):
            (tmp_path / name).write_text("no certificate")
        with pytest.raises(ConfigurationError, match=r"c\.pem: it cannot be used"):
            Opened(group, tmp_path, settings)


async def test_a_port_that_is_taken_is_said_before_anything_runs(tmp_path: Path) -> None:
    async with local_group(KeyValueStore, members=1, protocol="coordinator") as group:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            settings = AdminSettings(f"127.0.0.1:{taken.getsockname()[1]}")
            with pytest.raises(AdminError, match="already in use"):
                Opened(group, tmp_path, settings)


async def test_there_are_only_so_many_connections_and_they_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS_MAX", 3)
    async with serving_one(tmp_path) as opened:
        held = [await trio.open_tcp_stream("127.0.0.1", opened.port) for _ in range(3)]
        await opened.until(lambda: len(opened.admin._streams) == 3)  # pyright: ignore[reportPrivateUsage]
        refused = await trio.open_tcp_stream("127.0.0.1", opened.port)
        with trio.fail_after(TIMEOUT):
            try:
                assert await refused.receive_some() == b""
            except trio.BrokenResourceError:
                pass  # reset, which is as good
        await refused.aclose()
        await held[0].aclose()
        await opened.until(lambda: len(opened.admin._streams) == 2)  # pyright: ignore[reportPrivateUsage]
        async with opened.api() as api:
            assert (await api.status())["member"] == "m0"
        for stream in held[1:]:
            await stream.aclose()


async def test_a_caller_that_does_not_read_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the others, nor the end of the member: Hypercorn writes in a shield."""
    monkeypatch.setattr(serving, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(serving, "SEND_SECONDS", 1e6)
    with trio.fail_after(TIMEOUT):
        async with serving_one(tmp_path) as opened:
            for number in range(4000):
                opened.admin.feed.add({"event": "noted", "time_ms": number, "text": "x" * 5000})
            reader = await _deaf(opened, b"GET /v1/events/stream?after=0-0 HTTP/1.1\r\n")
            await opened.until(lambda: opened.admin.feed.streams == 1)
            async with opened.api() as api:
                assert (await api.status())["member"] == "m0"
            opened.admin.stop()
        await reader.aclose()


async def test_a_write_that_takes_too_long_ends_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SEND_SECONDS", 0.1)
    async with serving_one(tmp_path) as opened:
        for number in range(4000):
            opened.admin.feed.add({"event": "noted", "time_ms": number, "text": "x" * 5000})
        reader = await _deaf(opened, b"GET /v1/events/stream?after=0-0 HTTP/1.1\r\n")
        with trio.fail_after(TIMEOUT):
            assert await reader.receive_some(8) == b"HTTP/1.1"  # it has begun; no more is read
        await opened.until(lambda: opened.admin.feed.streams == 0)
        await opened.until(lambda: not opened.admin._streams)  # pyright: ignore[reportPrivateUsage]
        await reader.aclose()


async def test_a_body_that_nobody_wants_does_not_keep_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "LINGER_SECONDS", 0.1)
    async with serving_one(tmp_path) as opened:
        pushing = await trio.open_tcp_stream("127.0.0.1", opened.port)
        token, host = opened.access.tokens["operate"], f"127.0.0.1:{opened.port}"
        head = f"POST /v1/commands HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        kind = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"100\r\n" + bytes(256) + b"\r\n"  # many small pieces: more than wait to be read when it is refused
        with trio.fail_after(TIMEOUT), pytest.raises(trio.BrokenResourceError):
            await pushing.send_all((head + kind).encode() + 400_000 * chunk)
        await opened.until(lambda: not opened.admin._streams)  # pyright: ignore[reportPrivateUsage]
        await pushing.aclose()


async def test_who_goes_away_in_the_middle_of_an_answer_is_no_error() -> None:
    """Hypercorn says the end while the answer is being written; which comes first is chance, so both ways are taken."""
    broken = 0
    for _ in range(40):
        ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
        stream = serving._Stream(ours, trio.CancelScope())  # pyright: ignore[reportPrivateUsage]

        async def write(stream: serving._Stream = stream) -> None:  # pyright: ignore[reportPrivateUsage]
            nonlocal broken
            try:
                with suppress(trio.ClosedResourceError):  # the end was said before: Hypercorn expects both
                    await stream.send_all(b"")
            except trio.BrokenResourceError:
                broken += 1

        async def end(stream: serving._Stream = stream) -> None:  # pyright: ignore[reportPrivateUsage]
            with suppress(trio.BusyResourceError):  # as Hypercorn does
                await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(end)
        await ours.aclose()
        await theirs.aclose()
    assert broken, "the two never met"


async def test_the_server_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    async with local_group(KeyValueStore, members=1, protocol="coordinator") as group:
        opened = Opened(group, tmp_path)
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                await nursery.start(opened.admin.serve)
                reader = await _deaf(opened, b"GET /v1/events/stream HTTP/1.1\r\n")
                assert (await reader.receive_some()).startswith(b"HTTP/1.1 200")
                nursery.cancel_scope.cancel()
        await reader.aclose()
        assert opened.admin.feed.closed
        again = Opened(group, tmp_path, AdminSettings(f"127.0.0.1:{opened.port}"))
        assert isinstance(again.admin, Admin)
        await _closed(again)


async def _closed(opened: Opened) -> None:
    opened.admin.stop()
    await opened.admin.serve()


async def _deaf(opened: Opened, request: bytes) -> trio.SocketStream:
    """A caller that asks, and reads nothing."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", opened.port))
    stream = trio.SocketStream(sock)
    token = opened.access.tokens["read"].encode()
    host = f"127.0.0.1:{opened.port}".encode()
    await stream.send_all(request + b"Host: " + host + b"\r\nAuthorization: Bearer " + token + b"\r\n\r\n")
    return stream
