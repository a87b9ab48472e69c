"""The last events of a run name the clients, and show nobody's raw keys."""

from __future__ import annotations

import re

from bftkit.sim.journal import HEARD, OTHER, Journal
from bftkit.sim.world import World


def test_links_and_frames_of_clients_are_told_by_name() -> None:
    world = World(7, "pbft", 4, clients=2, trace=True)
    world.load(20)
    world.run(1500)
    lines = world.lines
    assert lines is not None
    assert [line for line in lines if not line.isascii() or not line.isprintable()] == []
    assert any(re.search(r"m\d link c1$", line) for line in lines)
    assert any(re.search(r"m\d < c0 packet \d+$", line) for line in lines)
    assert any(re.search(r"m\d < m\d packet \d+$", line) for line in lines)
    assert any(re.search(r"c0 hears packet \d+$", line) for line in lines)


def test_a_key_that_nobody_knows_is_shown_in_hex() -> None:
    journal = Journal(lambda number: f"m{number}", keep_lines=True)
    journal.add(1, HEARD, 0, 7, b"\x00\xff\x10\x80")
    journal.add(2, OTHER, 0, 0, b"link \x00\xff\x10\x80" + bytes(28))
    assert journal.recent() == ["      0.001 m0 < 00ff1080 packet 7", "      0.002 m0 link 00ff1080"]
