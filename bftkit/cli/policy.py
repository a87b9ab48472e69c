"""`bftkit policy`: by what the members change their protocol themselves, what they decided so far, and why.

What the members decide is part of their replicated state, so all of them tell the same; what is shown here is what
f + 1 of them tell, which no f liars can. That a decision was carried out stands in the chain of hand-overs, which is
verified from the genesis on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, cast

from cyclopts import App, Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.change import How, Known, change_group, connected
from bftkit.cli.client import DEFAULT_FOLDER, FolderOption, TimeoutOption
from bftkit.cli.needs import (
    NOTHING,
    ReasonOption,
    policy_in_full,
    policy_in_words,
    policy_named,
    printable,
    show_table,
    tell_choice,
)
from bftkit.cli.qos import check_reason, chosen
from bftkit.cli.switch import NOW, AtOption, settings_of
from bftkit.configuration.manager import MANUAL, wish_for
from bftkit.configuration.policy import Policy
from bftkit.configuration.shelf import BrokenPolicy, check_parameters, filled, load_policy, parameters_of, policy_names
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import MemberId
from bftkit.membership.epochs import Configuration
from bftkit.membership.wishes import Wish

app = App(name="policy", help="See and change by what the members change their protocol themselves.")

SetOption = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        help="A parameter of the policy, as name=number; may be repeated. See: bftkit policy list.",
        negative="",
        consume_multiple=True,
    ),
]


@app.command(name="list")
def list_() -> None:
    """The policies that are installed here, and their parameters."""
    for name in policy_names():
        try:
            record = load_policy(name).record
        except BrokenPolicy as error:
            output().log(f"bftkit: {error}")
            continue
        parameters = {
            one: {"default": p.default, "minimum": p.minimum, "maximum": p.maximum, "meaning": p.meaning}
            for one, p in sorted(parameters_of(record).items())
        }
        output().event("policy", name=name, title=record.title, when=record.when, parameters=parameters)
        output().plain(f"{name}: {record.title}. {record.when}")
        for one, parameter in sorted(record.parameters.items()):
            output().plain(f"    {one} = {parameter.default}: {parameter.meaning}")


@app.command
async def show(*, client: FolderOption = DEFAULT_FOLDER, timeout: TimeoutOption = 10.0) -> None:
    """The policy in force, the conditions that the members see, and what they wait for."""
    async with connected(client, timeout) as (connection, known):
        statuses = await connection.status(timeout=min(timeout, 2.0))
    here = known.here
    policy = here.policy if here.policy is not None else Policy(MANUAL)
    mode = policy.mode_of(here.protocol, here.parameters)
    now = {name: agreed(statuses, here, name) for name in ("mode", "conditions", "wish", "streak", "waits", "stall_ms")}
    output().event(
        "policy",
        epoch=here.epoch,
        protocol=here.protocol,
        policy=policy_in_full(policy) | {"parameters": _parameters(policy)},
        mode=mode,
        now=now,
        answered=sorted(statuses),
    )
    for line in policy_in_words(policy):
        output().plain(line)
    if not policy.modes:
        return
    place = f"mode {mode + 1} of {len(policy.modes)}" if mode is not None else "none of its modes"
    output().plain(f"Epoch {here.epoch} runs {here.protocol}, {place}.")
    if now["waits"] is None:
        output().plain(f"What it sees now is not told alike by {here.quorum.weak} members; ask again.")
        return
    _show_now(now)


def _parameters(policy: Policy) -> dict[str, int]:
    """With defaults, as far as the policy is installed here."""
    if policy.name not in policy_names():
        return dict(policy.parameters)
    try:
        return filled(load_policy(policy.name).record, policy)
    except BrokenPolicy:
        return dict(policy.parameters)


def _show_now(now: Mapping[str, Any]) -> None:
    match now["conditions"]:
        case {**conditions} if conditions:
            output().plain("\nThe members' medians in the last window:")
            show_table(("", ""), [(printable(name), printable(value)) for name, value in conditions.items()])
        case _:
            output().plain("\nNothing was measured yet.")
    match now["wish"]:
        case {"reason": reason}:
            output().plain(f"It says: {printable(reason)}.")
        case _:
            pass
    output().plain(f"It waits: {printable(now['waits'])}.")


@app.command(name="set")
async def set_(
    name: Annotated[str, Parameter(help='The policy, such as "steady"; "manual" ends what there is.')],
    /,
    *,
    set_: SetOption = (),
    reason: ReasonOption = "",
    at: AtOption = 0,
    how: How = NOW,
) -> ExitCode:
    """Change by what the members change their protocol themselves.

    What is needed of the group stays as it is; the policy gets protocols that meet it.
    """
    record = policy_named(name).record
    check_reason(reason)
    parameters = settings_of(set_)
    try:
        check_parameters(record, Policy(record.name, parameters=parameters))
    except ConfigurationError as error:
        raise CommandFailed(ExitCode.USAGE, f"--set: {error}") from None

    def make(known: Known) -> Wish:
        choice = chosen(known, NOTHING, name, parameters=parameters if set_ else None)
        tell_choice(choice)
        output().plain("")
        return wish_for(choice, known.here, reason or f"policy {name}: {choice.summary}", at)

    return await change_group(make, how)


@app.command
async def history(*, client: FolderOption = DEFAULT_FOLDER, timeout: TimeoutOption = 10.0) -> None:
    """What the members decided by themselves, and why; and which hand-overs came of it."""
    async with connected(client, timeout) as (connection, known):
        statuses = await connection.status(timeout=min(timeout, 2.0))
    here, rows = known.here, list[tuple[str, ...]]()
    before = known.folder.genesis.protocol
    for link in known.links:
        command, next_ = link.signed.command, link.next
        if link.cause == "policy":
            output().event(
                "hand-over",
                epoch=next_.epoch,
                after_slot=link.ending.slot,
                kind=link.kind,
                reason=command.reason,
                **{"from": before, "to": next_.protocol},
            )
            slot = f"{link.ending.slot:,}"
            rows.append((str(next_.epoch), slot, link.kind, before, next_.protocol, printable(command.reason)))
        before = next_.protocol
    decisions = agreed(statuses, here, "decisions")
    told = cast("list[dict[str, Any]]", decisions) if isinstance(decisions, list) else []
    for decision in told:
        output().event("decision", **decision)
    output().event(
        "policy-history", hand_overs=len(rows), decisions=len(told), agreed=decisions is not None, verified=True
    )
    if output().json:
        return
    if rows:
        show_table(("epoch", "after slot", "", "from", "to", "why"), rows)
    else:
        output().plain("No hand-over was caused by a policy; every link was verified from the genesis on.")
    if here.policy is None:
        return  # decisions are part of a policy's state; without one no member has any to tell
    if decisions is None:
        output().plain(f"\nWhat was decided is not told alike by {here.quorum.weak} members; ask again.")
    elif told:
        output().plain(f"\nDecisions, as {here.quorum.weak} members and more tell them:")
        names = ("epoch", "slot", "from", "to", "forced", "reason")
        show_table(names, [[printable(one.get(name, "-")) for name in names] for one in told])


def agreed(statuses: Mapping[MemberId, Mapping[str, Any]], here: Configuration, name: str) -> Any:
    """What f + 1 members of the epoch or more say of their policy under this name; None if too few say the same."""
    said: dict[str, list[MemberId]] = {}
    for member in sorted(set(statuses) & set(here.members)):
        status = statuses[member]
        match status.get("policy"):
            case {**policy} if status.get("epoch") == here.epoch and name in policy:
                said.setdefault(json.dumps(policy[name], sort_keys=True), []).append(member)
            case _:
                pass
    best = max(sorted(said), key=lambda text: len(said[text]), default=None)
    if best is None or len(said[best]) < here.quorum.weak:
        return None
    return json.loads(best)
