"""The diagrams in the manual are what the machines' tables say."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from bftkit.core.machine import Transition

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def diagrams() -> ModuleType:
    spec = util.spec_from_file_location("bftkit_docs_diagrams", DOCS / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_committed_pages_match_the_tables(diagrams: ModuleType) -> None:
    stale = [path.name for path in sorted(DOCS.rglob("*.md")) if diagrams.drawn(text := path.read_text()) != text]
    assert stale == [], "run: python docs/diagrams.py"


def test_every_table_has_its_place_on_a_page(diagrams: ModuleType) -> None:
    pages = "".join(path.read_text() for path in sorted(DOCS.rglob("*.md")))
    placed = [match["name"] for match in diagrams.PLACE.finditer(pages)]
    assert sorted(placed) == sorted(diagrams.TABLES)


def test_a_changed_table_changes_the_page(diagrams: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the first test could pass by finding nothing."""
    page = (DOCS / "protocols" / "pbft.md").read_text()

    def table(name: str) -> tuple[Transition, ...]:
        return (Transition("HERE", "a wish", "THERE"),)

    monkeypatch.setattr(diagrams, "table", table)
    assert "HERE\n  └─▶ THERE  when: a wish\nTHERE  (the end)\n" in diagrams.drawn(page)
