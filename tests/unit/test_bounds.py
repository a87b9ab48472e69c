"""Bounds that one client or one liar must not get past; each was once missing and found by review."""

from __future__ import annotations

from bftkit.channel.agreed_time import AgreedClock
from bftkit.channel.application import Context
from bftkit.channel.bundles import FAILED, OK, SKIPPED
from bftkit.channel.checkpoints import VOTES_PER_MEMBER, Checkpoints
from bftkit.channel.sessions import Session, SessionTable
from bftkit.channel.state import RESULT_BYTES_MAX, ReplicatedState, error_text
from bftkit.core.quorum import Quorum
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.keyring import fast_keyrings


class Large(KeyValueStore):
    """Answers everything with three MiB."""

    def apply(self, operation: bytes, context: Context) -> bytes:
        return bytes(3 << 20)


def state_of(application: KeyValueStore) -> ReplicatedState:
    return ReplicatedState(bytes(32), application, SessionTable(4, 8, 1 << 20), AgreedClock(3), {})


def test_the_results_of_a_bundle_fit_into_a_frame() -> None:
    """Or one small bundle of reads would make a reply that no link carries (FAULTS 46)."""
    state = state_of(Large())
    statuses, results = state._apply_all([b"x"] * 4, Context(bytes(32)))  # pyright: ignore[reportPrivateUsage]
    assert list(statuses) == [OK, OK, FAILED, FAILED]
    assert sum(map(len, results[:2])) <= RESULT_BYTES_MAX


def test_an_overlapping_bundle_has_the_same_bound() -> None:
    state = state_of(Large())
    session = Session(b"c" * 32, 1, bytes(16))
    session.execute(2, 1)
    operations = [b"x"] * 5
    statuses, _ = state._apply_some(session, 1, operations, Context(bytes(32)))  # pyright: ignore[reportPrivateUsage]
    assert list(statuses) == [OK, SKIPPED, OK, FAILED, FAILED]


def test_votes_for_ever_higher_checkpoints_are_forgotten() -> None:
    """FAULTS 29."""
    members = ("m0", "m1", "m2", "m3")
    keyring = fast_keyrings(b"seed", bytes(32), 0, bytes(32), members)["m0"]
    checkpoints = Checkpoints(Quorum(4, 1), keyring)
    for slot in range(1, 500):
        checkpoints.add_vote("m3", slot, bytes(32), bytes(64))
    assert len(checkpoints.votes) == VOTES_PER_MEMBER


def test_error_texts_hold_nothing_of_this_process() -> None:
    """They are replicated state (SAFETY rule 10)."""
    one, other = object(), object()
    assert repr(one) != repr(other)
    assert error_text(ValueError(f"bad {one}")) == error_text(ValueError(f"bad {other}"))
    assert error_text(RecursionError("at depth 991")) == error_text(RecursionError("at depth 993"))


class Speechless(Exception):
    """Fails again when it is asked for its text."""

    def __str__(self) -> str:
        raise KeyError("no text")


class Raising(KeyValueStore):
    """Raises what cannot be told."""

    def apply(self, operation: bytes, context: Context) -> bytes:
        raise Speechless


def test_an_exception_without_a_text_is_a_failure_like_any_other() -> None:
    """Or one operation would end every member, and again after each restart (SAFETY rule 10)."""
    statuses, results = state_of(Raising())._apply_all(  # pyright: ignore[reportPrivateUsage]
        [b"x"], Context(bytes(32))
    )
    assert (list(statuses), results) == ([FAILED], [b"Speechless: it cannot say what it is"])
