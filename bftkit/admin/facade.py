"""A node as the HTTP interface sees it: what can be asked, and the one thing that can be done.

All of it runs in the node's own loop, between two rounds, and reads what the replica has anyway. What can be done is to
hand in an operators' command. It goes the way of a client's frame, so the replica judges it as it judges any other:
whether enough operators of this epoch signed it for this group and epoch (FAULTS 43 and 44). Nothing is signed here;
this process has no operator's key.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, cast

import trio

from bftkit.admin.events import Feed
from bftkit.admin.explaining import configuration_body, full_link_body, link_body, needs_in_words, pending_body
from bftkit.admin.models import (
    Checkpoint,
    CommandBody,
    EventsBody,
    EvidenceItem,
    EvidenceList,
    FullLink,
    GenesisBody,
    History,
    LogBody,
    MemberBody,
    MembersBody,
    MetricsBody,
    PolicyBody,
    PresentConfiguration,
    Proof,
    QosBody,
    State,
    Status,
)
from bftkit.admin.models import Event as EventModel
from bftkit.admin.refusals import Refused
from bftkit.admin.wish_models import Needs, PolicyTerms
from bftkit.channel import frames
from bftkit.channel.bundles import COMMAND, make_proved_bundle
from bftkit.configuration.text import ConfigurationError
from bftkit.core.wire import WireError
from bftkit.crypto.keys import verify_signature
from bftkit.membership.chain import ChainError, HandOver, Place, follow
from bftkit.membership.command_files import command_from_text
from bftkit.membership.commands import SignedCommand
from bftkit.membership.epochs import Configuration, Schedule
from bftkit.membership.genesis import Genesis
from bftkit.membership.verifiers import founding_place, roster_verifier
from bftkit.node.node import Node

STATES: Final[Mapping[int, State]] = {
    frames.UNKNOWN_COMMAND: "unknown",
    frames.TAKEN: "taken",
    frames.PREPARED: "prepared",
    frames.COMMITTED: "committed",
    frames.DONE: "done",
    frames.REFUSED: "refused",
}
LINKS_MAX: Final = 100
"""So many hand-overs are told at a time."""


class Facade:
    """One member, for its HTTP interface."""

    def __init__(self, node: Node, genesis: Genesis, feed: Feed) -> None:
        """`feed` is told of the node's events from now on."""
        self.node = node
        self.genesis = genesis
        self.feed = feed
        self.requests: Counter[tuple[str, int]] = Counter()
        """How many requests were answered, by route and status; `guard` counts them."""
        self._verified: list[Place] = [founding_place(genesis)]
        """The places of the chain that this process has checked, from the genesis on."""
        node.chronicle.listeners.append(feed.add)

    @property
    def group(self) -> bytes:
        """The group's id."""
        return self.genesis.group_id

    @property
    def here(self) -> Configuration:
        """The present configuration."""
        succession = self.node.replica.succession
        return succession.configuration if succession is not None else Configuration.first(self.genesis)

    @property
    def schedule(self) -> Schedule:
        """All members' public keys. Raises `Refused` for a group that never changes."""
        state = self.node.replica.state.reconfiguring
        if state is None:
            raise _never_changes()
        return state.schedule

    # ------------------------------------------------------------------------------------------ asking

    def status(self) -> Status:
        """How this member is."""
        return Status.model_validate(self.node.status())

    def configuration(self) -> PresentConfiguration:
        """What is in force, and what is under way."""
        replica = self.node.replica
        succession, state = replica.succession, replica.state.reconfiguring
        place = succession.place if succession is not None else founding_place(self.genesis)
        return PresentConfiguration(
            **configuration_body(place.configuration).model_dump(),
            opening=place.opening.hex(),
            pending=pending_body(state.pending if state is not None else None),
        )

    def genesis_body(self) -> GenesisBody:
        """The genesis."""
        return GenesisBody(group=self.group.hex(), name=self.genesis.name, text=self.genesis.to_text())

    async def history(self, first: int, most: int) -> History:
        """Hand-overs from the one that began the epoch `first` on."""
        links = self._links()
        epoch = self.here.epoch
        await self._verify(links)
        wanted = [number for number in range(max(1, first), epoch + 1) if number - 1 in links]
        told = wanted[: min(most, LINKS_MAX)]
        return History(
            group=self.group.hex(),
            epoch=epoch,
            links=[link_body(links[number - 1], verified=number < len(self._verified)) for number in told],
            next=wanted[len(told)] if len(wanted) > len(told) else None,
        )

    async def handover(self, epoch: int) -> FullLink:
        """The hand-over that began this epoch. Raises `Refused` if there is none here."""
        links = self._links()
        link = links.get(epoch - 1)
        if link is None:
            raise Refused(404, "this member has no hand-over that began that epoch", "epoch", f"1 to {self.here.epoch}")
        await self._verify(links)
        return full_link_body(link, verified=epoch < len(self._verified))

    def _links(self) -> Mapping[int, HandOver]:
        succession = self.node.replica.succession
        return dict(succession.links) if succession is not None else {}

    async def _verify(self, links: Mapping[int, HandOver]) -> None:
        """Check what is not checked yet. One after the other, and the node has its turns between."""
        places, verifiers = self._verified, roster_verifier(self.group)
        while (link := links.get(len(places) - 1)) is not None:
            count = len(places)
            try:
                place = follow(self.group, places[-1], link, verifiers, verify_signature)
            except ChainError:
                return
            await trio.lowlevel.checkpoint()
            if len(places) == count:  # another request may have checked it meanwhile
                places.append(place)

    def members(self) -> MembersBody:
        """Who is in the group."""
        node, here = self.node, self.here
        up, now = set(node.hub.up()), node.hub.clock()
        told: list[MemberBody] = []
        for entry in here.roster.entries:
            heard, peer = node.heard.get(entry.id), node.peers.get(entry.id)
            told.append(
                MemberBody(
                    id=entry.id,
                    me=entry.id == node.replica.me,
                    identity=entry.identity.hex(),
                    epoch_root=entry.epoch_root.hex(),
                    epochs_left=entry.epoch_count - 1 - here.epoch,
                    addresses=list(entry.addresses),
                    dialled=[str(address) for address in peer[1]] if peer is not None else [],
                    link=entry.id in up,
                    heard_ms=max(0, int((now - heard) * 1000)) if heard is not None else None,
                )
            )
        return MembersBody(epoch=here.epoch, members=told)

    def metrics(self) -> MetricsBody:
        """All numbers, by name."""
        status = self.node.status()
        values: dict[str, int | float] = {}
        for name, value in status.items():
            if isinstance(value, dict) and name in ("counters", "node", "network"):
                table = cast("dict[str, Any]", value)
                values |= {f"{name}.{inner}": one for inner, one in _numbers(table)}
        values |= dict(_numbers(status))
        values["links"] = len(status["links"])
        return MetricsBody(member=self.node.replica.me, epoch=self.here.epoch, values=dict(sorted(values.items())))

    def log(self) -> LogBody:
        """The log and the checkpoints."""
        log, replica = self.node.log, self.node.replica
        return LogBody(
            durability=log.durability.value,
            bytes=log.bytes_on_disk,
            segments=log.segments,
            applied=replica.applied,
            stable=replica.checkpoints.stable,
            checkpoints=[Checkpoint(slot=kept.slot, root=kept.root.hex()) for kept in replica.checkpoints.kept],
        )

    def evidence(self) -> EvidenceList:
        """The proofs that are kept."""
        proofs = self.node.proofs
        items: list[EvidenceItem] = []
        for name in proofs.names if proofs is not None else ():
            epoch, _, rest = name.partition("-")
            member, _, _ = rest.rpartition("-")
            if epoch.isdigit() and member:  # somebody may have put other files there
                items.append(EvidenceItem(name=name, epoch=int(epoch), member=member))
        return EvidenceList(evidence=items)

    async def proof(self, name: str) -> Proof:
        """One proof. Raises `Refused` if it is not kept here."""
        proofs = self.node.proofs
        missing = Refused(404, "this member keeps no proof of that name", "name", "a name that /v1/evidence lists")
        if proofs is None:
            raise missing
        try:
            found = await trio.to_thread.run_sync(proofs.read, name)
        except (KeyError, ConfigurationError):  # it may still be on its way to the disk
            raise missing from None
        return Proof(
            name=name,
            epoch=found.epoch,
            protocol=found.protocol,
            member=found.member,
            fault=found.fault,
            seen_by=found.seen_by,
            seen_ms=found.seen_ms,
            file=found.to_text(),
        )

    def qos(self) -> QosBody:
        """What is needed of the group."""
        return QosBody(qos=Needs.of(self.here.qos), explanation=needs_in_words(self.here, self.genesis.durability))

    def policy(self) -> PolicyBody:
        """By what the group changes itself."""
        state: Any = self.node.status().get("policy")
        told = cast("dict[str, Any]", state) if isinstance(state, dict) else None
        words: list[str] = []
        policy = self.here.policy
        if policy is None or not policy.modes:
            words.append("The members change nothing by themselves; operators do.")
        else:
            words.append(f"The policy {policy.name} chooses among {', '.join(mode.protocol for mode in policy.modes)}.")
            if policy.forced:
                words.append(
                    f"If the protocol decides nothing for {policy.stall_ms} ms while requests wait, members leave it "
                    f"by force for {policy.modes[policy.forced - 1].protocol}."
                )
        if told is not None and isinstance(told.get("waits"), str) and told["waits"]:
            words.append(told["waits"])
        return PolicyBody(policy=PolicyTerms.of(policy), state=told, explanation=words)

    def events(self, after: str | None, most: int) -> EventsBody:
        """What happened after the event with this id. Raises `Refused` for what is no id."""
        found = self.feed.after(self.feed.place_of(after), most)
        events = [EventModel.model_validate(one.told()) for one in found]
        return EventsBody(events=events, last=found[-1].id if found else after)

    # ------------------------------------------------------------------------------------------ commands

    def state_of(self, name: bytes) -> CommandBody:
        """What this member knows of a command."""
        if self.node.replica.succession is None:
            raise _never_changes()
        state, text = self.node.replica.orders.state_of(name)
        return CommandBody(name=name.hex(), state=STATES[state], text=text)

    async def take(self, signed: SignedCommand) -> tuple[int, CommandBody]:
        """Hand in a command; the HTTP status (200 if it was known, 202 if it is new), and what became of it so far.

        Raises `Refused` with the replica's reason.
        """
        replica = self.node.replica
        known = self.state_of(signed.name)
        frame = bytes((frames.BUNDLE,)) + make_proved_bundle(COMMAND, signed.name, signed.encode())
        if len(frame) - 1 > replica.limits.bundle_bytes:
            most = replica.limits.bundle_bytes
            raise Refused(413, "the command exceeds the group's limit for a bundle", "command", f"at most {most} bytes")
        if known.state == "done":
            return 200, known
        await self.node.take(frame)
        now = self.state_of(signed.name)
        if now.state == "refused":
            raise Refused(409, now.text, "command", "a command that enough operators signed for this group and epoch")
        return (202 if known.state in ("unknown", "refused") else 200), now


def read_command(*, command: str | None = None, file: str | None = None) -> SignedCommand:
    """The command in base64, or in a file's content; its signatures are not checked. Raises `Refused`."""
    try:
        if file is not None:
            return command_from_text(file)
        assert command is not None
        return SignedCommand.decode(base64.b64decode(command, validate=True))
    except ConfigurationError as error:
        raise Refused(422, error.wrong, f"file.{error.where}" if error.where else "file", error.suggestion) from None
    except (binascii.Error, WireError, ValueError) as error:
        raise Refused(422, f"it cannot be read: {error}", "command", "a signed command, in base64") from None


def _numbers(table: Mapping[str, Any]) -> list[tuple[str, int | float]]:
    return [(name, value) for name, value in table.items() if type(value) in (int, float)]


def _never_changes() -> Refused:
    return Refused(409, "this group's configuration never changes", "", "a group whose genesis lists its members' keys")
