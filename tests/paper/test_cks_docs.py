"""The page of cks tells the truth: its messages, blocks and parameters are those of the code."""

from __future__ import annotations

from pathlib import Path

from bftkit.blocks import validated_messages as va
from bftkit_cks import PLUGIN
from bftkit_cks import messages as m
from bftkit_cks.machine import CksMachine

PAGE = (Path(__file__).parents[2] / "docs" / "protocols" / "cks.md").read_text(encoding="utf-8")


def rows(heading: str, table: int = 0) -> list[list[str]]:
    """The cells of a table after a heading, without its head."""
    part = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    tables = [text.strip() for text in part.split("\n\n") if text.strip().startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[table].splitlines()[2:]]


def test_parameters() -> None:
    told = {name.strip("`"): (int(default), meaning) for name, default, meaning in rows("Parameters")}
    assert told == {name: (item.default, item.meaning) for name, item in PLUGIN.record.parameters.items()}


def test_messages_and_blocks() -> None:
    told = [cells[0].strip("`").split("(")[0] for cells in rows("What the messages mean")]
    assert told == [cls.__name__ for cls in m.CODEC.messages.values()]
    kinds = [m.OFFER, va.PROPOSAL, va.COMMITMENT, va.ORDER, va.AGREEMENT, va.STATEMENT, va.OUTCOME]
    assert [int(cells[0]) for cells in rows("What the messages mean", 1)] == kinds == list(range(7))


def test_phases() -> None:
    """Each phase is reached, and the last one is the end. (The diagram on the page is drawn from the table.)"""
    sources = {row.source for row in CksMachine.round_phases}
    targets = {row.target for row in CksMachine.round_phases}
    assert targets - sources == {"DELIVERED"}
    assert sources - targets == {"IDLE"}
