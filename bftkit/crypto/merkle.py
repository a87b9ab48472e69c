"""Binary Merkle trees: one digest that commits to a sequence of digests, with short proofs for single ones.

The tree has the shape of RFC 6962 (section 2.1): leaves are paired from the left, and a node without a partner
moves up unchanged. Three things keep two different sequences from having the same root:

* leaves, inner nodes and the root are hashed with different first bytes, so that an inner node cannot be shown as
  a leaf (a second preimage that needs no collision);
* the odd node is moved up, never paired with itself: in Bitcoin's trees, which pair it with itself, a sequence and
  the same sequence with its end repeated had one root (CVE-2012-2459);
* the number of leaves is hashed into the root, so that every proof has exactly one right length.

It names the state of a checkpoint by its chunks, and a member's future epoch keys (SAFETY rule 28).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from bftkit.core.digest import DIGEST_SIZE, NO_DIGEST, digest

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_ROOT: Final = b"\x02"

COUNT_MAX: Final = (1 << 64) - 1
"""A tree has at most so many leaves."""


class Tree:
    """A tree that is kept, to answer for many paths without hashing anything again.

    Raises ValueError if a leaf is not a digest of 32 bytes. No leaves at all are allowed, and have a root too.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        for index, leaf in enumerate(leaves):
            if len(leaf) != DIGEST_SIZE:
                raise ValueError(f"leaf {index} has {len(leaf)} bytes; a digest has {DIGEST_SIZE}")
        self.count: Final = len(leaves)
        level = [blake2b(_LEAF + leaf, digest_size=DIGEST_SIZE).digest() for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            above = [
                blake2b(_NODE + left + right, digest_size=DIGEST_SIZE).digest()
                for left, right in zip(level[::2], level[1::2], strict=False)
            ]
            if len(level) % 2:
                above.append(level[-1])
            level = above
            self._levels.append(level)
        self.root: Final = _seal(self.count, level[0] if level else NO_DIGEST)

    def path(self, index: int) -> tuple[bytes, ...]:
        """The proof for one leaf: its sibling on every level where it has one, lowest first.

        Raises ValueError if there is no such leaf.
        """
        if not 0 <= index < self.count:
            raise ValueError(f"no leaf {index} among {self.count}")
        found: list[bytes] = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                found.append(level[index ^ 1])
            index >>= 1
        return tuple(found)


def root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte root over these 32-byte digests. Raises ValueError if one has another length."""
    return Tree(leaves).root


def path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The proof that `leaves[index]` lies under the root. Raises ValueError if there is no such leaf."""
    return Tree(leaves).path(index)


def verify(root: bytes, count: int, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path proves that the leaf is number `index` of the `count` leaves under the root.

    False, never an exception, for anything a peer may make up: wrong lengths, impossible numbers.
    """
    if not 0 <= index < count <= COUNT_MAX or len(leaf) != DIGEST_SIZE:
        return False
    node = digest(_LEAF, leaf)
    width = count
    used = 0
    while width > 1:
        if index ^ 1 < width:
            if used == len(path) or len(path[used]) != DIGEST_SIZE:
                return False
            sibling = path[used]
            used += 1
            node = digest(_NODE, sibling, node) if index & 1 else digest(_NODE, node, sibling)
        index >>= 1
        width = (width + 1) >> 1
    return used == len(path) and _seal(count, node) == root


def _seal(count: int, top: bytes) -> bytes:
    return digest(_ROOT, count.to_bytes(8, "big"), top)
