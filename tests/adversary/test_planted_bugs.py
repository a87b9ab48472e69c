"""The planted bugs fit the code as it is. Whether campaigns find them: ``python simulations/planted_bugs.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from bftkit.core.plugin import protocol_names
from bftkit.sim.scenarios import scenario_names
from simulations.planted_bugs import PATCHES, ROOT, Bug, DoesNotApply, apply, read_bug

BUGS = [read_bug(path) for path in sorted(PATCHES.glob("*.patch"))]
OWN = [path.stem.replace("_", "-") for path in PATCHES.glob("*.py")]
WRONG = """# A line that is not there
# breaks: nothing
# protocol: pbft
# faults: 1
--- a/bftkit/core/quorum.py
+++ b/bftkit/core/quorum.py
@@ -1,1 +1,1 @@
-nobody wrote this
+and nobody would
"""


def test_there_are_enough_and_enough_of_the_hard_ones() -> None:
    assert len(BUGS) >= 45
    assert sum(bug.faults > 1 for bug in BUGS) >= 15


@pytest.mark.parametrize("protocol", protocol_names())
def test_every_protocol_has_some(protocol: str) -> None:
    assert sum(bug.protocol == protocol for bug in BUGS) >= 5


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_applies_and_says_what_it_is(bug: Bug) -> None:
    apply(bug, ROOT, dry=True)
    assert bug.protocol in protocol_names()
    assert set(bug.scenarios) <= {*scenario_names(), *OWN}
    assert bug.title
    assert bug.breaks


def test_a_patch_that_does_not_apply_is_named(tmp_path: Path) -> None:
    patch = tmp_path / "no-such-line.patch"
    patch.write_text(WRONG)
    with pytest.raises(DoesNotApply, match="no-such-line"):
        apply(read_bug(patch), ROOT, dry=True)


def test_a_patch_without_its_story_is_refused(tmp_path: Path) -> None:
    patch = tmp_path / "silent.patch"
    patch.write_text(WRONG.replace("# breaks: nothing\n", ""))
    with pytest.raises(ValueError, match="breaks"):
        read_bug(patch)
