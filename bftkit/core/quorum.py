"""How many members must speak: the one place where quorum sizes come from (SAFETY rule 1).

A group of n members is to survive f that are Byzantine (they may do anything, including staying silent) and c more
that only crash. Two demands size a quorum. It must be *reachable* without the faulty: at most n - f - c. And any two
quorums must share a correct member: f + 1 members in common. Both can be met exactly when n >= 3f + 2c + 1, and then
q = floor((n + f) / 2) + 1 is the least size that does. With f = 0 this is the crash model, n >= 2c + 1 and a majority.

(2f + c + 1 is often seen as the quorum. It is right only when n is the minimum: above that, two such sets may meet in
liars only.)

Source: Castro, PhD thesis (2001), section 2.3; the hybrid bound after Thambidurai and Park (SRDS 1988).
"""

from __future__ import annotations

import attrs


class QuorumError(ValueError):
    """The group is too small for the faults that it is to survive. The text has the numbers."""


def members_needed(f: int, c: int = 0) -> int:
    """The smallest n that survives f Byzantine and c more crashing members."""
    return 3 * f + 2 * c + 1


@attrs.frozen
class Quorum:
    """The quorum sizes of a group of `n` members, `f` of them Byzantine and `c` more only crashing."""

    n: int
    f: int
    c: int = 0

    def __attrs_post_init__(self) -> None:
        if self.f < 0 or self.c < 0:
            raise QuorumError(f"f = {self.f} and c = {self.c} must not be negative")
        needed = members_needed(self.f, self.c)
        if self.n < needed:
            raise QuorumError(f"{self.f} Byzantine and {self.c} crash faults need {needed} members; there are {self.n}")
        # The two demands of the module's text, checked where the numbers are made.
        assert 2 * self.certificate - self.n >= self.f + 1
        assert self.certificate <= self.available

    @property
    def certificate(self) -> int:
        """q: decide and certify with so many. Any two sets of this size share a correct member."""
        return (self.n + self.f) // 2 + 1

    @property
    def available(self) -> int:
        """n - f - c: never wait for more members than this; the others may all be faulty."""
        return self.n - self.f - self.c

    @property
    def weak(self) -> int:
        """f + 1: at least one of so many is not a liar."""
        return self.f + 1

    @property
    def faulty(self) -> int:
        """t = f + c: so many may be silent."""
        return self.f + self.c

    @property
    def durable(self) -> int:
        """f + c + 1: of so many that hold something, at least one is correct and stays up."""
        return self.f + self.c + 1


def largest_tolerance(n: int) -> int:
    """The largest f that n members survive with c = 0."""
    return (n - 1) // 3
