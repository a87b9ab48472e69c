"""What a campaign keeps of each seed, and the file in which it does.

The file is for `--resume`: JSON lines, first a header that says what was run (scenario, protocol, service, and a digest
of the code of all of them), then one line a seed, appended as the seeds end. A campaign that is interrupted loses
nothing but the seeds that were under way; the half line that a power cut leaves is cut off. Results of other code are
never mixed in: they would say nothing about this one.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b
from importlib.metadata import entry_points, version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import attrs
from cattrs import Converter
from cattrs.errors import BaseValidationError

import bftkit
from bftkit.core.plugin import GROUP, load_protocol
from bftkit.sim.running import PROGRESS_MISSED, SAFETY_MISSED, Result

FORMAT: Final = 1
NO_PLAN: Final = "plan"
"""In the place of an oracle: there was nothing to be run, so nothing was found."""


class ResumeError(ValueError):
    """The file with earlier results does not fit this campaign. The text says why, and what to do."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of one seed."""

    seed: int
    digest: str = ""
    """Of everything that happened. Empty if the seed did not come to an end of its own."""
    oracle: str = ""
    """Which checker was not content; empty: none."""
    violation: str = ""
    """What it said, in one line."""
    report: str = ""
    """The same at length."""
    operations: int = 0
    view_changes: int = 0
    messages: int = 0
    """Frames that were sent, in the run and in the one that it is compared with."""
    seconds: float = attrs.field(default=0.0, eq=False)
    """CPU time of both."""
    injected: Mapping[int, int] = attrs.field(factory=dict[int, int])
    """How often each line of docs/FAULTS.md really happened."""
    figure: float | None = None
    """What the scenario measures, if it does."""

    @property
    def ok(self) -> bool:
        """Whether every checker was content."""
        return not self.oracle

    @property
    def kind(self) -> str:
        """``safety`` or ``progress``; ``plan`` if the scenario made no plan; empty if all is well."""
        if self.oracle in ("", NO_PLAN):
            return self.oracle
        return PROGRESS_MISSED if self.oracle in ("progress", "figure") else SAFETY_MISSED


def outcome_of(result: Result, figure: float | None = None, baseline: Result | None = None) -> Outcome:
    """What is kept of a run, and of the one that it was compared with."""
    runs = [result] if baseline is None else [result, baseline]
    return Outcome(
        seed=result.plan.seed,
        digest="+".join(run.digest for run in runs),
        oracle=result.oracle,
        violation=result.violation,
        report=result.report,
        operations=result.operations,
        view_changes=result.view_changes,
        messages=sum(run.messages for run in runs),
        seconds=round(sum(run.seconds for run in runs), 6),
        injected={line: count for line, count in sorted(result.injected.items()) if count},
        figure=figure,
    )


@attrs.frozen(kw_only=True)
class Header:
    """What a campaign is about: results are comparable when all of this is the same."""

    scenario: str
    protocol: str
    service: str
    code: str
    """A digest of the source of bftkit, the protocol, the scenario and the service."""
    version: str = attrs.field(factory=lambda: version("bftkit"))
    format: int = FORMAT


class ResultsFile:
    """Outcomes of earlier, and a place for those to come. A context manager."""

    def __init__(self, path: Path, header: Header) -> None:
        """Raises `ResumeError` if the file is damaged, of another campaign, or in use; `OSError`."""
        self.path = path
        self.header = header
        self.outcomes: dict[int, Outcome] = {}
        self._file: BinaryIO = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError:
            self._file.close()
            raise ResumeError(f"{path}: another campaign is writing to it; give another file") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file free."""
        self._file.close()

    def add(self, outcome: Outcome) -> None:
        """One more seed, or a newer outcome of the same."""
        self.outcomes[outcome.seed] = outcome
        self._write(_converter().unstructure(outcome))

    def _read(self) -> None:
        self._file.seek(0)
        *lines, rest = self._file.read().split(b"\n")
        good = 0
        if rest:
            # The line that was being written when the end came.
            self._file.truncate(sum(len(line) + 1 for line in lines))
        for number, line in enumerate(lines, start=1):
            try:
                data = json.loads(line)
                if number == 1:
                    self._compare(_converter().structure(data, Header))
                else:
                    outcome = _converter().structure(data, Outcome)
                    self.outcomes[outcome.seed] = outcome
            except (ValueError, BaseValidationError) as error:
                if isinstance(error, ResumeError):
                    raise
                if number == len(lines) and number > 1:
                    self._file.truncate(good)
                    break
                raise ResumeError(
                    f"{self.path}: line {number} is none of a campaign's results; give another file, or remove it"
                ) from None
            good += len(line) + 1
        if not lines:
            self._write(_converter().unstructure(self.header))

    def _compare(self, found: Header) -> None:
        for name in ("format", "scenario", "protocol", "service", "version", "code"):
            theirs, mine = getattr(found, name), getattr(self.header, name)
            if theirs != mine:
                what = "other code" if name == "code" else f"{name} {theirs}"
                raise ResumeError(
                    f"{self.path} has results of {what}, and this campaign is about "
                    f"{'the code as it is now' if name == 'code' else mine}; give another file, or remove it"
                )

    def _write(self, data: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(data, separators=(",", ":")).encode() + b"\n")
        self._file.flush()


def code_identity(protocol: str, *modules: str) -> str:
    """A digest of the source of bftkit, of the protocol's package, and of these modules (those that have a file)."""
    load_protocol(protocol)
    module, colon, _ = protocol.partition(":")
    places = [module] if colon else [entry.module for entry in entry_points(group=GROUP) if entry.name == protocol][:1]
    files = {("bftkit", path.relative_to(_root()).as_posix()): path for path in _root().rglob("*.py")}
    for place in places:
        for path in _files(place, whole=True):
            files[place, path.name] = path
    for place in modules:
        for path in _files(place, whole=False):
            files[place, path.name] = path
    found = blake2b(digest_size=16)
    for key in sorted(files):
        found.update(f"{key}\0".encode() + blake2b(files[key].read_bytes(), digest_size=16).digest())
    return found.hexdigest()


def _root() -> Path:
    place = bftkit.__file__
    assert place is not None
    return Path(place).parent


def _files(module: str, *, whole: bool) -> Iterable[Path]:
    if module.endswith(".py"):
        return [Path(module)] if Path(module).exists() else []
    place = getattr(sys.modules.get(module), "__file__", None)
    if place is None or not place.endswith(".py"):
        return []
    path = Path(place)
    return sorted(path.parent.glob("*.py")) if whole and path.name == "__init__.py" else [path]


@cache
def _converter() -> Converter:
    return Converter(forbid_extra_keys=True, omit_if_default=False)
