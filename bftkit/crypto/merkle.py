"""Binary Merkle trees over a sequence of leaf digests.

Leaves and inner nodes are hashed in different domains, and the number of leaves is bound into the root, so that no
inner node can pass for a leaf and no list can be lengthened by repeating its end (as in CVE-2012-2459). A level with
an odd number of nodes carries its last node up unchanged.

Two things are rooted here: the chunks of a checkpoint, and the keys that a member will use in the epochs to come
(SAFETY rule 28).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bftkit.core.digest import DIGEST_SIZE, digest

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_ROOT: Final = b"\x02"


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    levels = [[digest(_LEAF, leaf) for leaf in leaves]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        level = [digest(_NODE, below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            level.append(below[-1])
        levels.append(level)
    return levels


def _seal(count: int, top: bytes) -> bytes:
    return digest(_ROOT, count.to_bytes(8, "big"), top)


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over these leaves, each 32 bytes. No leaves have a root too."""
    if not leaves:
        return _seal(0, b"")
    return _seal(len(leaves), _levels(leaves)[-1][0])


def path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings from the leaf at `index` up to the root. Raises `IndexError`."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} among {len(leaves)}")
    siblings: list[bytes] = []
    for level in _levels(leaves)[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            siblings.append(level[sibling])
        index //= 2
    return tuple(siblings)


def verify(root: bytes, count: int, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
    """Whether `leaf` stands at `index` of the `count` leaves under `root`. Any input is answered, none raises."""
    if not 0 <= index < count or len(leaf) != DIGEST_SIZE:
        return False
    node = digest(_LEAF, leaf)
    width, position, used = count, index, 0
    while width > 1:
        if position ^ 1 < width:
            if used == len(path) or len(path[used]) != DIGEST_SIZE:
                return False
            sibling = path[used]
            used += 1
            node = digest(_NODE, sibling, node) if position % 2 else digest(_NODE, node, sibling)
        position //= 2
        width = (width + 1) // 2
    return used == len(path) and _seal(count, node) == root
