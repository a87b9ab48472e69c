"""Traces: one line a step, the same in every run, with no secret in it."""

from __future__ import annotations

from collections import deque
from enum import Enum

import attrs
import pytest

from bftkit.core.machine import Out
from bftkit.core.state import SHARED
from bftkit.core.trace import Trace, describe


class Phase(Enum):
    IDLE = 1


@attrs.frozen
class Prepare:
    view: int
    slot: int
    digest: bytes


@attrs.frozen
class Holder:
    name: str
    key: bytes = attrs.field(repr=False)
    ring: object = attrs.field(metadata=SHARED)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", ""),
        (b"\x00\x01\x02\x03", "00010203"),
        (bytes(range(32)), "00010203…32"),
        (bytearray(b"\xff" * 5), "ffffffff…5"),
        ("m0", "m0"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 64 + "…65"),
        ("ä line\nforged", "\\xe4 line\\nforged"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (7, "7"),
        (True, "True"),
        (None, "None"),
        (Phase.IDLE, "IDLE"),
        (("progress", 3, b"\x01"), "(progress, 3, 01)"),
        ([1, [2]], "(1, (2))"),
        (deque([1, 2]), "(1, 2)"),
        ({3: "c", 1: "a"}, "{3: c, 1: a}"),
        ({"m2", "m0", "m1"}, "{m0, m1, m2}"),
        (frozenset({b"\x02", b"\x01"}), "{01, 02}"),
        (Prepare(1, 2, bytes(32)), "Prepare(view=1, slot=2, digest=00000000…32)"),
        (object(), "<object>"),
        (print, "<builtin_function_or_method>"),
    ],
)
def test_a_value_in_one_line(value: object, text: str) -> None:
    assert describe(value) == text


def test_a_long_trace_line_by_line() -> None:
    trace = Trace()
    trace.input(0, "m0", "start")
    out = Out[Prepare, str]()
    out.persist(b"\x01\x02\x03\x04\x05", 7)
    out.send(("m1", "m2"), Prepare(0, 7, b"\xaa" * 32), carry=(b"\xaa" * 32, b"\xbb" * 32))
    out.broadcast(Prepare(0, 7, b"\xaa" * 32))
    out.deliver("decided")
    out.blame("m3", "equivocation", b"\x09" * 100)
    out.blame("m3", "silence")
    out.set_timer(("progress", 7), 40)
    out.cancel_timer(("progress", 6))
    out.draw(("order",), 5)
    out.draw_secret(("share", 2))
    trace.effects(out)
    trace.input(12345678, "m12", "message", "m1", Prepare(0, 7, b"\xaa" * 32))
    assert (
        trace.text()
        == """\
       0 m0   start
                → persist slot=7 01020304…5
                → send m1,m2 Prepare(view=0, slot=7, digest=aaaaaaaa…32) carrying aaaaaaaa, bbbbbbbb
                → broadcast Prepare(view=0, slot=7, digest=aaaaaaaa…32)
                → deliver decided
                → blame m3 equivocation proof=09090909…100
                → blame m3 silence proof=
                → timer (progress, 7) in 40
                → cancel (progress, 6)
                → draw (order) of 5
                → draw secret (share, 2)
12345678 m12  message m1 Prepare(view=0, slot=7, digest=aaaaaaaa…32)
"""
    )


def test_a_field_that_holds_a_secret_is_not_shown() -> None:
    """SAFETY rule 20: not even four bytes of it, nor through a holder inside something else."""
    secret = b"\xde\xad\xbe\xef" * 8
    holder = Holder("m0", secret, secret)
    assert describe(holder) == "Holder(name=m0)"
    trace = Trace()
    trace.input(1, "m0", "input", (holder, {"k": [holder]}))
    assert "deadbeef" not in trace.text()


def test_one_value_stays_one_line() -> None:
    """A peer's text cannot pretend to be the next line of the trace (FAULTS 42)."""
    trace = Trace()
    trace.input(1, "m0", "message", "m1", "x\n       2 m0   decided", "\u2028", "\x85")
    assert len(trace.text().splitlines()) == 1
