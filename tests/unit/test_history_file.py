"""A group's hand-overs in a file: they are verified by whoever reads them, and nothing else is believed."""

from __future__ import annotations

import pytest

from bftkit.configuration.text import ConfigurationError
from bftkit.membership.history_file import history_from_bytes, history_to_bytes
from tests.chains import Group


@pytest.fixture(scope="module")
def group() -> Group:
    made = Group()
    for nonce in range(3):
        made.go(nonce=nonce)
    return made


def test_the_whole_chain_comes_back(group: Group) -> None:
    data = history_to_bytes(group.group, group.links)
    assert history_from_bytes(group.genesis, data) == tuple(group.links)
    assert history_from_bytes(group.genesis, history_to_bytes(group.group, [])) == ()


def test_what_is_not_this_groups_chain_is_refused(group: Group) -> None:
    """SAFETY rule 28: a file can keep a machine from joining, and cannot lead it astray."""
    data = history_to_bytes(group.group, group.links)
    forged = group.copy()
    signed = forged.command(nonce=9)
    there, _ = forged.after(signed)
    forged.links.append(forged.ending(signed, there, signers=("m0", "m1")))  # two of the three that it takes
    for wrong, reason in (
        (b"rubbish", "no such file"),
        (data[:-1], "damaged"),
        (data[:60] + bytes((data[60] ^ 1,)) + data[61:], "damaged"),
        (history_to_bytes(Group(nonce=1).group, group.links), "another group's"),
        (history_to_bytes(group.group, group.links[1:]), "epoch"),
        (history_to_bytes(group.group, forged.links), "members"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            history_from_bytes(group.genesis, wrong)
