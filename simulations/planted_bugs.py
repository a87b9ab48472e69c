"""Do campaigns find bugs? Each patch of `planted/` puts one into a copy of the code; seeds are run until it shows.

    python simulations/planted_bugs.py --json
    python simulations/planted_bugs.py --only certificate-not-written --seconds-per-bug 300
    python simulations/planted_bugs.py --unit           # what the unit tests say of each: they should find none

A patch begins with what it is about: its title, why somebody might write it and what comes of it, then the rule that it
breaks, the protocol, and how many different faults must meet before it shows. The unpatched code runs the same seeds
as a control: a violation there says that the campaign cries wolf, and nothing that it says of the others counts.

`planted/unfound/` has bugs that this budget does not find, or only with luck; they are not counted, and wait for
better scenarios::

    python simulations/planted_bugs.py --patches simulations/planted/unfound --seconds-per-bug 600

Exit code 0: at most one bug in twenty was missed, and the control is clean. 1: not so. 2: a patch does not apply.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent
PATCHES: Final = Path(__file__).resolve().parent / "planted"
SECONDS_PER_BUG: Final = 75.0
CONTROL: Final = "control"
MIXED: Final = "mixed"
MISSED_MAX: Final = 20
"""One in so many may be missed."""
CODE: Final = ("bftkit", "protocols")
SIMULATES: Final = re.compile(
    r"bftkit\.sim\.(world|ordering\.world|running|scenarios|campaign|shrinking|story|strategies)\b"
)
HANG_SECONDS: Final = 60
"""A worker whose last run takes so much CPU time beyond its budget stands still."""


class DoesNotApply(Exception):
    """The code has changed under a patch; the text names it."""


# ------------------------------------------------------------------------------------------------- patches


@attrs.frozen
class Bug:
    """One patch, and what its first lines say."""

    name: str
    title: str
    protocol: str
    faults: int
    """How many different faults must meet."""
    breaks: str
    scenarios: tuple[str, ...] = (MIXED,)
    """What is run: `mixed`, and the scenarios (shipped ones, or of `planted/`) that make a habit of the fault."""
    patch: Path | None = None
    """None: the unpatched code."""


def read_bug(path: Path) -> Bug:
    """Raises `ValueError` if the patch does not say what it is about."""
    head: list[str] = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        head.append(line[1:].strip())
    said = {word: text.strip() for word, colon, text in (line.partition(":") for line in head) if colon}
    missing = {"breaks", "protocol", "faults"} - said.keys()
    if not head or missing:
        raise ValueError(f"{path.name} begins with a title and the lines {', '.join(sorted(missing))}")
    others = [name.strip() for name in said.get("scenarios", "").split(",") if name.strip()]
    return Bug(path.stem, head[0], said["protocol"], int(said["faults"]), said["breaks"], (MIXED, *others), path)


def copy_code(folder: Path, *, everything: bool = False) -> None:
    """The code, or all of the repository that tests look at, without what tools left there."""
    left_out = shutil.ignore_patterns("__pycache__", "_build", "*.egg-info", ".*_cache", ".venv", ".git", ".hypothesis")
    if everything:
        shutil.copytree(ROOT, folder, ignore=left_out)
        return
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)


def apply(bug: Bug, folder: Path, *, dry: bool = False) -> None:
    """Raises `DoesNotApply`. `dry`: changes nothing, and only says whether it would."""
    if bug.patch is None:
        return
    if shutil.which("patch"):
        command = ["patch", "-p1", "--batch", "--forward", "--no-backup-if-mismatch", *(("--dry-run",) if dry else ())]
        command += ["-i", str(bug.patch)]
    else:
        command = ["git", "apply", "--recount", *(("--check",) if dry else ()), str(bug.patch)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DoesNotApply(f"{bug.name} does not apply any more:\n{done.stdout}{done.stderr}")


def environment(folder: Path) -> dict[str, str]:
    """That Python takes the code from there, and from nowhere else."""
    path = os.pathsep.join((str(folder), str(folder / "protocols")))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


# ------------------------------------------------------------------------------------------------- in the worker


def run_seed(scenario: str, protocol: str, seed: int) -> tuple[str, str] | None:
    """One run of the campaign: (oracle, what it says) of what it violates, None if every checker is content."""
    from bftkit.sim.running import run
    from bftkit.sim.scenarios import load_scenario

    own = PATCHES / f"{scenario.replace('-', '_')}.py"
    result = run(load_scenario(str(own) if own.exists() else scenario).plan(protocol, seed))
    return None if result.ok else (result.oracle, result.violation.partition("\n")[0])


def work(folder: Path, protocol: str, seconds: float, scenarios: Sequence[str]) -> None:
    """Run seeds until one fails or the budget (CPU seconds) is spent; print what came of it.

    Of each seed all scenarios are run, one after the other.
    """
    import bftkit
    from bftkit.core.plugin import load_protocol

    loaded = [bftkit.__file__, sys.modules[type(load_protocol(protocol)).__module__].__file__]
    assert all(file is not None and Path(file).is_relative_to(folder) for file in loaded), loaded
    most = int(seconds) + HANG_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    began = process_time()
    found: tuple[str, str] | None = None
    runs = 0
    scenario = ""
    for seed in count():
        for scenario in scenarios:
            runs += 1
            found = run_seed(scenario, protocol, seed)
            if found is not None or process_time() - began > seconds:
                break
        if found is not None or process_time() - began > seconds:
            break
    oracle, text = found or ("", "")
    said = {"seeds": runs, "scenario": scenario, "oracle": oracle, "violation": text}
    print(json.dumps({**said, "seconds": process_time() - began}))


# ------------------------------------------------------------------------------------------------- outside


@attrs.frozen
class Outcome:
    """What came of one bug."""

    bug: Bug
    caught: bool
    seeds: int
    """How many runs there were; the last one failed if the bug was caught."""
    scenario: str
    """The last run's."""
    oracle: str
    violation: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """One line of the output."""
        return {
            "event": "bug",
            "name": self.bug.name,
            "protocol": self.bug.protocol,
            "faults": self.bug.faults,
            "caught": self.caught,
            "seeds": self.seeds,
            "scenario": self.scenario if self.caught else "",
            "oracle": self.oracle,
            "seconds": round(self.seconds, 1),
            "violation": self.violation,
        }


def campaign(bug: Bug, folder: Path, seconds: float) -> Outcome:
    """Run seeds against a copy of the code."""
    what = (str(folder), bug.protocol, str(seconds), *bug.scenarios)
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--worker", *what]
    began = perf_counter()
    done = subprocess.run(command, env=environment(folder), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        # Not counted as caught: a campaign would wait for ever.
        return Outcome(bug, False, 0, "", "", "a run does not end", perf_counter() - began)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        return Outcome(bug, False, 0, "", "", f"the worker failed: {last[0]}", perf_counter() - began)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    caught = bool(said["oracle"])
    return Outcome(bug, caught, said["seeds"], said["scenario"], said["oracle"], said["violation"], said["seconds"])


def unit_test_files(folder: Path) -> list[str]:
    """All but those that run simulated groups: what these find, the campaign has found."""
    files = sorted((folder / "tests" / "unit").glob("test_*.py"))
    return [str(file) for file in files if SIMULATES.search(file.read_text()) is None]


def unit_tests(bug: Bug, folder: Path, seconds: float) -> Outcome:
    """Run the unit tests on a copy, to the first that fails."""
    command = [sys.executable, "-P", "-m", "pytest", *unit_test_files(folder), "-q", "-x", "-p", "no:cacheprovider"]
    began = perf_counter()
    done = subprocess.run(command, env=environment(folder), cwd=folder, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    text = failed[0] if failed else (done.stdout.splitlines() or [done.stderr])[-1]
    return Outcome(bug, done.returncode != 0, 0, "", "unit test" if failed else "", text, perf_counter() - began)


def controls(bugs: Sequence[Bug]) -> list[Bug]:
    """The unpatched code, once for each protocol, in all scenarios that its bugs are looked for in."""
    found: list[Bug] = []
    for protocol in sorted({bug.protocol for bug in bugs}):
        names = {name for bug in bugs if bug.protocol == protocol for name in bug.scenarios} - {MIXED}
        scenarios = (MIXED, *sorted(names))
        found.append(Bug(f"{CONTROL} {protocol}", "the code as it is", protocol, 0, "nothing", scenarios))
    return found


def place(scratch: Path, bug: Bug) -> Path:
    """Where a bug's copy of the code is."""
    return scratch / bug.name.replace(" ", "-")


def outcomes(
    bugs: Sequence[Bug], scratch: Path, jobs: int, look: Callable[[Bug, Path], Outcome], *, everything: bool
) -> Iterator[Outcome]:
    """All of them, as they come. Raises `DoesNotApply` before anything runs."""
    for bug in bugs:
        folder = place(scratch, bug)
        copy_code(folder, everything=everything)
        apply(bug, folder)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(look, bugs, [place(scratch, bug) for bug in bugs])


def tell(outcome: Outcome, *, as_json: bool) -> None:
    """One line."""
    if as_json:
        print(json.dumps(outcome.as_json()), flush=True)
        return
    found = f"{outcome.oracle:<16} {outcome.scenario:<18}" if outcome.caught else f"{'-':<35}"
    bug = outcome.bug
    print(
        f"{bug.name:<36} {bug.protocol:<12} {bug.faults:>6} {outcome.seeds:>6} {outcome.seconds:>7.1f} s  {found} "
        f"{outcome.violation[:90]}",
        flush=True,
    )


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line in place of a table")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these bugs, by the names of their patches")
    parser.add_argument("--patches", type=Path, default=PATCHES, help="the folder with the patches")
    parser.add_argument(
        "--seconds-per-bug", type=float, default=SECONDS_PER_BUG, help="CPU time (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="bugs at a time (default: the cores)")
    parser.add_argument("--unit", action="store_true", help="run the unit tests on each, not the campaign")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = arguments_of(words)
    bugs = [read_bug(path) for path in sorted(arguments.patches.resolve().glob("*.patch"))]
    if arguments.only is not None:
        unknown = sorted(set(arguments.only) - {bug.name for bug in bugs})
        if unknown:
            print(f"there is no bug {unknown[0]!r}; known are {', '.join(bug.name for bug in bugs)}", file=sys.stderr)
            return 2
        bugs = [bug for bug in bugs if bug.name in arguments.only]
    seconds: float = arguments.seconds_per_bug

    def look(bug: Bug, folder: Path) -> Outcome:
        return (unit_tests if arguments.unit else campaign)(bug, folder, seconds)

    began = perf_counter()
    caught: list[str] = []
    missed: list[str] = []
    clean = True
    if not arguments.json:
        head = f"{'bug':<36} {'protocol':<12} {'faults':>6} {'seeds':>6} {'time':>9}"
        print(f"{head}  {'found by':<16} {'in':<18} what it says")
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        try:
            for outcome in outcomes(
                [*bugs, *controls(bugs)], Path(name).resolve(), arguments.jobs, look, everything=arguments.unit
            ):
                tell(outcome, as_json=arguments.json)
                if outcome.bug.patch is None:
                    clean = clean and not outcome.caught and not outcome.violation.startswith(("a run", "the worker"))
                else:
                    (caught if outcome.caught else missed).append(outcome.bug.name)
        except DoesNotApply as error:
            print(error, file=sys.stderr)
            return 2
    result = {
        "event": "result",
        "planted": len(bugs),
        "caught": len(caught),
        "missed": missed,
        "several_faults": sum(bug.faults > 1 for bug in bugs),
        CONTROL: "clean" if clean else "VIOLATED",
        "seconds": round(perf_counter() - began, 1),
    }
    if arguments.json:
        print(json.dumps(result), flush=True)
    else:
        print(
            f"{len(caught)} of {len(bugs)} caught; missed: {', '.join(missed) or 'none'}; control {result['control']}"
        )
    if arguments.unit:
        return 0 if not caught and clean else 1
    return 0 if clean and len(missed) * MISSED_MAX <= len(bugs) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]), sys.argv[5:])
    else:
        sys.exit(main())
