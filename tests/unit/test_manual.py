"""The manual can be trusted: the files and tests that it names are there, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bftkit.client import AsyncClient, OperationFailed
from bftkit.client.local import LocalGroup, local_group
from bftkit.sim.scenarios import scenario_names

PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/SAFETY.md", "docs/FAULTS.md", "docs/ARCHITECTURE.md")
FILE = re.compile(r"`((?:bftkit|protocols|tests|simulations|docs)/[\w./-]*)`")
TEST = re.compile(r"`(test_\w+)`")


def functions(folder: Path) -> set[str]:
    """The names of all functions that are defined in the Python files of a folder."""
    return {
        name
        for path in folder.rglob("*.py")
        for name in re.findall(r"^ *(?:async )?def (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_named_file_and_test_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert sorted(name for name in set(FILE.findall(text)) if not (ROOT / name).exists()) == []
    known = functions(ROOT / "tests") | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    assert sorted(set(TEST.findall(text)) - known) == []


def test_the_fault_catalogue_names_tests_and_checks_that_exist() -> None:
    text = (ROOT / "docs" / "FAULTS.md").read_text(encoding="utf-8")
    cells = [row.split("|")[4] for row in text.splitlines() if re.match(r"\| \d+ \|", row)]
    named = {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}
    assert named
    known = functions(ROOT / "tests") | functions(ROOT / "bftkit" / "sim") | set(scenario_names())
    assert sorted(named - known) == []


def test_every_safety_rule_says_where_it_is_kept() -> None:
    text = (ROOT / "docs" / "SAFETY.md").read_text(encoding="utf-8")
    rules = re.split(r"(?m)^### Rule ", text)[1:]
    assert [rule.partition(":")[0] for rule in rules if rule.count("*Today.*") != 1] == []


def test_the_architecture_names_every_file_in_its_room() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    text = text[text.index("## The folders") : text.index("## Machines")]
    rooms = {match[1]: match[2] for match in re.finditer(r"(?m)^\| `(\w+)/` \|(.*)$", text)}
    there = sorted(path for path in (ROOT / "bftkit").iterdir() if (path / "__init__.py").exists())
    assert sorted(rooms) == [path.name for path in there]
    for folder in there:
        files = {path.name for path in folder.glob("*.py") if path.name != "__init__.py"}
        named = set(re.findall(r"`(\w+\.py)`", rooms[folder.name]))
        assert sorted(files ^ named) == [], f"docs/ARCHITECTURE.md, the row of {folder.name}/"


async def test_the_examples_of_the_embedding_guide_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # The guide's examples have the patience of people; here the machine may be busy.
    monkeypatch.setattr(AsyncClient.submit, "__kwdefaults__", {"timeout": PATIENCE_SECONDS, "deadline": None})
    monkeypatch.setattr(LocalGroup.in_step, "__defaults__", (PATIENCE_SECONDS,))
    text = (ROOT / "docs" / "guide" / "embedding.md").read_text(encoding="utf-8")
    counter, accounts, test, _callers = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    for example in (counter, accounts, test):
        # Compiled apart from this file, whose `annotations` future they would inherit otherwise.
        exec(compile(example, "embedding.md", "exec", dont_inherit=True), names)  # noqa: S102 - our own manual
    await names["test_the_counter_survives"]()
    async with local_group(names["Accounts"], members=4) as group:
        client = await group.client()
        assert await client.submit(b"3") == b"3"
        assert await client.submit(b"4") == b"7"
        with pytest.raises(OperationFailed, match="answers no reads"):
            await client.read(b"", timeout=PATIENCE_SECONDS)
