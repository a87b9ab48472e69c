"""Frames: what is packed comes back, and anything malformed raises `WireError` and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from bftkit.channel.frames import (
    ANSWER_CODEC,
    ASK_CODEC,
    CONTROL_CODEC,
    Answer,
    AskStatus,
    BatchBytes,
    BatchRequest,
    CheckpointProof,
    CheckpointVote,
    Chunk,
    ChunkRequest,
    Control,
    DecidedClaims,
    LinkProof,
    Manifest,
    ManifestRequest,
    NotHere,
    Read,
    ReadAnswer,
    ReadRefusal,
    Refusal,
    Status,
    StatusAnswer,
    checkpoint_body,
    pack_answer,
    pack_ask,
    pack_control,
    pack_protocol,
    pack_reply,
    parse_checkpoint_body,
    unpack_protocol,
    unpack_reply,
)
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate

NAME = b"d" * 32
SIGNATURE = b"s" * 64
CERTIFICATE = Certificate.of(checkpoint_body(8, NAME), {"m0": SIGNATURE, "m2": SIGNATURE})

CONTROLS: list[Control] = [
    Status(0, 5, 4, 1),
    CheckpointVote(0, 8, NAME, SIGNATURE),
    CheckpointProof(0, CERTIFICATE),
    DecidedClaims(0, 3, (NAME, bytes(32))),
    BatchRequest((NAME,)),
    BatchBytes(b"batch"),
    ManifestRequest(8),
    Manifest(CERTIFICATE, (NAME, NAME)),
    ChunkRequest(8, 3),
    Chunk(8, 3, b"data"),
    NotHere(8),
]
ANSWERS: list[Answer] = [
    ReadAnswer(1, 0, 5, 0, NAME, b"result"),
    StatusAnswer(1, "{}"),
    Refusal(1, 2, 3, "why"),
    ReadRefusal(1, "why"),
    LinkProof(0, SIGNATURE),
]


@pytest.mark.parametrize("message", CONTROLS, ids=lambda message: type(message).__name__)
def test_control_messages_come_back(message: Control) -> None:
    frame = pack_control(message)
    assert frame[0] == 3
    assert CONTROL_CODEC.decode(frame[1:]) == message


def test_asks_and_answers_come_back() -> None:
    for ask in (Read(7, b"question"), AskStatus(9)):
        assert ASK_CODEC.decode(pack_ask(ask)[1:]) == ask
    for answer in ANSWERS:
        assert ANSWER_CODEC.decode(pack_answer(answer)[1:]) == answer


@pytest.mark.parametrize("carried", [[], [b"one"], [b"one", b"", b"three" * 100]])
def test_protocol_frames_come_back(carried: list[bytes]) -> None:
    frame = pack_protocol(3, b"message", carried)
    assert unpack_protocol(frame) == (3, b"message", carried)


def test_replies_come_back() -> None:
    full = unpack_reply(pack_reply(1, 2, 3, 4, 5, NAME, 6, b"results"))
    assert (full.epoch, full.slot, full.session, full.first, full.count) == (1, 2, 3, 4, 5)
    assert (full.digest, full.leader, full.full, full.results) == (NAME, 6, True, b"results")
    short = unpack_reply(pack_reply(1, 2, 3, 4, 5, NAME, 65535, None))
    assert (short.full, short.results) == (False, b"")
    empty = unpack_reply(pack_reply(1, 2, 3, 4, 5, NAME, 6, b""))
    assert (empty.full, empty.results) == (True, b"")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x01",
        pack_protocol(0, b"", [])[:-1],
        pack_protocol(0, b"", [b"batch"])[:12],
        pack_protocol(0, b"", [b"batch"])[:-1],
        b"\x01" + bytes(8) + b"\xff",
    ],
)
def test_malformed_protocol_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        unpack_protocol(frame)


def test_malformed_replies_are_refused() -> None:
    digest_only = pack_reply(1, 2, 3, 4, 5, NAME, 6, None)
    for frame in (b"", digest_only[:-1], digest_only + b"results", digest_only[:-1] + b"\x02"):
        with pytest.raises(WireError):
            unpack_reply(frame)


def test_a_checkpoint_statement_has_one_form() -> None:
    assert parse_checkpoint_body(checkpoint_body(8, NAME)) == (8, NAME)
    for body in (b"", checkpoint_body(8, NAME) + b"!", checkpoint_body(8, NAME)[:-1]):
        with pytest.raises(WireError):
            parse_checkpoint_body(body)


def test_mutated_frames_raise_nothing_but_wire_errors() -> None:
    random = Random(3)
    frames = [pack_control(message) for message in CONTROLS]
    frames += [pack_answer(answer) for answer in ANSWERS]
    frames += [
        pack_ask(Read(7, b"question")),
        pack_protocol(0, b"m", [b"a", b"b"]),
        pack_reply(1, 2, 3, 4, 5, NAME, 6, b"r"),
    ]
    readers: dict[int, Callable[[bytes], object]] = {
        1: unpack_protocol,
        3: lambda frame: CONTROL_CODEC.decode(frame[1:]),
        16: lambda frame: ASK_CODEC.decode(frame[1:]),
        17: unpack_reply,
        18: lambda frame: ANSWER_CODEC.decode(frame[1:]),
    }
    refused = 0
    for _ in range(8000):
        frame = random.choice(frames)
        kind, raw = frame[0], bytearray(frame)
        for _ in range(random.randint(1, 3)):
            position = random.randrange(1, len(raw) + 1)
            choice = random.randrange(3)
            if choice == 0 and position < len(raw):
                raw[position] = random.randrange(256)
            elif choice == 1:
                del raw[position : position + random.randint(1, 5)]
            else:
                raw[position:position] = random.randbytes(random.randint(1, 5))
        try:
            readers[kind](bytes(raw))
        except WireError:
            refused += 1
    assert refused > 2000
