"""`bftkit node run`: one member as a process."""

from __future__ import annotations

import gc
import logging
import signal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import trio
from cyclopts import App, Parameter

from bftkit.cli.app import output
from bftkit.cli.supervision import notify
from bftkit.node.assembly import Member, assemble, load_adversary
from bftkit.node.folders import MemberFolder, read_member
from bftkit.node.node import Node

if TYPE_CHECKING:
    from bftkit.admin.serving import Admin

app = App(name="node", help="Run a member.")


@app.command
async def run(
    folder: Annotated[Path, Parameter(help="The member's folder, as `bftkit init` made it.")],
    /,
    *,
    adversary: Annotated[
        str | None,
        Parameter(help='Make this member a liar, for fault injection: such as "silent", or "package.module:Class".'),
    ] = None,
) -> None:
    """Run a member until SIGTERM or SIGINT, or until it was taken out of the group and nobody needs it any more."""
    found = read_member(folder)
    logging.basicConfig(level=found.settings.log.level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    if found.settings.admin is not None:
        import_module("bftkit.admin.serving")  # now, so that it is among what the collector passes over
    # What is loaded stays: the collector need not look through it again and again. Rounds leave few cycles behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    member = assemble(found, adversary=load_adversary(adversary) if adversary else None)
    admin = _open_admin(found, member)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(member.node.run, member.restored)
            if admin is not None:
                await nursery.start(admin.serve)
            told = {"admin": admin.url} if admin is not None else {}
            output().event("ready", member=found.settings.id, address=str(member.address), **told)
            output().show(f"{found.settings.id} runs at {member.address}; stop it with SIGTERM or Ctrl-C")
            if admin is not None:
                output().show(f"its HTTP interface is at {admin.url}")
            notify("READY=1", f"STATUS={found.settings.id} runs at {member.address}")
            async with trio.open_nursery() as waiting:
                waiting.start_soon(_await_release, member.node, waiting.cancel_scope)
                async for _ in signals:
                    break
                waiting.cancel_scope.cancel()
            if member.node.released.is_set():
                output().event("removed", member=found.settings.id)
                output().show(
                    f"{found.settings.id} was taken out of the group, which goes on without it: it ends. "
                    "Its folder is of no use to the group any more"
                )
            notify("STOPPING=1")
            if admin is not None:
                admin.stop()
            member.node.stop()


async def _await_release(node: Node, waiting: trio.CancelScope) -> None:
    await node.released.wait()
    waiting.cancel()


def _open_admin(found: MemberFolder, member: Member) -> Admin | None:
    """The member's HTTP interface, if its settings ask for one. The member is closed if it cannot be opened."""
    settings = found.settings.admin
    if settings is None:
        return None
    from bftkit.admin.serving import open_admin  # half a second that members without one need not spend

    try:
        return open_admin(member.node, found.genesis, settings, found.path)
    except BaseException:
        member.node.close()
        raise
