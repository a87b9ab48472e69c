"""A world that remembers what happened in it, for whoever tells the story of a run (`bftkit.sim.story`).

It changes nothing: the same plan gives the same run, and the same digest, in this world as in any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from bftkit.channel.frames import ANSWER, ASK, BUNDLE, REPLY
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Plugin
from bftkit.sim.actors import Actor
from bftkit.sim.host import Event, FromMember, Host
from bftkit.sim.turning import Standing, standing_of, steps
from bftkit.sim.wording import Wording
from bftkit.sim.world import AnyActor, World

CRASH: Final = "crash"
RETURN: Final = "return"
NOTE: Final = "note"
VIEW: Final = "view"
DECIDED: Final = "decided"
ASKED: Final = "asked"
TOLD: Final = "told"
ANSWERED: Final = "answered"
STEP: Final = "step"
"""Towards another epoch."""
_ASKED: Final = (bytes((BUNDLE,)), bytes((ASK,)))
_ANSWERED: Final = (bytes((REPLY,)), bytes((ANSWER,)))


@attrs.define(eq=False)
class Said:
    """A frame that a member sent to others."""

    at_us: int
    sender: str
    receivers: tuple[MemberId, ...]
    frame: bytes
    heard: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """When each receiver first read these bytes of this sender, in µs."""


@attrs.frozen
class Happened:
    """Something else that is worth remembering."""

    at_us: int
    kind: str
    who: str
    text: str
    slot: int = 0
    digest: bytes = b""
    operation: bytes = b""


class WatchedWorld(World):
    """See the top of this file."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.said: list[Said] = []
        self.happened: list[Happened] = []
        self._last_said: dict[tuple[str, bytes], Said] = {}
        self._seen: dict[Host, tuple[int, int, str | None]] = {}
        self._standing: dict[Host, Standing] = {}
        self._asked: set[bytes] = set()
        self._names_by_public: dict[bytes, str] = {}
        super().__init__(*given, **named)
        self.wording = Wording(self.issuer.template.plugin, self._names_by_public, self._plugin_of)
        self.inputs.append(self._on_input)

    def _plugin_of(self, epoch: int) -> Plugin | None:
        """The protocol of an epoch, as far as the world has seen it begin."""
        return next((era.settings.plugin for era in self.chain.eras if era.epoch == epoch), None)

    def name_of(self, host: Host) -> str:
        """The member's name; a twin's second copy has a mark behind it."""
        return host.me if self.hosts.get(host.me, host) is host else f"{host.me}'"

    def join_as(self, name: str, kind: type[AnyActor]) -> AnyActor:
        """As any world."""
        actor = super().join_as(name, kind)
        self._names_by_public[actor.public] = name
        return actor

    def note(self, member: str, text: str) -> None:
        """Remembers it."""
        super().note(member, text)
        self.happened.append(Happened(self.now_us, NOTE, member, text))

    def send(self, host: Host, receivers: Iterable[MemberId], frame: bytes) -> None:
        """Remembers the frame."""
        chosen = tuple(receivers)
        said = Said(self.now_us, self.name_of(host), chosen, frame)
        self.said.append(said)
        self._last_said[host.me, frame] = said
        super().send(host, chosen, frame)

    def _on_input(self, member: MemberId, event: Event) -> None:
        if isinstance(event, FromMember):
            said = self._last_said.get((event.sender, event.frame))
            if said is not None:
                said.heard.setdefault(member, self.now_us)

    def stop_host(self, host: Host, *, power: bool) -> None:
        """Remembers what the member knew."""
        replica, directory = host.replica, host.disk.directory
        before = directory.bytes_used
        slots, view = (replica.applied, replica.machine.view) if replica is not None else (0, 0)
        super().stop_host(host, power=power)
        lost = before - directory.bytes_used
        what = f"{'loses power' if power else 'is killed'} in view {view}, with all slots up to {slots} executed"
        if lost > 0:
            what += f"; {lost} bytes were not synced and are gone"
        self._seen.pop(host, None)
        self._standing.pop(host, None)
        self.happened.append(Happened(self.now_us, CRASH, self.name_of(host), what))

    def _start(self, host: Host) -> None:
        super()._start(host)
        replica = host.replica
        if self.now_us == 0:
            return
        if replica is None:
            text = f"cannot start: {host.broken_disk}"
        else:
            text = f"is back in view {replica.machine.view}, with all slots up to {replica.applied} executed"
            standing = standing_of(replica)
            if standing is not None:
                self._standing[host] = standing
                if standing.configuration.epoch:
                    text += f", in epoch {standing.configuration.epoch} of {standing.configuration.protocol}"
            if replica.silent:
                text += ", and knows that it has forgotten what it said"
        self.happened.append(Happened(self.now_us, RETURN, self.name_of(host), text))

    def check_step(self, host: Host) -> None:
        """Remembers decisions and views."""
        replica = host.replica
        if replica is not None:
            name, now, machine = self.name_of(host), self.now_us, replica.machine
            applied, view, leader = self._seen.get(host, (replica.checkpoints.stable, 0, machine.leader))
            for slot in range(applied + 1, replica.applied + 1):
                batch = replica.history.get(slot)
                if batch is not None:
                    self.happened.append(Happened(now, DECIDED, name, f"executes slot {slot}", slot, batch))
            standing = standing_of(replica)
            if standing is not None:
                for step in steps(self._standing.get(host), standing):
                    self.happened.append(Happened(now, STEP, name, step))
                self._standing[host] = standing
            if machine.view != view and not replica.proposer.everybody:
                told = f"enters view {machine.view}" + (f", led by {machine.leader}" if machine.leader else "")
                self.happened.append(Happened(now, VIEW, name, told))
            self._seen[host] = (max(applied, replica.applied), machine.view, leader)
        super().check_step(host)

    def carry_from_client(self, actor: Actor, member: MemberId, frame: bytes) -> None:
        """Remembers what a client asks for, the first time."""
        if frame[:1] in _ASKED and frame not in self._asked:
            self._asked.add(frame)
            read = self.wording.read(frame)
            self.happened.append(Happened(self.now_us, ASKED, actor.name, read.text, operation=frame))
        super().carry_from_client(actor, member, frame)

    def carry_to_client(self, host: Host, client: bytes, frame: bytes) -> None:
        """Remembers what the member answers."""
        if frame[:1] in _ANSWERED:
            read = self.wording.read(frame)
            if read.name != "LinkProof":
                text = f"answers {self.wording.client(client)}: {read.text}"
                slot = min(read.slots, default=0)
                self.happened.append(Happened(self.now_us, ANSWERED, self.name_of(host), text, slot, operation=frame))
        super().carry_to_client(host, client, frame)

    def _arrive_at_client(
        self, pair: tuple[str, MemberId], connection: int, actor: Actor, packet: int, frame: bytes
    ) -> None:
        recorder = self.recorder
        acknowledged, reads = len(recorder.acknowledgements), len(recorder.strong_reads)
        super()._arrive_at_client(pair, connection, actor, packet, frame)
        for told in recorder.acknowledgements[acknowledged:]:
            name = self.wording.client(told.client)
            text = f"is told that its operation ran at {told.place}"
            self.happened.append(Happened(self.now_us, TOLD, name, text, told.place[0], operation=told.operation))
        for read in recorder.strong_reads[reads:]:
            self.happened.append(
                Happened(
                    self.now_us,
                    TOLD,
                    self.wording.client(read.client),
                    f"is told {read.result[:40]!r} by a strong read",
                    operation=read.operation,
                )
            )
