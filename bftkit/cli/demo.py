"""`bftkit demo`: a replicated service that survives crashes and liars, before your eyes.

A temporary group of separate processes on loopback, over encrypted TCP, with real disks. While clients work on its
key-value service, its leader is killed (or, where nobody leads, the first member), one member lies, and the power of
all members is cut at once: as far as the protocol claims to survive it. At the end all that was acknowledged must be
there, exactly once, in an order that explains every answer. With `--switch` the group changes its protocol and its
members meanwhile (`demo_switch`); with `--policy` it does so by itself (`demo_policy`).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Final

import trio
from cyclopts import Parameter

from bftkit.cli.app import CommandFailed, ExitCode, protocol_named
from bftkit.cli.demo_policy import MEMBERS, PROTOCOL, SECONDS, PolicyDemo
from bftkit.cli.demo_run import Demo
from bftkit.cli.demo_switch import FOUNDERS, FROM, SwitchDemo
from bftkit.cli.ending import uninterrupted
from bftkit.cli.needs import Founding
from bftkit.cli.quiet import found_group
from bftkit.node.processes import ProcessGroup

CHECKPOINT_INTERVAL: Final = 64


async def demo(
    *,
    members: Annotated[
        int | None, Parameter(help="How many members. Default: as few as survive one faulty one under the protocol.")
    ] = None,
    protocol: Annotated[str | None, Parameter(help="The ordering protocol. Default: pbft.")] = None,
    switch: Annotated[
        bool,
        Parameter(
            help="Change the protocol and the members while the load runs: seven changes, one of them by force. In the "
            "result, pause_ms_max is the longest pause of the planned ones, forced_pause_ms_max that of the other.",
            negative="",
        ),
    ] = False,
    policy: Annotated[
        str | None,
        Parameter(help="Let the group change its protocol by itself, by this policy: slow its leader, and watch."),
    ] = None,
    seconds: Annotated[
        float | None, Parameter(help="How long the load runs, faults included. Default: 20, with --policy 40.")
    ] = None,
    clients: Annotated[int, Parameter(help="How many clients work at the same time (at least 4).")] = 4,
    keep: Annotated[bool, Parameter(help="Keep the group running at the end, until Ctrl-C.", negative="")] = False,
) -> ExitCode:
    """Run a group with faults and show that nothing is lost."""
    if switch and (members is not None or protocol is not None):
        raise CommandFailed(ExitCode.USAGE, f"--switch begins with {FROM} on {FOUNDERS} members; say neither of them")
    if policy is not None and (switch or members is not None or protocol is not None):
        raise CommandFailed(ExitCode.USAGE, f"--policy begins with {PROTOCOL} on {MEMBERS} members; say nothing else")
    if seconds is None:
        seconds = SECONDS if policy is not None else 20.0
    protocol = protocol or (FROM if switch else PROTOCOL)
    record = protocol_named(protocol)
    least = record.members_needed(1) if record.byzantine else record.members_needed(0, 1)
    members = least if members is None else members
    if members < least:
        raise CommandFailed(ExitCode.USAGE, f"--members {members}: with faults to survive, {protocol} needs {least}")
    if seconds < 4:
        raise CommandFailed(ExitCode.USAGE, f"--seconds {seconds}: all faults together need at least 4 seconds")
    if clients < 4:
        raise CommandFailed(ExitCode.USAGE, f"--clients {clients}: at least 4 show something")
    directory = Path(tempfile.mkdtemp(prefix="bftkit-demo-"))
    try:
        found_group(
            directory / "group",
            members=members,
            protocol=protocol,
            checkpoint_interval=CHECKPOINT_INTERVAL,
            name="demo",
            **({} if policy is None else {"needed": Founding(policy=policy)}),
        )
        group = ProcessGroup(directory / "group")
        try:
            kind = SwitchDemo if switch else Demo if policy is None else PolicyDemo
            return await kind(group, record, seconds, clients, keep).run()
        finally:
            with uninterrupted(), trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(group.stop)
    finally:
        with uninterrupted():
            shutil.rmtree(directory, ignore_errors=True)
