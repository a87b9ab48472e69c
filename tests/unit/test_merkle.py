"""Merkle trees: what a root commits to."""

from __future__ import annotations

import pytest

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.crypto import merkle


def leaves(count: int) -> list[bytes]:
    return [digest(number.to_bytes(4, "big")) for number in range(count)]


def test_the_root_of_five_leaves_by_hand() -> None:
    a, b, c, d, e = (digest(b"\x00", leaf) for leaf in leaves(5))
    top = digest(b"\x01", digest(b"\x01", digest(b"\x01", a, b), digest(b"\x01", c, d)), e)
    assert merkle.root(leaves(5)) == digest(b"\x02", (5).to_bytes(8, "big"), top)
    assert merkle.path(leaves(5), 4) == (digest(b"\x01", digest(b"\x01", a, b), digest(b"\x01", c, d)),)
    assert merkle.path(leaves(5), 2) == (d, digest(b"\x01", a, b), e)


def test_no_leaves_and_one_leaf() -> None:
    assert merkle.root([]) == digest(b"\x02", bytes(8), NO_DIGEST)
    (only,) = leaves(1)
    assert merkle.path([only], 0) == ()
    assert merkle.verify(merkle.root([only]), 1, 0, only, ())
    assert not merkle.verify(merkle.root([]), 0, 0, only, ())


def test_repeating_the_end_changes_the_root() -> None:
    # CVE-2012-2459: with the odd node paired with itself these have one root.
    assert merkle.root(leaves(3)) != merkle.root([*leaves(3), leaves(3)[-1]])
    assert merkle.root(leaves(6)) != merkle.root([*leaves(6), *leaves(6)[-2:]])


def test_an_inner_node_is_no_leaf() -> None:
    a, b, c, d = (digest(b"\x00", leaf) for leaf in leaves(4))
    left, right = digest(b"\x01", a, b), digest(b"\x01", c, d)
    root = merkle.root(leaves(4))
    assert merkle.root([left, right]) != root
    for count in (2, 4):
        assert not merkle.verify(root, count, 0, left, (right,))


def test_the_count_is_part_of_the_root() -> None:
    # With 5 and 6 leaves, the path of leaf 0 has the same length.
    root, path = merkle.root(leaves(5)), merkle.path(leaves(5), 0)
    assert merkle.verify(root, 5, 0, leaves(5)[0], path)
    for count in (4, 6, 7, 8):
        assert not merkle.verify(root, count, 0, leaves(5)[0], path)


@pytest.mark.parametrize(
    ("count", "index"), [(0, 0), (-1, 0), (5, 5), (5, -1), (1 << 64, 0), (1 << 200, 1 << 199), (5, 1 << 70)]
)
def test_impossible_numbers_of_a_peer(count: int, index: int) -> None:
    assert not merkle.verify(merkle.root(leaves(5)), count, index, leaves(5)[0], merkle.path(leaves(5), 0))


def test_wrong_lengths_of_a_peer() -> None:
    root, path, leaf = merkle.root(leaves(5)), merkle.path(leaves(5), 0), leaves(5)[0]
    assert not merkle.verify(root, 5, 0, leaf[:-1], path)
    assert not merkle.verify(root, 5, 0, b"", path)
    assert not merkle.verify(root[:-1], 5, 0, leaf, path)
    assert not merkle.verify(root, 5, 0, leaf, (path[0] + b"\0", *path[1:]))
    # The border between two siblings moved: the same bytes in sum.
    assert not merkle.verify(root, 5, 0, leaf, (path[0] + path[1][:1], path[1][1:], *path[2:]))


def test_a_root_made_up_over_other_than_digests_proves_nothing() -> None:
    # Whoever makes the root chooses what is hashed into it; leaves and siblings are digests all the same.
    def seal(count: int, top: bytes) -> bytes:
        return digest(b"\x02", count.to_bytes(8, "big"), top)

    for leaf in (b"", b"short", bytes(33)):
        assert not merkle.verify(seal(1, digest(b"\x00", leaf)), 1, 0, leaf, ())
    (leaf,) = leaves(1)
    for sibling in (b"", b"short", bytes(33)):
        top = digest(b"\x01", digest(b"\x00", leaf), sibling)
        assert not merkle.verify(seal(2, top), 2, 0, leaf, (sibling,))


def test_a_count_that_has_no_place_in_the_root() -> None:
    assert not merkle.verify(bytes(32), 1 << 64, 0, leaves(1)[0], leaves(64))


def test_a_callers_mistakes() -> None:
    with pytest.raises(ValueError, match="leaf 1 has 3 bytes"):
        merkle.root([leaves(1)[0], b"abc"])
    for index in (-1, 3):
        with pytest.raises(ValueError, match=f"no leaf {index} among 3"):
            merkle.path(leaves(3), index)
