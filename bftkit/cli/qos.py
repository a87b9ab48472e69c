"""`bftkit qos`: say what is needed, see what that leads to, change it while the service runs.

Needs are part of a group's configuration, so to change them is a planned change like any other, signed by operators,
even if it leads to the protocol that runs already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from cyclopts import App, Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output, protocol_named
from bftkit.cli.change import How, Known, change_group, connected
from bftkit.cli.client import DEFAULT_FOLDER, FolderOption, TimeoutOption
from bftkit.cli.needs import (
    NOTHING,
    Needs,
    PolicyOption,
    ReasonOption,
    accepted,
    policy_named,
    records,
    tell_choice,
    tell_refusal,
)
from bftkit.cli.switch import NOW, AtOption
from bftkit.configuration.manager import Choice, Refusal, choose, founded_without_disk, present_needs, wish_for
from bftkit.configuration.needs import qos_table
from bftkit.configuration.policy import REASON_MAX
from bftkit.configuration.qos import QoS
from bftkit.core.plugin import load_protocol
from bftkit.membership.roster import MEMBERS_MAX
from bftkit.membership.wishes import Wish

app = App(name="qos", help="Say what is needed of the group, see what it leads to, change it.")

ProtocolOption = Annotated[
    str | None, Parameter(help="Insist on this protocol, if it meets the needs. Default: the least costly that does.")
]
MembersOption = Annotated[
    int | None, Parameter(help="Ask for a group that is not founded yet, of so many members. Default: ask a group.")
]


@app.command
async def show(*, client: FolderOption = DEFAULT_FOLDER, timeout: TimeoutOption = 10.0) -> None:
    """What is needed of the group now, and what that led to."""
    async with connected(client, timeout) as (_, known):
        pass
    needs = needs_of(known)
    stated = known.here.qos is not None
    output().event("qos", epoch=known.here.epoch, stated=stated, qos=qos_table(needs))
    name = known.folder.genesis.name
    if not stated:
        output().plain(f"Nobody has said what is needed of {name}; this is what it gives.")
    output().plain(f"{name} is in epoch {known.here.epoch} and runs {known.here.protocol}.\n")
    # With its own protocol: the group may run one that the manager would not choose, or that gives less.
    found = choose(needs, known.here.members, records(), known.here, protocol=known.here.protocol)
    if isinstance(found, Refusal):
        tell_refusal(found)
        output().plain(f"{known.here.protocol} alone does not give that: {found.text}")
    else:
        tell_choice(found)


@app.command
async def explain(
    *,
    needs: Needs = NOTHING,
    policy: PolicyOption = None,
    protocol: ProtocolOption = None,
    members: MembersOption = None,
    client: FolderOption = DEFAULT_FOLDER,
    timeout: TimeoutOption = 10.0,
) -> None:
    """What needs would lead to, in a group or in one that is not founded yet; nothing is changed."""
    _check_names(policy, protocol)
    if members is not None:
        if not 1 <= members <= MEMBERS_MAX:
            raise CommandFailed(ExitCode.USAGE, f"--members {members}: a group has 1 to {MEMBERS_MAX} members")
        ids = tuple(f"m{index}" for index in range(members))
        tell_choice(accepted(choose(needs.over(QoS()), ids, records(), None, policy, protocol=protocol)))
        return
    async with connected(client, timeout) as (_, known):
        pass
    tell_choice(chosen(known, needs, policy, protocol))


@app.command(name="set")
async def set_(
    *,
    needs: Needs = NOTHING,
    policy: PolicyOption = None,
    protocol: ProtocolOption = None,
    reason: ReasonOption = "",
    at: AtOption = 0,
    how: How = NOW,
) -> ExitCode:
    """Change what is needed of the group, and the group so that it gives that."""
    _check_names(policy, protocol)
    check_reason(reason)
    if not needs.given and policy is None and protocol is None:
        raise CommandFailed(ExitCode.USAGE, "nothing is named that should change, such as --byzantine 1")

    def make(known: Known) -> Wish:
        choice = chosen(known, needs, policy, protocol)
        tell_choice(choice)
        output().plain("")
        return wish_for(choice, known.here, reason, at)

    return await change_group(make, how)


def needs_of(known: Known) -> QoS:
    """What is needed of the group, or what it gives, if nobody said it."""
    return present_needs(known.here, known.folder.genesis.durability, load_protocol(known.here.protocol).record.timing)


def chosen(
    known: Known,
    needs: Needs,
    policy: str | None,
    protocol: str | None = None,
    parameters: Mapping[str, int] | None = None,
) -> Choice:
    """What the manager chooses for this group. Raises `CommandFailed`."""
    qos, here = needs.over(needs_of(known)), known.here
    without_disk = founded_without_disk(known.folder.genesis, here.roster.entries)
    found = choose(
        qos,
        here.members,
        records(),
        here,
        policy,
        protocol=protocol,
        parameters=parameters,
        without_disk=without_disk,
    )
    return accepted(found)


def check_reason(reason: str) -> None:
    """Raises `CommandFailed` for a reason that is too long for a command."""
    if len(reason) > REASON_MAX:
        raise CommandFailed(ExitCode.USAGE, f"--reason: {len(reason)} characters; at most {REASON_MAX}")


def _check_names(policy: str | None, protocol: str | None) -> None:
    if policy is not None:
        policy_named(policy)
    if protocol is not None:
        protocol_named(protocol)
