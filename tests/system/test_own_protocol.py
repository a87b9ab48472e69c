"""The guide "write your own protocol": its package is installed apart from bftkit, and does what the guide shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.node.processes import ProcessGroup

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "docs" / "examples" / "sequencer"
GUIDE = ROOT / "docs" / "guide" / "write-a-protocol.md"
BFTKIT = ("-m", "bftkit")


@attrs.frozen
class Place:
    """A folder that is no checkout, where the package can be imported and nothing else is new."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *words: str, code: int = 0) -> str:
        """Run Python with these words; what it says on stdout."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def told(self, *words: str) -> dict[str, Any]:
        """The last line that a command of bftkit says."""
        last: dict[str, Any] = json.loads(self.run(*BFTKIT, *words, "--json").splitlines()[-1])
        return last


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """pip puts the package into a folder of its own; nothing is fetched from anywhere."""
    folder = tmp_path_factory.mktemp("elsewhere")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    target = folder / "installed"
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    install = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(target), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(PACKAGE / "test_sequencer.py", folder)
    return Place(folder, {"PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"})


@pytest.fixture
def group(place: Place) -> Iterator[ProcessGroup]:
    """Three members as processes, founded by the command line."""
    place.run(*BFTKIT, "init", "group", "--members", "3", "--protocol", "sequencer")
    group = ProcessGroup(place.folder / "group", environment=dict(place.environment))
    try:
        group.start_all()
        yield group
    finally:
        group.stop()
        shutil.rmtree(place.folder / "group")


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_the_guide_shows_the_package_word_for_word() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    *parts, test = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    assert lines("".join(parts)) == lines((PACKAGE / "sequencer.py").read_text(encoding="utf-8"))
    assert test == (PACKAGE / "test_sequencer.py").read_text(encoding="utf-8")
    assert project == (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")


def test_what_the_guide_calls_sixty_lines_is_not_much_longer() -> None:
    (core,) = re.findall(r"## The core: sixty lines.*?```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert len(lines(core)) <= 60


def test_the_package_is_found_by_its_name(place: Place) -> None:
    names = "from bftkit.core.plugin import protocol_names; print(*protocol_names())"
    assert "sequencer" in place.run("-c", names).split()
    assert "sequencer" in place.told("version")["protocols"]


def test_it_keeps_the_contract(place: Place) -> None:
    told = place.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sequencer.py")
    assert re.search(r"\d\d passed", told)
    assert "failed" not in told
    assert "skipped" not in told


def test_the_contract_sees_what_the_guide_takes_away(place: Place, tmp_path: Path) -> None:
    """A sequencer that speaks without writing first gives a slot away twice."""
    text = (PACKAGE / "sequencer.py").read_text(encoding="utf-8")
    (written,) = [line for line in text.splitlines(keepends=True) if "out.persist" in line]
    (tmp_path / "sequencer.py").write_text(text.replace(written, ""), encoding="utf-8")
    path = os.pathsep.join((str(tmp_path), place.environment["PYTHONPATH"]))
    broken = attrs.evolve(place, environment={**place.environment, "PYTHONPATH": path})
    again = re.search(r"again: python (-m bftkit.sim.contract .*)", GUIDE.read_text(encoding="utf-8"))
    assert again is not None
    assert "m0 contradicts its own vote ('Order', 1)" in broken.run(*again[1].split(), code=1)
    assert place.run(*again[1].split()) == "holds\n"


def test_it_survives_what_its_record_claims_all_at_once(place: Place) -> None:
    assert place.told("simulate", "mixed", "--protocol", "sequencer", "--seed", "3")["oracle"] == ""
    told = place.told("sweep", "mixed", "--protocol", "sequencer", "--seeds", "0..4", "--jobs", "1")
    assert told["seeds"] == 5
    assert told["violations"] == 0


def test_a_group_of_processes_orders_with_it(place: Place, group: ProcessGroup) -> None:
    client = ("--client", "group/client", "--timeout", "60")
    assert place.run(*BFTKIT, "put", *client, "greeting", "hello") == "stored\n"
    group.kill("m0")
    group.start_all(["m0"])
    assert place.run(*BFTKIT, "get", *client, "greeting") == "hello\n"
    group.kill_all()
    group.start_all()
    assert place.run(*BFTKIT, "put", *client, "greeting", "again") == "stored\n"
    assert place.run(*BFTKIT, "get", *client, "greeting") == "again\n"
    assert all("Traceback" not in group.log_text(member) for member in group.members)
