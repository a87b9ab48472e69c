"""A failing run in a file: its plan, and what came of it, so that anybody can run it again and see whether it is equal.

A file is one JSON object. The plan decides the run; the rest says what to expect. A bare plan (`Plan.to_json`) is read
as well, and then nothing is expected.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import attrs

from bftkit.sim.plan import Plan, PlanError, plan_data, plan_from_data
from bftkit.sim.running import Result

FORMAT: Final = 1
MARK: Final = "bftkit_trace"
BYTES_MAX: Final = 16 << 20
_TEXTS: Final = ("oracle", "violation", "digest", "python", "version")


class TraceError(ValueError):
    """The file is no trace that can be read. The text says which, and why."""


@attrs.frozen(kw_only=True)
class Trace:
    """What such a file says."""

    plan: Plan
    oracle: str = ""
    violation: str = ""
    digest: str = ""
    """Of everything that happened; empty if the file does not say."""
    python: str = ""
    """Which version of Python ran it."""
    version: str = ""
    """Which version of bftkit."""


def save_trace(path: Path, result: Result) -> None:
    """Write a run down. Raises `OSError`."""
    data = {
        MARK: FORMAT,
        "plan": plan_data(result.plan),
        "oracle": result.oracle,
        "violation": result.violation,
        "digest": result.digest,
        "python": platform.python_version(),
        "version": version("bftkit"),
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load_trace(path: Path) -> Trace:
    """Read what `save_trace` wrote, or a bare plan. Raises `TraceError`, and `OSError` if there is no such file."""
    if path.stat().st_size > BYTES_MAX:
        raise TraceError(f"{path}: too large for a trace: more than {BYTES_MAX >> 20} MiB")
    try:
        loaded: object = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise TraceError(f"{path}: this is no text, so it is no trace") from None
    except json.JSONDecodeError as error:
        raise TraceError(f"{path}: this is no JSON, or not all of it: {error}") from None
    except RecursionError:
        raise TraceError(f"{path}: this is no trace: it is nested too deeply") from None
    except ValueError as error:  # such as a number of thousands of digits
        raise TraceError(f"{path}: this is no trace: {error}") from None
    if not isinstance(loaded, dict):
        raise TraceError(f"{path}: a trace is one JSON object with the key {MARK!r}")
    data = cast("dict[str, Any]", loaded)
    if MARK not in data:
        try:
            return Trace(plan=plan_from_data(data))
        except PlanError as error:
            raise TraceError(f"{path}: neither a trace (no key {MARK!r}) nor a plan: {error}") from None
    if data[MARK] != FORMAT:
        raise TraceError(f"{path}: a trace of format {data[MARK]!r}; this version of bftkit reads format {FORMAT}")
    if "plan" not in data:
        raise TraceError(f"{path}: the trace has no plan")
    try:
        plan = plan_from_data(data["plan"])
    except PlanError as error:
        raise TraceError(f"{path}: its plan cannot be read: {error}") from None
    texts: dict[str, str] = {}
    for name in _TEXTS:
        value: object = data.get(name, "")
        if not isinstance(value, str):
            raise TraceError(f"{path}: {name} is not a text")
        texts[name] = value
    return Trace(plan=plan, **texts)
