"""`bftkit log verify`: whether what a member promised is still readable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.node.folders import MEMBER_FILE, read_settings
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.log import verify as verify_log

app = App(name="log", help="Examine a member's log.")


@app.command
def verify(
    folder: Annotated[Path, Parameter(help="A member's folder, or the folder of a log.")],
    /,
) -> ExitCode:
    """Read a member's log from end to end and check every record. Nothing is changed; the member may be running.

    A torn end is what a crash leaves behind: it holds nothing that was ever acknowledged, and the member cuts it off
    when it starts. Corruption is not: the member then refuses to vote until it has the state from its group.
    """
    where = folder
    if (folder / MEMBER_FILE).exists():
        where = folder / read_settings(folder).data / "log"
    elif not folder.is_dir():
        raise CommandFailed(ExitCode.BAD_CONFIGURATION, f"{folder}: there is no such folder")
    report = verify_log(DiskDirectory(where))
    out, problem = output(), report.problem
    out.event(
        "log",
        folder=str(where),
        ok=problem is None,
        segments=report.segments,
        records=report.records,
        bytes=report.bytes,
        torn_bytes=report.torn_bytes,
        problem=problem,
    )
    if problem is None:
        out.plain(f"{where}: {report.records} records in {report.segments} segments, {report.bytes} bytes")
    if report.torn_bytes:
        out.plain(f"  torn end of {report.torn_bytes} bytes: nothing acknowledged is in it, the next start cuts it off")
    if problem is None:
        out.plain("  every record is good")
        return ExitCode.OK
    place = f"segment {problem.segment}, byte {problem.offset}"
    out.error(ExitCode.FAILED, f"{where}: corrupt at {place}: {problem.reason}")
    return ExitCode.FAILED
