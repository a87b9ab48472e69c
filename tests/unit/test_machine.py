"""`Out`: effects keep their order, and a parent takes a child's effects as its own."""

from __future__ import annotations

import attrs
import pytest

from bftkit.core.machine import (
    STANDING,
    Blame,
    Broadcast,
    CancelTimer,
    Deliver,
    Draw,
    DrawSecret,
    Effect,
    Machine,
    MemberId,
    Out,
    Persist,
    Send,
    SetTimer,
)


@attrs.frozen
class Ping:
    number: int


@attrs.frozen
class Wrapped:
    inner: Ping


@attrs.frozen
class Twice:
    inner: Wrapped


def every_effect(out: Out[Ping, str]) -> None:
    out.persist(b"vote", 7)
    out.send("m1", Ping(1), carry=(b"batch",))
    out.set_timer(("progress",), 50)
    out.broadcast(Ping(2), carry=(b"other",))
    out.deliver("first")
    out.draw(("order", 3), 10)
    out.blame("m2", "equivocation", b"proof")
    out.cancel_timer(("progress",))
    out.draw_secret(("share",))
    out.deliver("second")
    out.persist(b"view")


def test_effects_keep_the_order_in_which_they_were_asked_for() -> None:
    """SAFETY rule 5 rests on this: a persist stands before the sends that it protects."""
    out = Out[Ping, str]()
    every_effect(out)
    expected: list[Effect[Ping, str]] = [
        Persist(b"vote", 7),
        Send(("m1",), Ping(1), (b"batch",)),
        SetTimer(("progress",), 50),
        Broadcast(Ping(2), (b"other",)),
        Deliver("first"),
        Draw(("order", 3), 10),
        Blame("m2", "equivocation", b"proof"),
        CancelTimer(("progress",)),
        DrawSecret(("share",)),
        Deliver("second"),
        Persist(b"view", STANDING),
    ]
    assert out.effects == expected


def test_a_send_takes_one_member_or_several_and_nobody_is_no_effect() -> None:
    out = Out[Ping, str]()
    out.send("m10", Ping(1))
    out.send(["m1", "m2"], Ping(2))
    out.send((), Ping(3))
    assert out.effects == [Send(("m10",), Ping(1)), Send(("m1", "m2"), Ping(2))]


def test_the_receivers_are_those_of_the_moment() -> None:
    out = Out[Ping, str]()
    receivers = ["m1"]
    out.send(receivers, Ping(1))
    receivers.append("m2")
    assert out.effects == [Send(("m1",), Ping(1))]


@pytest.mark.parametrize("ticks", [0, -1])
def test_a_timer_that_is_due_already_is_our_bug(ticks: int) -> None:
    with pytest.raises(AssertionError):
        Out[Ping, str]().set_timer(("k",), ticks)


def test_a_draw_from_nothing_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        Out[Ping, str]().draw(("k",), 0)


def test_a_parent_adopts_every_effect_in_order_and_gets_the_outputs() -> None:
    child = Out[Ping, str]()
    every_effect(child)
    parent = Out[Wrapped, bytes]()
    parent.deliver(b"before")
    outputs = parent.adopt("child", child, Wrapped, lambda record: b"c:" + record)
    parent.deliver(b"after")
    assert outputs == ["first", "second"]
    expected: list[Effect[Wrapped, bytes]] = [
        Deliver(b"before"),
        Persist(b"c:vote", 7),
        Send(("m1",), Wrapped(Ping(1)), (b"batch",)),
        SetTimer(("child", "progress"), 50),
        Broadcast(Wrapped(Ping(2)), (b"other",)),
        Draw(("child", "order", 3), 10),
        Blame("m2", "equivocation", b"proof"),
        CancelTimer(("child", "progress")),
        DrawSecret(("child", "share")),
        Persist(b"c:view", STANDING),
        Deliver(b"after"),
    ]
    assert parent.effects == expected


def test_tags_nest_from_the_outside_in_and_strip_the_same_way() -> None:
    child = Out[Ping, str]()
    child.set_timer(("k", 1), 5)
    child.cancel_timer(("k", 1))
    child.draw(("d",), 2)
    child.draw_secret(("s",))
    child.broadcast(Ping(1))
    child.persist(b"r", 3)
    middle = Out[Wrapped, str]()
    middle.adopt(b"m", child, Wrapped, lambda record: b"m" + record)
    top = Out[Twice, str]()
    top.adopt(9, middle, Twice, lambda record: b"t" + record)
    assert top.effects == [
        SetTimer((9, b"m", "k", 1), 5),
        CancelTimer((9, b"m", "k", 1)),
        Draw((9, b"m", "d"), 2),
        DrawSecret((9, b"m", "s")),
        Broadcast(Twice(Wrapped(Ping(1)))),
        Persist(b"tmr", 3),
    ]


def test_without_a_wrapper_records_pass_as_they_are() -> None:
    child = Out[Ping, str]()
    child.persist(b"r", 3)
    parent = Out[Wrapped, str]()
    assert parent.adopt("c", child, Wrapped) == []
    assert parent.effects == [Persist(b"r", 3)]


def test_adopting_leaves_the_child_as_it_was() -> None:
    child = Out[Ping, str]()
    every_effect(child)
    before = list(child.effects)
    Out[Wrapped, str]().adopt("c", child, Wrapped)
    assert child.effects == before


class Silent(Machine[None, Ping, str]):
    """A machine that overrides nothing."""


def test_a_machine_need_only_say_what_it_does() -> None:
    out = Out[Ping, str]()
    machine = Silent()
    machine.on_restore([b"r"], out)
    machine.on_start(out)
    machine.on_input(None, out)
    machine.on_message("m1", Ping(1), out)
    machine.on_timer(("k",), out)
    machine.on_draw(("d",), 0, out)
    machine.on_stable(5, bytes(32), out)
    machine.on_stop(9, out)
    assert out.effects == []


class Parent(Machine[None, Wrapped, str]):
    """Runs an echoing child: what the child delivers, the parent delivers in its own words."""

    def on_message(self, sender: MemberId, message: Wrapped, out: Out[Wrapped, str]) -> None:
        child = Out[Ping, int]()
        child.send(sender, Ping(message.inner.number + 1))
        child.deliver(message.inner.number)
        for output in out.adopt("echo", child, Wrapped):
            out.deliver(f"{sender} said {output}")


def test_a_parent_acts_on_its_childs_outputs() -> None:
    out = Out[Wrapped, str]()
    Parent().on_message("m3", Wrapped(Ping(4)), out)
    assert out.effects == [Send(("m3",), Wrapped(Ping(5))), Deliver("m3 said 4")]
