"""docs/reference/qos_choices.md says what the configuration manager says."""

from __future__ import annotations

import attrs
import pytest

from bftkit.configuration.manager import Refusal
from bftkit.configuration.qos import QoS
from simulations.qos_table import PAGE, QUESTIONS, answer, main, page


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python simulations/qos_table.py write"
    assert main(["check"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_it_asks_for_every_field() -> None:
    assert set(QUESTIONS) == {field.name for field in attrs.fields(QoS)}


@pytest.mark.parametrize("field", sorted(QUESTIONS))
def test_every_field_has_an_effect(field: str) -> None:
    """With another value something else is chosen, refused, or said of what is answered."""
    rows = QUESTIONS[field]
    said = {
        found.text if isinstance(found, Refusal) else next(one.led_to for one in found.because if one.field == field)
        for found in (answer(row, field) for row in rows)
    }
    assert len(said) > 1
