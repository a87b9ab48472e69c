"""Whose a ballot is, which one comes next, and how much a promise may have to say."""

from __future__ import annotations

from typing import Final

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup

from .messages import CODEC, HELD_MAX, PROMISE_BYTES_MAX, Held, Promise

WINDOWS: Final = 4
"""A member holds what it accepted for at most so many windows of slots: a follower for two above its stable checkpoint,
a leader for one above what was settled before its ballot, and an ending epoch opens a little more."""


def leader_of(setup: Setup, ballot: int) -> MemberId:
    """The only member that may lead this ballot."""
    return setup.members[ballot % len(setup.members)]


def next_ballot(setup: Setup, above: int) -> int:
    """This member's lowest ballot above another one: the pair (round, index) as one number."""
    n = len(setup.members)
    index = setup.members.index(setup.me)
    ballot = above - above % n + index
    return ballot if ballot > above else ballot + n


def window_max(setup: Setup) -> int:
    """The largest window with which every promise fits into one message."""
    top = (1 << 64) - 1
    without = len(CODEC.encode(Promise(top, top, ()))) + 8
    each = len(CODEC.encode(Promise(top, top, (Held(top, top, NO_DIGEST),)))) - without + 8
    return min((PROMISE_BYTES_MAX - without) // each, HELD_MAX) // WINDOWS
