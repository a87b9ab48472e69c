"""docs/protocols/comparison.md is what its command makes of the figures beside it and of the plug-ins' records."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import attrs
import pytest

from bftkit.channel.frames import PROTOCOL
from bftkit.core.plugin import load_protocol
from bftkit.sim.world import World
from simulations import compare_peers, compare_protocols
from simulations.compare_protocols import DATA, PAGE, SIZES, Tally, carried_bytes, load, main, page_of, save, written

SHELF = ("cks", "coordinator", "paxos", "pbft")


def test_the_page_is_what_the_command_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_of(load(DATA)), (
        "write it anew: python simulations/compare_protocols.py write"
    )


def test_everything_on_the_shelf_was_counted_in_every_size() -> None:
    counted = load(DATA)["counted"]
    assert sorted(counted) == sorted(SHELF)
    assert all(sorted(map(int, cells)) == list(SIZES) for cells in counted.values())


def test_a_record_that_says_something_else_makes_another_page() -> None:
    data = load(DATA)
    records = {name: load_protocol(name).record for name in data["counted"]}
    changed = attrs.evolve(records["pbft"], steps=4, when="Never.")
    page = written(data, {**records, "pbft": changed})
    assert page != page_of(data)
    assert "| 4 |" in page
    assert "| Never. |" in page


def test_frames_are_counted_without_the_batches_that_they_carry() -> None:
    """The bytes of all PROTOCOL frames are those of the batches, and the rest."""
    world = World(3, "coordinator", 4, clients=1)
    frames: list[bytes] = []
    tally = Tally()
    world.observers.append(tally.see)
    world.observers.append(lambda sender, receiver, frame: frames.append(frame))
    world.load(30)
    world.run(1500)
    spoken = [frame for frame in frames if frame[0] == PROTOCOL]
    assert tally.messages == len(spoken) < len(frames)
    carried = [carried_bytes(frame) for frame in spoken]
    assert sum(map(len, spoken)) == tally.size + sum(carried)
    # A batch travels to three followers, and nothing else is carried: the rest of each of those frames is as long as
    # the frame of any other order, within the few bytes that a larger slot number takes.
    rests = {len(frame) - size for frame, size in zip(spoken, carried, strict=True) if size}
    assert sum(size > 0 for size in carried) % 3 == 0
    assert rests
    assert max(rests) - min(rests) < 16


def test_a_row_takes_the_place_of_the_same_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, page = tmp_path / "data.json", tmp_path / "page.md"
    figures = iter([10.0, 20.0, 30.0])

    def bench(protocol: str, members: int, outstanding: int, size: int, durability: str, times: object) -> object:
        row = dict(zip(compare_protocols.ROW, (protocol, members, durability, size, outstanding), strict=True))
        return {
            **row,
            "ops_per_second": next(figures),
            "p50_ms": 1.5,
            "p99_ms": 2.0,
            "memory_mb": 9,
            "cpu_us_per_op": 3,
        }

    monkeypatch.setattr(compare_protocols, "bench", bench)
    words = ["x", "bench", "--protocol", "pbft", "--members", "4", "--durability", "fsync", "--data", str(data)]
    for outstanding in ("1", "4000", "1"):
        monkeypatch.setattr(sys, "argv", [*words, "--outstanding", outstanding])
        assert main() == 0
    kept = json.loads(data.read_text())["bench"]
    assert [(row["outstanding"], row["ops_per_second"]) for row in kept] == [(1, 30.0), (4000, 20.0)]
    monkeypatch.setattr(sys, "argv", ["x", "write", "--data", str(data), "--page", str(page)])
    assert main() == 0
    assert "| `pbft` | 4 | 0 | 4,000 | 20 | 1.5 | 2 | 9 | 3 |" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["x", "write", "--check", "--data", str(data), "--page", str(page)])
    assert main() == 0
    page.write_text("something else")
    assert main() == 1


def test_the_data_file_is_written_as_it_is_read(tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    save(copy, load(DATA))
    assert copy.read_text(encoding="utf-8") == DATA.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "told"), [(404425.3, "404,425"), (6205.89, "6,206"), (99.96, "100"), (12.34, "12.3"), (1.771, "1.77")]
)
def test_figures_are_told_in_three_digits(number: float, told: str) -> None:
    assert compare_protocols.three_digits(number) == told


def test_the_tables_beside_other_systems_are_what_the_command_writes() -> None:
    peers = json.loads(compare_peers.PEERS.read_text(encoding="utf-8"))
    page = compare_peers.PAGE.read_text(encoding="utf-8")
    assert page == compare_peers.written(page, peers, load(DATA)), "write it: python simulations/compare_peers.py"
    assert sorted(re.findall(r"<!-- beside: (\w+) begins -->", page)) == sorted(peers) == sorted(compare_peers.OURS)
    for rows in peers.values():
        assert all(list(row) == list(compare_peers.COLUMNS) for row in rows)
        assert all(f"| {row['how']} | {row['outstanding']} | {row['ops']} |" in page for row in rows)
