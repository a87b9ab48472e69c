"""`fork` and `fingerprint`: copies that are independent, prints that are equal exactly for equal states."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum, IntEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import pytest

from bftkit.core.machine import Machine, MemberId, Out
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.core.state import SHARED, Forkable, fingerprint, fork

T = TypeVar("T")


class Role(Enum):
    LEADER = 1
    FOLLOWER = 2


class Level(IntEnum):
    LOW = 1


@attrs.frozen
class Vote:
    view: int
    digest: bytes


@attrs.frozen
class Held:
    """Frozen, with something mutable inside."""

    votes: dict[str, Vote]
    name: str = "held"


@attrs.define(eq=False)
class Mutable:
    """Equal by identity, hence hashable."""

    value: int


class Pair(NamedTuple):
    left: Any
    right: Any


@attrs.define
class Toy(Forkable, Machine[int, Vote, str]):
    ring: object = attrs.field(metadata=SHARED)
    _view: int = 0
    log: dict[int, Vote] = attrs.field(factory=dict[int, Vote])
    voters: dict[int, set[str]] = attrs.field(factory=dict[int, set[str]])
    queue: deque[bytes] = attrs.field(factory=lambda: deque[bytes](maxlen=4))

    def on_message(self, sender: MemberId, message: Vote, out: Out[Vote, str]) -> None:
        self._view = max(self._view, message.view)
        self.log[message.view] = message
        self.voters.setdefault(message.view, set()).add(sender)
        self.queue.append(message.digest)
        out.deliver(f"{sender} {self._view}")


# ------------------------------------------------------------------------------------------------- fork


def test_a_step_of_the_copy_is_not_seen_by_the_original_nor_the_other_way() -> None:
    ring = object()
    machine = Toy(ring)
    machine.on_message("m1", Vote(1, b"a"), Out())
    before = machine.fingerprint()
    copy = machine.fork()
    assert type(copy) is Toy
    assert copy == machine
    assert copy.fingerprint() == before
    copy.on_message("m2", Vote(1, b"b"), Out())
    assert machine.fingerprint() == before
    assert machine.voters == {1: {"m1"}}
    assert list(machine.queue) == [b"a"]
    changed = copy.fingerprint()
    machine.on_message("m3", Vote(9, b"c"), Out())
    assert copy.fingerprint() == changed
    assert copy.ring is machine.ring is ring


def test_the_copy_takes_the_same_steps() -> None:
    machine = Toy(None)
    machine.on_message("m1", Vote(1, b"a"), Out())
    copy = machine.fork()
    outs = (Out[Vote, str](), Out[Vote, str]())
    for each, out in zip((machine, copy), outs, strict=True):
        for number in range(6):
            each.on_message("m2", Vote(number, b"x"), out)
    assert outs[0].effects == outs[1].effects
    assert machine.fingerprint() == copy.fingerprint()


def test_a_machine_of_attrs_has_no_place_for_hidden_attributes() -> None:
    with pytest.raises(AttributeError):
        Toy(None).surprise = 1  # type: ignore[attr-defined]


def test_frozen_values_are_shared_and_only_they() -> None:
    vote, held = Vote(1, b"a"), Held({"m0": Vote(2, b"b")})
    state: dict[str, Any] = {"vote": vote, "held": held, "tuple": (1, vote), "set": frozenset({vote}), "list": (1, [2])}
    copy = fork(state)
    assert copy == state
    assert copy["vote"] is vote
    assert copy["tuple"] is state["tuple"]
    assert copy["set"] is state["set"]
    assert copy["held"] is not held
    assert copy["held"].votes is not held.votes
    assert copy["held"].votes["m0"] is held.votes["m0"]
    assert copy["list"][1] is not state["list"][1]


CHANGES: list[tuple[Any, Callable[[Any], object]]] = [
    ([1], lambda v: v.append(2)),
    ({1: 2}, lambda v: v.update({3: 4})),
    ({1}, lambda v: v.add(2)),
    (deque([1], maxlen=3), lambda v: v.append(2)),
    (bytearray(b"a"), lambda v: v.append(2)),
    (defaultdict(list, {1: [2]}), lambda v: v[1].append(3)),
    (Counter("aab"), lambda v: v.update("b")),
    (OrderedDict({1: 2, 3: 4}), lambda v: v.move_to_end(1)),
    (Pair(1, [2]), lambda v: v.right.append(3)),
    (([1],), lambda v: v[0].append(2)),
    (Mutable(1), lambda v: setattr(v, "value", 2)),
    (Held({}), lambda v: v.votes.update({"m0": Vote(0, b"")})),
    ({Role.LEADER: [1]}, lambda v: v[Role.LEADER].append(2)),
]


@pytest.mark.parametrize(("value", "change"), CHANGES)
def test_every_container_is_copied_with_its_kind(value: Any, change: Callable[[Any], object]) -> None:
    before = fingerprint(value)
    copy = fork(value)
    assert type(copy) is type(value)
    assert fingerprint(copy) == before
    change(copy)
    assert fingerprint(value) == before
    assert fingerprint(copy) != before


def test_a_copied_defaultdict_keeps_its_default_and_a_deque_its_length() -> None:
    table = fork(defaultdict(list, {1: [2]}))
    table[5].append(6)
    assert table == {1: [2], 5: [6]}
    assert fork(deque([1, 2], maxlen=2)).maxlen == 2


def test_mutable_members_of_sets_and_keys_of_dicts_are_copied() -> None:
    member = Mutable(1)
    state = {"set": {member}, "frozen": frozenset({member}), "keys": {member: 1}}
    copy = fork(state)
    member.value = 2
    assert [each.value for each in copy["set"]] == [1]
    assert [each.value for each in copy["frozen"]] == [1]
    assert [each.value for each in copy["keys"]] == [1]


def test_one_object_in_two_places_is_one_object_in_the_copy() -> None:
    shared, pair = [1], ([2],)
    state: dict[str, Any] = {"a": shared, "b": {"c": shared}, "d": pair, "e": [pair], "f": Held({}), "g": Mutable(3)}
    state["h"] = (state["f"], state["g"])
    copy = fork(state)
    assert copy["a"] is copy["b"]["c"]
    assert copy["a"] is not shared
    assert copy["d"] is copy["e"][0]
    assert copy["h"][0] is copy["f"]
    assert copy["h"][1] is copy["g"]


@attrs.define(eq=False)
class Node:
    parent: Node | None = None
    children: list[Node] = attrs.field(factory=list["Node"])


@attrs.frozen(eq=False)
class FrozenNode:
    around: list[Any]


def test_state_that_contains_itself_is_copied() -> None:
    node = Node()
    node.children.append(Node(node))
    copy = fork(node)
    assert copy.children[0].parent is copy
    assert copy.children[0] is not node.children[0]

    frozen = FrozenNode([])
    frozen.around.append(frozen)
    again = fork(frozen)
    assert again is not frozen
    assert again.around[0] is again

    loop: list[Any] = []
    pair = (loop, 1)
    loop.append(pair)
    other = fork(pair)
    assert other is not pair
    assert other[0][0] is other
    assert other[0] is not loop

    with pytest.raises(RecursionError):
        fingerprint(node)


@attrs.frozen(cache_hash=True)
class Remembered:
    items: tuple[Any, ...]


@attrs.frozen(cache_hash=True, slots=False)
class RememberedLoosely:
    items: tuple[Any, ...]


@attrs.define
class Lazy:
    numbers: list[int]

    @cached_property
    def total(self) -> int:
        return sum(self.numbers)


@attrs.define(slots=False)
class LazyLoosely:
    numbers: list[int]

    @cached_property
    def total(self) -> int:
        return sum(self.numbers)


@pytest.mark.parametrize("cls", [Remembered, RememberedLoosely])
def test_a_remembered_hash_is_no_state(cls: Callable[..., Any]) -> None:
    holder = Mutable(1)
    value = cls((holder,))
    before = fingerprint(value)
    hash(value)
    assert fingerprint(value) == before
    copy = fork(value)
    assert copy.items[0] is not holder
    # The copy's hash is that of its own content.
    assert hash(copy) == hash(cls(copy.items))


@pytest.mark.parametrize("cls", [Lazy, LazyLoosely])
def test_a_cached_property_is_no_state_and_is_computed_anew(cls: Callable[..., Any]) -> None:
    value = cls([1, 2])
    before = fingerprint(value)
    assert value.total == 3
    assert fingerprint(value) == before
    copy = fork(value)
    copy.numbers.append(4)
    assert copy.total == 7
    assert value.total == 3


@attrs.define
class Late:
    number: int
    unset: int = attrs.field(init=False)


def test_a_field_without_a_value_stays_without() -> None:
    value = Late(1)
    copy = fork(value)
    with pytest.raises(AttributeError):
        _ = copy.unset
    before = fingerprint(value)
    assert fingerprint(copy) == before
    value.unset = 5
    assert fingerprint(value) != before


@attrs.define(slots=False)
class Box(Generic[T]):
    content: T


def test_a_generic_class_is_walked() -> None:
    box = Box[list[int]]([1])
    copy = fork(box)
    assert copy.content == [1]
    assert copy.content is not box.content
    assert fingerprint(copy) == fingerprint(box)


class WalksItself:
    """No attrs class, but it can do both by itself, as a plug-in's machine may."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fork(self) -> WalksItself:
        return WalksItself(self.number)

    def fingerprint(self) -> bytes:
        return b"%d" % self.number


def test_an_object_that_walks_itself_is_asked_to() -> None:
    inner = WalksItself(1)
    state = {"a": inner, "b": inner}
    copy = fork(state)
    assert copy["a"] is not inner
    assert copy["a"] is copy["b"]
    before = fingerprint(state)
    assert fingerprint(copy) == before
    copy["a"].number = 2
    assert fingerprint(copy) != before
    assert fingerprint(state) == before


# ------------------------------------------------------------------------------------------------- refusals


class OwnDict(dict[int, int]):
    """A dict with a life of its own."""


class Plain:
    """No attrs class."""


class Sub(Late):
    """A subclass that attrs does not know."""


NOT_WALKABLE: list[Any] = [
    object(),
    Plain(),
    OwnDict(),
    MappingProxyType({}),
    range(3),
    memoryview(b"a"),
    iter([1]),
    (number for number in [1]),
    lambda: 1,
    print,
    Toy(None).on_message,
    Toy,
    WalksItself,
    int,
    1j,
]


@pytest.mark.parametrize("value", NOT_WALKABLE)
def test_what_cannot_be_walked_is_refused_by_name(value: object) -> None:
    for state in (value, [value], {"k": value}, Held({"m0": value})):  # type: ignore[dict-item]
        with pytest.raises(TypeError, match=f"{type(value).__qualname__} is not walkable"):
            fork(state)
        with pytest.raises(TypeError, match=f"{type(value).__qualname__} is not walkable"):
            fingerprint(state)


def test_hidden_state_is_refused() -> None:
    hidden = Sub(1)
    fork(hidden)
    hidden.extra = 5  # type: ignore[attr-defined]
    for walk in (fork, fingerprint):
        with pytest.raises(TypeError, match=r"Sub\.extra is hidden state"):
            walk(hidden)


def test_the_same_in_a_shared_field_is_let_be() -> None:
    machine = Toy(lambda: 1)
    assert fork(machine).ring is machine.ring


# ------------------------------------------------------------------------------------------------- fingerprint

DIFFERENT: list[Any] = [
    None, True, False, 0, 1, -1, 2**64, -(2**64), 10, 0x10, 0.0, -0.0, 1.0, float("inf"), "", "1", "a", b"", b"1", b"a",
    bytearray(b"a"), (), (1,), [], [1], [[1]], [1, 1], ["a", "b"], ["ab"], ["a", ["b"]], deque([1]), deque([1], 3),
    set(), {1}, {1, 2}, {}, {1: 2}, {2: 1}, {1: {2: 3}}, OrderedDict({1: 2, 3: 4}), OrderedDict({3: 4, 1: 2}),
    Role.LEADER, Role.FOLLOWER, Level.LOW, Vote(1, b"a"), Vote(2, b"a"), Vote(1, b"b"), Held({}), Mutable(1),
    (1, (2, 3)), ((1, 2), 3), ("asb", "c"), ("a", "bsc"), (b"abb", b"c"), (b"a", b"bbc"), "\ud800",
]  # fmt: skip


def test_different_states_have_different_fingerprints() -> None:
    prints = [fingerprint(value) for value in DIFFERENT]
    assert all(len(print_) == 32 for print_ in prints)
    for index, print_ in enumerate(prints):
        assert prints.index(print_) == index, (DIFFERENT[prints.index(print_)], DIFFERENT[index])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({1: "a", 2: "b"}, {2: "b", 1: "a"}),
        ({"m2", "m0", "m1"}, {"m1", "m2", "m0"}),
        (frozenset({1, 2}), {2, 1}),
        ({1: {3: [1], 2: {5, 4}}}, {1: {2: {4, 5}, 3: [1]}}),
        (Counter("abb"), Counter("bab")),
        (Toy(object()), Toy(object())),
    ],
)
def test_equal_states_have_equal_fingerprints(one: object, two: object) -> None:
    assert fingerprint(one) == fingerprint(two)


def test_a_very_large_number_has_a_fingerprint() -> None:
    """A session's bitmap is one; Python refuses to write it in base 10."""
    large = 1 << 200_000
    assert fingerprint(large) != fingerprint(large + 1)


def test_the_fingerprint_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from bftkit.core.state import fingerprint;"
        "print(fingerprint({'set': {'a', 'b', 'c', b'd', 5}, 'map': {'x': {1}, 'y': frozenset({'z', 'w'})}}).hex())"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(prints) == 1


# ------------------------------------------------------------------------------------------------- set-ups


class Ring:
    def sign(self, purpose: str, statement: bytes) -> bytes:
        return bytes(64)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        return True


def test_a_machine_may_hold_its_set_up() -> None:
    setup = Setup("m0", ("m0", "m1", "m2", "m3"), Quorum(4, 1), Ring())
    copy = fork([setup])[0]
    assert copy is setup
    assert fingerprint(setup) != fingerprint(attrs.evolve(setup, start=5))
    assert fingerprint(setup) == fingerprint(attrs.evolve(setup, keyring=Ring()))


def test_a_set_up_that_counts_other_members_is_refused() -> None:
    with pytest.raises(ValueError, match="the quorum counts 4 different members"):
        Setup("m0", ("m0", "m1", "m2"), Quorum(4, 1), Ring())
    with pytest.raises(ValueError, match="the quorum counts 4 different members"):
        Setup("m0", ("m0", "m1", "m2", "m2"), Quorum(4, 1), Ring())
    with pytest.raises(ValueError, match="m9 is none of the members"):
        Setup("m9", ("m0", "m1", "m2", "m3"), Quorum(4, 1), Ring())
