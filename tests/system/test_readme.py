"""What the README shows is what happens: its counter is cut out of it and run as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bftkit.node.processes import ProcessGroup

pytestmark = pytest.mark.system

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    section = README.read_text().split("<!-- counter begins -->")[1].split("<!-- counter ends -->")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_counter_of_the_readme_counts(tmp_path: Path) -> None:
    service, program = blocks("python")
    assert len([line for line in service.splitlines() if line.strip()]) <= 15
    (tmp_path / "counter.py").write_text(service)
    (tmp_path / "program.py").write_text(program)
    (console,) = blocks("console")
    commands = [line[2:] for line in console.splitlines() if line.startswith("$ ")]
    answers = [line for line in console.splitlines() if not line.startswith("$ ")]
    bftkit = (sys.executable, "-m", "bftkit")
    run(tmp_path, *bftkit, *commands[0].split()[1:])
    group = ProcessGroup(tmp_path / "group", environment={"PYTHONPATH": str(tmp_path)})
    try:
        for member in group.members:
            group.start(member)
        for member in group.members:
            group.wait_ready(member)
        given = [run(tmp_path, *bftkit, *command.split()[1:]).strip() for command in commands[2:]]
        assert given == answers == ["5", "42"]
        assert run(tmp_path, sys.executable, "program.py").split() == ["b'43'", "b'43'"]
    finally:
        group.stop()
