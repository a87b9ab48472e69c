"""Merkle trees over arbitrary sequences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bftkit.crypto import merkle

digests = st.binary(min_size=32, max_size=32)
# Few different leaves, so that repetitions are frequent.
sequences = st.lists(st.sampled_from([bytes([byte]) * 32 for byte in range(4)]) | digests, max_size=20)


@given(sequences)
def test_every_leaf_has_a_path(leaves: list[bytes]) -> None:
    tree = merkle.Tree(leaves)
    assert tree.root == merkle.root(leaves)
    for index, leaf in enumerate(leaves):
        path = tree.path(index)
        assert path == merkle.path(leaves, index)
        assert len(path) <= (len(leaves) - 1).bit_length()
        assert merkle.verify(tree.root, len(leaves), index, leaf, path)


@given(sequences, sequences)
def test_different_sequences_have_different_roots(one: list[bytes], two: list[bytes]) -> None:
    assert (merkle.root(one) == merkle.root(two)) == (one == two)


@given(sequences, st.data())
def test_repeating_any_end_changes_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(leaves)))
    longer = leaves + leaves[len(leaves) - length :]
    assert (merkle.root(longer) == merkle.root(leaves)) == (length == 0)


@given(sequences.filter(bool), st.data())
def test_a_path_proves_one_leaf_at_one_place(leaves: list[bytes], data: st.DataObject) -> None:
    tree = merkle.Tree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = tree.path(index)
    place = data.draw(st.integers(0, len(leaves) + 2))
    leaf = data.draw(st.sampled_from(leaves) | digests)
    right = place < len(leaves) and leaf == leaves[place] and tree.path(place) == path
    assert merkle.verify(tree.root, len(leaves), place, leaf, path) == right
    assert not merkle.verify(tree.root, len(leaves) + 1, index, leaves[index], path)


@given(sequences.filter(bool), st.data())
def test_a_changed_path_proves_nothing(leaves: list[bytes], data: st.DataObject) -> None:
    tree = merkle.Tree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = tree.path(index)
    other = tuple(data.draw(st.lists(st.sampled_from([*path, *leaves]) | digests, max_size=len(path) + 1)))
    assert merkle.verify(tree.root, len(leaves), index, leaves[index], other) == (other == path)


@given(st.binary(max_size=40), st.integers(), st.integers(), st.binary(max_size=40), st.lists(st.binary(max_size=40)))
def test_rubbish_is_refused_without_an_exception(
    root: bytes, count: int, index: int, leaf: bytes, path: list[bytes]
) -> None:
    assert not merkle.verify(root, count, index, leaf, path)
