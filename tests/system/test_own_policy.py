"""The guide "write your own policy": its package is installed apart from bftkit, found and explained."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide" / "policies.md"


@attrs.frozen
class Place:
    """A folder that is no checkout, where the package can be imported and nothing else is new."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *words: str, code: int = 0) -> list[str]:
        """Run Python with these words; the lines that it says on stdout."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout.splitlines()

    def told(self, *words: str) -> list[dict[str, Any]]:
        """The lines that a command of bftkit says."""
        return [json.loads(line) for line in self.run("-m", "bftkit", *words, "--json")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The guide's package, as it stands there, put into a folder by pip; nothing is fetched from anywhere."""
    folder = tmp_path_factory.mktemp("elsewhere")
    text = GUIDE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    source, target = folder / "source", folder / "installed"
    source.mkdir()
    (source / "busy_hours.py").write_text(code, encoding="utf-8")
    (source / "pyproject.toml").write_text(project, encoding="utf-8")
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    install = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(target), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return Place(folder, {"PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"})


def test_the_policy_is_found_by_its_name(place: Place) -> None:
    told = {one["name"]: one for one in place.told("policy", "list")}
    assert set(told) >= {"busy_hours", "cheapest", "manual", "steady"}
    assert told["busy_hours"]["parameters"]["many"]["default"] == 100
    assert told["busy_hours"]["parameters"]["patience"]["default"] == 2, "as every policy has"


def test_it_is_given_modes_that_meet_the_needs(place: Place) -> None:
    (choice,) = place.told("qos", "explain", "--members", "4", "--policy", "busy_hours")
    assert [mode["protocol"] for mode in choice["policy"]["modes"]] == ["pbft", "cks"]


def test_a_group_can_begin_with_it(place: Place) -> None:
    *_, group = place.told("init", "shop", "--policy", "busy_hours")
    assert group["protocol"] == "pbft"
    assert 'name = "busy_hours"' in (place.folder / "shop" / "genesis.toml").read_text(encoding="utf-8")


def test_it_judges(place: Place) -> None:
    program = """
from bftkit.configuration.policy import Measurement, Mode, Outlook, Policy
from bftkit.configuration.shelf import filled, load_policy
policy = load_policy("busy_hours")
for executed in (99, 100):
    now = Measurement(window_us=1_000_000, executed=executed)
    outlook = Outlook(now, 0, (Mode("pbft"), Mode("cks")), filled(policy.record, Policy("busy_hours")), None)
    print(policy.judge(outlook).mode, policy.judge(outlook).reason)
"""
    assert place.run("-c", program) == ["0 99 requests a second were executed", "1 100 requests a second were executed"]


def test_where_it_is_not_installed_it_is_named_as_missing(tmp_path: Path) -> None:
    place = Place(tmp_path, {})
    assert place.run("-m", "bftkit", "qos", "explain", "--members", "4", "--policy", "busy_hours", code=2) == []
