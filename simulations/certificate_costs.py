"""What a quorum certificate costs, in bytes and microseconds, for groups of several sizes.

    python simulations/certificate_costs.py [--members 4 7 10 31] [--times 9] [--json]

Certificates of n - t votes (c = 0) under a statement of a consistent broadcast, with real Ed25519 keys. *new*: nothing
of it was seen before. *votes known*: it is new, its votes came one by one before. *again*: it was checked before, and
these are other bytes objects with the same content. The columns *final* are of the message that carries it with a
value of 32 bytes. Times are the best of so many.
"""

from __future__ import annotations

import argparse
import json
import timeit
from collections.abc import Callable
from functools import partial

import attrs

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks.certificates import SignatureLists
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum, largest_tolerance
from bftkit.crypto.keys import Ed25519Keyring, SigningKey

GROUP = digest(b"certificate costs")
ID, VALUE = b"round 12", digest(b"a batch")
CALLS = 200
"""How often a cheap step is repeated for one measurement."""


def setups(n: int) -> dict[MemberId, Setup]:
    """A group with real keys."""
    members = tuple(f"m{index}" for index in range(n))
    keys = {member: SigningKey(digest(member.encode())) for member in members}
    publics = {member: key.public for member, key in keys.items()}
    quorum = Quorum(n, largest_tolerance(n))
    return {
        member: Setup(member, members, quorum, Ed25519Keyring(GROUP, 0, GROUP, member, keys[member], publics))
        for member in members
    }


def measure(n: int, times: int) -> dict[str, float]:
    """One row of the table."""
    group = setups(n)
    statement = cb.statement(ID, "m0", VALUE)
    size = group["m0"].quorum.available
    votes = {member: SignatureLists.of(setup, cb.PURPOSE, size).sign(statement) for member, setup in group.items()}
    certificate = SignatureLists.of(group["m0"], cb.PURPOSE, size).combine(statement, votes)
    final = cb.Final(VALUE, certificate)
    data = cb.CODEC.encode(final)

    def cheap(step: Callable[[], object]) -> float:
        return min(timeit.repeat(step, number=CALLS, repeat=times)) / CALLS * 1e6

    def fresh(know_votes: bool) -> float:
        """Each measurement has a member of its own, that has seen nothing or only the votes."""
        best = float("inf")
        for _ in range(10 * times):
            # A changed copy of a set-up remembers nothing.
            judge = SignatureLists.of(attrs.evolve(group["m0"]), cb.PURPOSE, size)
            for member, vote in votes.items() if know_votes else ():
                assert judge.verify_vote(member, statement, vote)
            best = min(best, timeit.timeit(partial(judge.verify, statement, certificate), number=1))
        return best * 1e6

    known = SignatureLists.of(group["m0"], cb.PURPOSE, size)
    assert known.verify(statement, certificate)
    return {
        "members": n,
        "votes": size,
        "bytes": len(certificate),
        "final bytes": len(data),
        "sign": cheap(lambda: known.sign(statement)),
        "combine": cheap(lambda: known.combine(statement, votes)),
        "new": fresh(know_votes=False),
        "votes known": fresh(know_votes=True),
        "again": cheap(lambda: known.verify(bytes(bytearray(statement)), bytes(bytearray(certificate)))),
        "final encode": cheap(lambda: cb.CODEC.encode(final)),
        "final decode": cheap(lambda: cb.CODEC.decode(data)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="what a quorum certificate costs")
    parser.add_argument("--members", type=int, nargs="+", default=[4, 7, 10, 31])
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for index, n in enumerate(arguments.members):
        row = measure(n, arguments.times)
        if arguments.json:
            print(json.dumps(row))
            continue
        if index == 0:
            print("".join(f"{name:>14}" for name in row))
        print("".join(f"{value:>14.1f}" if isinstance(value, float) else f"{value:>14}" for value in row.values()))


if __name__ == "__main__":
    main()
