"""What `qos`, `policy` and `init` have in common: needs as options or as a file, and the manager's answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs
from cyclopts import Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.configuration.manager import Choice, Refusal, choose
from bftkit.configuration.needs import QoSTable, qos_from_table, qos_table
from bftkit.configuration.policy import REASON_MAX, Policy, PolicyAlgorithm
from bftkit.configuration.qos import QoS
from bftkit.configuration.shelf import UnknownPolicy, load_policy
from bftkit.configuration.text import ConfigurationError, parse_toml, structure
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import BrokenProtocol, load_protocol, protocol_names

PolicyOption = Annotated[
    str | None,
    Parameter(help='By what the members change their protocol themselves, such as "steady". Default: as now.'),
]
ReasonOption = Annotated[str, Parameter(help="Why; the group's history keeps it. Default: what was chosen.")]


@Parameter(name="*")
@attrs.frozen
class Needs:
    """Needs on the command line; what is not named stays as it is."""

    byzantine: Annotated[int | None, Parameter(help="How many members may lie.")] = None
    crash: Annotated[int | None, Parameter(help="How many more may only crash.")] = None
    replicas: Annotated[int | None, Parameter(help="How many members there must be; 0: all that are known.")] = None
    consistency: Annotated[
        Literal["strong", "best-effort"] | None,
        Parameter(help="Reads: linearizable, or from one member and marked as such."),
    ] = None
    order: Annotated[
        Literal["total", "causal", "fifo", "none"] | None, Parameter(help="How requests are ordered: total.")
    ] = None
    delivery: Annotated[
        Literal["exactly-once", "at-least-once", "best-effort"] | None,
        Parameter(help="How often a request is executed: exactly-once."),
    ] = None
    deadline_ms: Annotated[
        int | None, Parameter(help='Later than this (ms), a request is answered "too late"; 0: it may take any time.')
    ] = None
    durability: Annotated[
        Literal["fsync", "async", "memory"] | None, Parameter(help="What an acknowledged request survives.")
    ] = None
    network: Annotated[
        Literal["synchronous", "partial", "asynchronous"] | None,
        Parameter(help="The most that may be assumed of the network."),
    ] = None
    qos: Annotated[Path | None, Parameter(help="A TOML file with the needs (a table [qos]); options are stronger.")] = (
        None
    )

    @property
    def given(self) -> bool:
        """Whether anything is named."""
        return self != Needs()

    def over(self, before: QoS) -> QoS:
        """The needs with these changed. Raises `CommandFailed`, `ConfigurationError`, `OSError`."""
        if self.qos is not None:
            before = read_needs(self.qos)
        named: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in attrs.fields(QoS)
            if getattr(self, field.name) is not None
        }
        return typed(attrs.evolve(before, **named))


NOTHING: Final = Needs()


@Parameter(name="*")
@attrs.frozen
class Founding:
    """What is needed of a group that is to be founded, beside the options that `init` has anyway."""

    qos: Annotated[
        Path | None,
        Parameter(help="A TOML file with what is needed (a table [qos]): protocol and parameters are chosen for it."),
    ] = None
    network: Annotated[
        Literal["synchronous", "partial", "asynchronous"] | None,
        Parameter(help="The most that may be assumed of the network: the protocol is chosen for it."),
    ] = None
    deadline_ms: Annotated[
        int | None, Parameter(help='Later than this (ms), a request is answered "too late". Default: never.')
    ] = None
    consistency: Annotated[
        Literal["strong", "best-effort"] | None,
        Parameter(help="Reads: linearizable, or from one member and marked as such. Default: strong."),
    ] = None
    policy: Annotated[
        str | None,
        Parameter(help='By what the members change their protocol themselves, such as "steady". Default: never.'),
    ] = None

    @property
    def options(self) -> dict[str, bool]:
        """Which of the options are named."""
        return {
            f"--{field.name.replace('_', '-')}": getattr(self, field.name) is not None
            for field in attrs.fields(type(self))
        }

    @property
    def given(self) -> bool:
        """Whether anything is named: else a group states no needs."""
        return any(self.options.values())

    def needs(self, **named: Any) -> QoS:
        """The needs: of the file, with these options over it. `None` is not named. Raises as `Needs.over` does."""
        own = Needs(network=self.network, deadline_ms=self.deadline_ms, consistency=self.consistency, qos=self.qos)
        return attrs.evolve(own, **named).over(QoS())


NO_NEEDS: Final = Founding()


def founding_choice(qos: QoS, members: Sequence[str], policy: str | None, protocol: str | None) -> Choice:
    """The configuration for a group that is to be founded. Raises `CommandFailed`."""
    if policy is not None:
        policy_named(policy)
    return accepted(choose(qos, members, records(), None, policy, protocol=protocol))


def coin_record(choice: Choice) -> ProtocolRecord:
    """The record of the protocol that the coin key is for: one of the modes, or the chosen one."""
    names = (choice.protocol, *(mode.protocol for mode in choice.policy.modes))
    found = [load_protocol(name).record for name in names]
    return next((record for record in found if record.coins), found[0])


def read_needs(path: Path) -> QoS:
    """The needs that a file states. Raises `ConfigurationError`, `OSError`."""
    try:
        plain = parse_toml(path.read_text("utf-8"))
        return qos_from_table(structure(plain.get("qos", plain), QoSTable))
    except ConfigurationError as error:
        raise error.inside(str(path)) from None


def typed(qos: QoS) -> QoS:
    """The needs, if all values exist. Raises `CommandFailed`: they stand on the command line."""
    try:
        return qos_from_table(QoSTable(**attrs.asdict(qos)))
    except ConfigurationError as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


def policy_named(name: str) -> PolicyAlgorithm:
    """A policy that was named on the command line. Raises `CommandFailed` if there is none."""
    try:
        return load_policy(name)
    except UnknownPolicy as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


def records() -> tuple[ProtocolRecord, ...]:
    """What all installed protocols say of themselves. One that cannot be loaded is told and left out."""
    found: list[ProtocolRecord] = []
    for name in protocol_names():
        try:
            found.append(load_protocol(name).record)
        except BrokenProtocol as error:
            output().log(f"bftkit: {error}")
    return tuple(found)


def accepted(found: Choice | Refusal) -> Choice:
    """The choice. Raises `CommandFailed` for a refusal, after telling all of it."""
    if isinstance(found, Choice):
        return found
    tell_refusal(found)
    raise CommandFailed(ExitCode.REFUSED, f"this cannot be had: {found.text}")


def tell_refusal(found: Refusal) -> None:
    """For a program: which needs are not met, and why."""
    unmet = [{"field": one.field, "why": one.text} for one in found.unmet]
    output().event("refusal", qos=qos_table(found.qos), unmet=unmet)


def tell_choice(choice: Choice) -> None:
    """What was chosen, and why."""
    output().event(
        "choice",
        qos=qos_table(choice.qos),
        protocol=choice.protocol,
        parameters=dict(choice.parameters),
        members=list(choice.members),
        byzantine=choice.f,
        crash=choice.c,
        coin=choice.coin,
        policy=policy_in_full(choice.policy),
        because=[{"field": one.field, "value": one.value, "led_to": one.led_to} for one in choice.because],
        protocols=[{"protocol": one.protocol, "fits": one.fits, "why": one.text} for one in choice.protocols],
        notes=list(choice.notes),
    )
    if output().json:
        return
    output().plain(f"{choice.summary}\n")
    show_table(("need", "", "what it leads to"), [(one.field, one.value, one.led_to) for one in choice.because])
    output().plain("")
    rows: list[Sequence[str]] = []
    for index, verdict in enumerate(choice.protocols):
        rows.append((verdict.protocol, "chosen" if index == 0 else "fits" if verdict.fits else "no", verdict.text))
    show_table(("protocol", "", "why"), rows)
    if choice.policy.modes:
        output().plain("")
        for line in policy_in_words(choice.policy):
            output().plain(line)
    for note in choice.notes:
        output().plain(f"Note: {note}")


def printable(told: object) -> str:
    """What a member told, which may be anything: one line of characters that a terminal only shows."""
    text = told if isinstance(told, str) else f"{told:,}" if type(told) is int else str(told)
    return "".join(one for one in text[:REASON_MAX] if one.isprintable())


def show_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In text mode, a table of plain texts."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*map(escape, row))
    output().show(table)


def policy_in_full(policy: Policy) -> dict[str, Any]:
    """A policy as JSON has it."""
    return {
        "name": policy.name,
        "modes": [{"protocol": mode.protocol, "parameters": dict(mode.parameters)} for mode in policy.modes],
        "forced": policy.modes[policy.forced - 1].protocol if policy.forced else None,
        "stall_ms": policy.stall_ms,
        "parameters": dict(policy.parameters),
    }


def policy_in_words(policy: Policy) -> list[str]:
    """A policy for people."""
    if not policy.modes:
        return [f"Policy {policy.name}: the members change nothing by themselves."]
    modes = ", then ".join(mode.protocol for mode in policy.modes)
    told = [f"Policy {policy.name}: {modes}, from the least robust to the most."]
    if policy.forced:
        told.append(
            f"A protocol that decides nothing for {policy.stall_ms:,} ms while requests wait is left by force, for "
            f"{policy.modes[policy.forced - 1].protocol}."
        )
    if policy.parameters:
        told.append("Set: " + ", ".join(f"{name} = {value}" for name, value in sorted(policy.parameters.items())))
    return told
