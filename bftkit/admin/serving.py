"""Serves the HTTP interface from inside the node's nursery, with Hypercorn's trio connections.

`open_admin` opens everything that can fail, the port above all, before the member itself begins, so that a mistake is
one clear line. `Admin.serve` then accepts connections until it is cancelled or told to stop.

It is Hypercorn's own server for one connection (`hypercorn.trio.tcp_server`) in a loop of ours, and not its
`hypercorn.trio.serve`. That one has three gaps that matter beside a member of a group: it takes any number of
connections; it waits for a caller that does not read, in a shield that outlives its own shutdown; and a connection
whose caller has gone stays until it has been idle for long enough. Here connections are bounded, a write has to be
done within `SEND_SECONDS`, and a connection ends soon after either side closed it, whatever it waits for.

Whatever a caller does ends its own connection at most. What would end this server is logged, and it goes on; the node
beside it never notices.
"""

from __future__ import annotations

import logging
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import attrs
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from bftkit.admin.events import Feed
from bftkit.admin.facade import Facade
from bftkit.admin.guard import App, Guard, Names
from bftkit.admin.routes import MetricsText, create_app
from bftkit.admin.tokens import read_tokens
from bftkit.configuration.settings import AdminSettings
from bftkit.configuration.text import ConfigurationError
from bftkit.membership.genesis import Genesis
from bftkit.node.chronicle import read_events
from bftkit.node.node import Node

logger = logging.getLogger("bftkit.admin")

CONNECTIONS_MAX: Final = 64
HEADER_BYTES_MAX: Final = 16 << 10
IDLE_SECONDS: Final = 10.0
"""So long a connection may take to say what it wants, the first time and again."""
HANDSHAKE_SECONDS: Final = 10.0
SEND_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 1.0
"""So long after it was closed a connection ends, whatever it still waits for."""
GONE_SECONDS: Final = 0.05
"""The same after the caller closed it."""
GRACE_SECONDS: Final = 1.0
"""So long requests under way may take to end when the member stops."""
BACKLOG: Final = 64


class AdminError(Exception):
    """The HTTP interface cannot be opened; the text says why."""


class _Stream(trio.abc.HalfCloseableStream):
    """A TCP stream that does not wait for ever for a caller that does not read."""

    def __init__(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._scope = scope
        self._patience = SEND_SECONDS
        self._sending: trio.CancelScope | None = None
        self.socket = stream.socket  # where Hypercorn looks for addresses

    def hurry(self) -> None:
        """The member stops: what is being written has to be done soon."""
        self._patience = GRACE_SECONDS
        if self._sending is not None:
            self._sending.deadline = min(self._sending.deadline, trio.current_time() + GRACE_SECONDS)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.move_on_after(self._patience) as self._sending:
            try:
                await self._stream.send_all(data)
            except trio.BusyResourceError:
                # Hypercorn sends one thing after the other, but says the end (`send_eof`) beside it: the caller left.
                raise trio.BrokenResourceError("the connection is being closed") from None
        if self._sending.cancelled_caught:
            await self.aclose()
            raise trio.BrokenResourceError("the caller does not read")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if not data:
            # Whoever says no more is gone for Hypercorn, too, and it waits for nothing sensible then. One that asks
            # over many short connections must not be refused for those that it has closed already.
            self._end_soon(GONE_SECONDS)
        return data

    async def aclose(self) -> None:
        self._end_soon(LINGER_SECONDS)
        await self._stream.aclose()

    def _end_soon(self, seconds: float) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)


@attrs.define(eq=False)
class Admin:
    """The HTTP interface of one member: `await nursery.start(admin.serve)` beside `Node.run`."""

    app: App
    feed: Feed
    facade: Facade
    url: str
    """How it is asked, such as ``http://127.0.0.1:8000``."""
    _socket: socket.socket
    _tls: ssl.SSLContext | None
    _streams: list[_Stream] = attrs.field(factory=list[_Stream])
    _context: WorkerContext = attrs.field(factory=lambda: WorkerContext(None))
    _stopped: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until `stop` is called, or this task is cancelled."""
        config = _config()
        framework = ASGIWrapper(cast("ASGIFramework", self.app))
        try:
            self._socket.listen(BACKLOG)
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    handle = partial(self._handle, framework, config)
                    serving = partial(trio.serve_listeners, handle, [listener], handler_nursery=connections)
                    await accepting.start(serving)
                    task_status.started()
                    try:
                        await self._stopped.wait()
                    finally:  # also if this task is cancelled: Hypercorn writes in a shield
                        for stream in self._streams:
                            stream.hurry()
                    accepting.cancel_scope.cancel()
                await self._context.terminated.set()  # connections that wait for nothing are closed
                connections.cancel_scope.deadline = trio.current_time() + GRACE_SECONDS
        finally:
            self.feed.close()
            self._socket.close()

    def stop(self) -> None:
        """Take no more connections, end all streams at once, and let what is under way finish within a second."""
        self.feed.close()
        self._stopped.set()

    async def _handle(self, framework: ASGIWrapper, config: Config, connection: trio.SocketStream) -> None:
        if len(self._streams) >= CONNECTIONS_MAX:
            await trio.aclose_forcefully(connection)
            return
        scope = trio.CancelScope()
        stream = _Stream(connection, scope)
        self._streams.append(stream)
        try:
            with scope:
                wrapped: Any = stream
                if self._tls is not None:
                    wrapped = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
                await TCPServer(framework, config, self._context, ConnectionState({}), wrapped).run()
        except Exception:  # whatever Hypercorn or TLS make of what a caller sent
            logger.warning("a connection to the HTTP interface was given up", exc_info=True)
        finally:
            self._streams.remove(stream)
            await trio.aclose_forcefully(connection)


def open_admin(
    node: Node, genesis: Genesis, settings: AdminSettings, folder: Path, metrics_text: MetricsText | None = None
) -> Admin:
    """Open the HTTP interface of the member in this folder; `Admin.serve` runs it.

    Raises `ConfigurationError` for settings, tokens or certificates, `AdminError` if it cannot listen there.
    """
    tokens = read_tokens(folder / settings.tokens)
    tls = _tls(settings, folder)
    address = settings.address
    listening = _bound(address.host, address.port)
    port = int(listening.getsockname()[1])
    names = Names.of((address.host, port), settings.hosts, settings.origins, tls=tls is not None)
    feed = Feed(read_events(folder))
    facade = Facade(node, genesis, feed)
    app = create_app(facade, metrics_text if metrics_text is not None else _metrics_text())
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"{'https' if tls is not None else 'http'}://{host}:{port}"
    return Admin(Guard(app, tokens, names, facade.requests), feed, facade, url, listening, tls)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setblocking(False)
        listening.bind((host, port))
        # Now and not later: two sockets may be bound to a port, and only one may listen there.
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise AdminError(f"the HTTP interface cannot listen at {where}: {error.strerror or error}") from None
    return listening


def _tls(settings: AdminSettings, folder: Path) -> ssl.SSLContext | None:
    if settings.certificate is None or settings.key is None:
        return None
    certificate, key = folder / settings.certificate, folder / settings.key
    for path in (certificate, key):
        if not path.is_file():
            raise ConfigurationError(str(path), "there is no such file", "give the right path in the table admin")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        told = f"it cannot be used with {key.name}: {error}"
        raise ConfigurationError(str(certificate), told, "give a certificate and its key, both PEM") from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to be asked for a password")


def _config() -> Config:
    config = Config()
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.h2_max_concurrent_streams = 8
    config.h2_max_header_list_size = HEADER_BYTES_MAX
    config.keep_alive_timeout = IDLE_SECONDS
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logger
    return config


def _metrics_text() -> MetricsText:
    from bftkit.admin import metrics

    return metrics.metrics_text
