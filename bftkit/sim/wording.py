"""What travels in a world, in words: frames, batches and operations as a person who knows the protocol says them.

It knows no protocol: a message is the name of its class and its fields, what is signed inside it is decoded by the
codecs that the plug-in names (`Plugin.inside`), and which slots it speaks of stands in its fields.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import CLOCK, COMMAND, COMMIT, OPEN, REQUESTS, Bundle, parse_batch, parse_bundle
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.ordering import Plugin
from bftkit.core.trace import describe
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.commands import SignedCommand
from bftkit.sim.turning import command_words

OPERATIONS_MAX: Final = 3
"""So many operations of a batch are told; the others are counted."""
_SIGNATURE: Final = 64
_KEY: Final = struct.Struct(">cH")
_EXPECTED: Final = struct.Struct(">I")
_ABSENT: Final = 0xFFFFFFFF


@attrs.frozen
class Message:
    """A frame that was read."""

    name: str
    """The message's class, or what else it is."""
    text: str
    slots: frozenset[int] = frozenset()
    """Of which slots it speaks, as far as its fields say so."""
    digest: bytes | None = None
    """For which batch it speaks, if it has one such field."""
    batches: tuple[bytes, ...] = ()
    """The bytes of the batches that came with it."""


def short(name: bytes) -> str:
    """A batch's name as it is told."""
    return "empty" if name == NO_DIGEST else name.hex()[:6]


def operation_words(operation: bytes) -> str:
    """An operation: of the key-value store if it looks like one, else as text or as bytes."""
    if len(operation) > _KEY.size:
        code, length = _KEY.unpack_from(operation)
        key, rest = operation[_KEY.size : _KEY.size + length], operation[_KEY.size + length :]
        if len(key) == length and key.isascii():
            name = key.decode()
            match code:
                case b"G" if not rest:
                    return f"get {name}"
                case b"D" if not rest:
                    return f"delete {name}"
                case b"P":
                    return f"put {name} = {_text(rest)}"
                case b"A":
                    return f"append {_text(rest)} to {name}"
                case b"C" if len(rest) >= _EXPECTED.size:
                    (size,) = _EXPECTED.unpack_from(rest)
                    old = None if size == _ABSENT else rest[_EXPECTED.size : _EXPECTED.size + size]
                    new = rest[_EXPECTED.size + (0 if size == _ABSENT else size) :]
                    return f"set {name} to {_text(new)} if it is {'absent' if old is None else _text(old)}"
                case _:
                    pass
    return _text(operation)


def counted(number: int, what: str) -> str:
    """``1 seed``, ``2,000 seeds``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _text(data: bytes) -> str:
    text = data.decode("ascii", "replace")
    return text[:40] if text.isprintable() and data.isascii() and data else describe(data)


class Wording:
    """Reads the frames of one world."""

    def __init__(
        self,
        plugin: Plugin,
        clients: Mapping[bytes, str],
        plugins: Callable[[int], Plugin | None] = lambda epoch: None,
    ) -> None:
        """`clients`: their names by public key; may grow. `plugins`: the protocol of each epoch, if it is not `plugin`.

        What is asked for before its epoch has begun in the world cannot be read.
        """
        self._plugin = plugin
        self._plugins = plugins
        self._clients = clients
        self._codecs = plugin.inside
        self._read: dict[bytes, Message] = {}
        self.batches: dict[bytes, bytes] = {}
        """The bytes of every batch that travelled, by name."""

    def read(self, frame: bytes) -> Message:
        """What a frame says. Bytes that say nothing are told as such."""
        message = self._read.get(frame)
        if message is None:
            try:
                message = self._message(frame)
            except WireError as error:
                message = Message("garbage", f"garbage: {len(frame)} bytes ({error})"[:120])
            for batch in message.batches:
                self.batches[digest(batch)] = batch
            self._read[frame] = message
        return message

    def client(self, public: bytes) -> str:
        """A client's name."""
        return self._clients.get(public, f"client {public.hex()[:6]}")

    def batch(self, name: bytes) -> str:
        """What is in the batch of this name, as far as it ever travelled."""
        raw = self.batches.get(name)
        if raw is None:
            return ""
        try:
            _, bundles = parse_batch(raw, bundle_bytes_max=len(raw))
        except WireError:
            return "no batch"
        parts = [part for bundle in bundles for part in self.bundle(bundle)]
        if len(parts) > OPERATIONS_MAX:
            parts[OPERATIONS_MAX:] = [f"and {len(parts) - OPERATIONS_MAX} more"]
        return "; ".join(parts)

    def bundle(self, bundle: Bundle) -> list[str]:
        """A bundle's operations."""
        if bundle.kind == OPEN:
            return [f"{self.client(bundle.client)} opens a session"]
        if bundle.kind == CLOCK:
            return ["a clock report"]
        if bundle.kind == COMMAND:
            return [_command(bundle)]
        if bundle.kind == COMMIT:
            return [f"a commit of command {bundle.client.hex()[:6]}"]
        if bundle.kind not in (REQUESTS, OPEN):
            return ["a report for the policy"]
        return [f"{self.client(bundle.client)}: {operation_words(payload)}" for payload in bundle.payloads()]

    def operations(self, name: bytes) -> list[tuple[bytes, bytes]]:
        """(client, operation) of all that is in the batch of this name."""
        try:
            _, bundles = parse_batch(self.batches.get(name, b""), bundle_bytes_max=1 << 30)
        except WireError:
            return []
        return [(one.client, payload) for one in bundles if one.kind == REQUESTS for payload in one.payloads()]

    # ------------------------------------------------------------------------------------------ frames

    def _message(self, frame: bytes) -> Message:
        match frame[:1]:
            case b"\x01":
                epoch, packed, carried = frames.unpack_protocol(frame)
                plugin = self._plugins(epoch) or self._plugin
                message = plugin.codec.decode(packed)
                found = self._of(message, plugin)
                if epoch:
                    found = attrs.evolve(found, text=f"(epoch {epoch}) {found.text}")
                if not carried:
                    return found
                text = f"{found.text} + {'batch' if len(carried) == 1 else f'{len(carried)} batches'}"
                return attrs.evolve(found, text=text, batches=tuple(carried))
            case b"\x02":
                bundle = parse_bundle(frame[1:], bytes_max=len(frame))
                return Message("Bundle", f"Bundle [{'; '.join(self.bundle(bundle)[:OPERATIONS_MAX])}]")
            case b"\x03":
                control = frames.CONTROL_CODEC.decode(frame[1:])
                found = self._of(control)
                batches = (control.batch,) if isinstance(control, frames.BatchBytes) else ()
                return attrs.evolve(found, text=f"(channel) {found.text}", batches=batches)
            case b"\x10":
                return self._of(frames.ASK_CODEC.decode(frame[1:]))
            case b"\x11":
                reply = frames.unpack_reply(frame)
                whole = "results" if reply.full else "digest of the results"
                text = f"Reply slot {reply.slot}: {whole} of numbers {reply.first} to {reply.first + reply.count - 1}"
                return Message("Reply", text, frozenset((reply.slot,)), reply.digest)
            case b"\x12":
                return self._of(frames.ANSWER_CODEC.decode(frame[1:]))
            case _:
                raise WireError(f"unknown kind of frame {frame[0] if frame else None}")

    def _of(self, message: object, plugin: Plugin | None = None) -> Message:
        name = type(message).__name__
        self._codecs = (plugin or self._plugin).inside
        slots: set[int] = set()
        self._slots(message, slots, 0)
        own: object = getattr(message, "digest", None)
        words = self._fields(message)
        return Message(
            name,
            f"{name} {words}".rstrip(),
            frozenset(slots),
            own if isinstance(own, bytes) and len(own) == 32 else None,
        )

    def _fields(self, message: object) -> str:
        parts: list[str] = []
        for field in _columns(message):
            value: object = getattr(message, field.name)
            told = self._value(field.name, value)
            if told:
                parts.append(told)
        return ", ".join(parts)

    def _value(self, name: str, value: object) -> str:
        match value:
            case None | b"":
                return ""
            case bool():
                return name if value else f"not {name}"
            case bytes() if name == "operation":
                return operation_words(value)
            case bytes() if name == "result":
                return f"result {_text(value)}"
            case bytes() if len(value) == _SIGNATURE:
                return ""
            case bytes() if len(value) == 32:
                return f"{name} {short(value)}"
            case bytes():
                inner = self._inner(value)
                return (
                    f"{name} {describe(value)}"
                    if inner is None
                    else f"{name} = {type(inner).__name__}({self._fields(inner)})"
                )
            case tuple():
                return self._many(name, cast("tuple[object, ...]", value))
            case _:
                return f"{name} {describe(value)}"

    def _many(self, name: str, values: tuple[object, ...]) -> str:
        if not values:
            return f"no {name}"
        more = f" and {len(values) - 4} more" if len(values) > 4 else ""
        names = [value for value in values[:4] if isinstance(value, bytes)]
        if names:
            return f"{name} {', '.join(short(one) if len(one) == 32 else describe(one) for one in names)}{more}"
        told: list[str] = []
        for value in values[:4]:
            if isinstance(value, Certificate):
                told.append(f"by {'+'.join(vote.member for vote in value.votes)} {self._named(value.body)}".rstrip())
            elif attrs.has(type(value)):
                told.append(self._fields(value))
            else:
                told.append(describe(value))
        return f"{len(values)} {name} [{' | '.join(told)}{more}]"

    def _named(self, body: bytes) -> str:
        """The batch whose name stands in a statement, if it is one that travelled."""
        return next((f"for {short(name)}" for name in self.batches if name in body), "")

    def _inner(self, data: bytes) -> Any:
        for codec in self._codecs:
            try:
                return codec.decode(data)
            except WireError:
                continue
        return None

    def _slots(self, value: object, slots: set[int], depth: int) -> None:
        if depth > 6:
            return
        for name, part in _parts(value):
            match part:
                case bool():
                    pass
                case int() if name == "slot":
                    slots.add(part)
                case bytes() if len(part) > _SIGNATURE:
                    inner = self._inner(part)
                    if inner is not None:
                        self._slots(inner, slots, depth + 1)
                case tuple():
                    for item in cast("tuple[object, ...]", part):
                        self._slots(item, slots, depth + 1)
                case _:
                    if attrs.has(type(part)):
                        self._slots(part, slots, depth + 1)
        if isinstance(value, frames.DecidedClaims):
            slots.update(range(value.first, value.first + len(value.digests)))


def _command(bundle: Bundle) -> str:
    try:
        return command_words(SignedCommand.decode(bundle.payloads()[0]))
    except WireError:
        return "a command that is none"


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if attrs.has(type(value)):
        for field in _columns(value):
            yield field.name, getattr(value, field.name)


def _columns(value: object) -> tuple[attrs.Attribute[Any], ...]:
    kind: type[Any] = type(value)
    return tuple(attrs.fields(kind))
