"""Carrying out what a replica has decided in a round: records, frames, timers, checkpoints, epochs, draws.

One rule connects the effects: what was persisted is durable before anything that was to be sent later leaves (SAFETY
rule 5). So there is one pass over them, in their order, in which records only go to the log's buffer and frames only to
the hub's queues; then one sync, if anything to be sent came after a record; then one flush. A batch of a thousand
requests costs one of each.

The simulator has its own such interpreter, over a disk and links that it makes up: `bftkit.sim.interpreter`.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import trio

from bftkit.channel.frames import StatusAnswer, pack_answer
from bftkit.channel.interface import Entered, KeepSecret, Linked
from bftkit.channel.interface import Neighbours as NeighboursAre
from bftkit.channel.replica import (
    Cut,
    Halted,
    Jot,
    Replica,
    ReplicaOut,
    Rotate,
    Save,
    StatusAsked,
    ToClient,
)
from bftkit.core.machine import (
    Blame,
    Broadcast,
    CancelTimer,
    Deliver,
    Draw,
    DrawSecret,
    Out,
    Persist,
    Send,
    SetTimer,
)
from bftkit.membership.roster import RosterEntry
from bftkit.network.hub import Hub, Peer
from bftkit.node.blames import Blames
from bftkit.node.chronicle import Chronicle
from bftkit.node.disk import CheckpointSaver, LogKeeper
from bftkit.node.status import NodeCounters
from bftkit.node.succession import Succession
from bftkit.node.timers import Timers

logger = logging.getLogger("bftkit.node")

Seldom: TypeAlias = StatusAsked | Save | Rotate | Cut | Halted | Linked | NeighboursAre | Entered | KeepSecret
"""What a replica asks for once in some thousand requests, or once in an epoch."""


@attrs.define(eq=False, kw_only=True)
class Interpreter:
    """Carries out the effects of one member's replica, with the parts of its node that each kind concerns."""

    replica: Replica
    hub: Hub
    keeper: LogKeeper
    timers: Timers
    saver: CheckpointSaver
    succession: Succession
    blames: Blames
    chronicle: Chronicle
    counters: NodeCounters
    status: Callable[[], dict[str, Any]]
    """What a client is told that asks how this member is."""
    follow: Callable[[tuple[RosterEntry, ...]], None]
    """Has links with these members from now on."""
    release: Callable[[], None]
    """Nobody needs this member's process any more."""
    _gated: bool = False
    """Whether there are records that must be durable before anything else leaves."""
    _status_text: str | None = None
    """What was told in this round of how this member is."""

    async def carry_out(self, out: ReplicaOut, nursery: trio.Nursery) -> None:
        """Carry out a round's effects; `nursery` is for what takes longer than a round may.

        Raises `StoppedInRound`, `StorageFailed`: then nothing of it has left.
        """
        effects = out.effects
        if not effects:
            self.hub.flush()
            return
        hub, log, send = self.hub, self.keeper.log, self.send
        others = self.replica.others
        drawn: list[Draw | DrawSecret] = []
        self._status_text = None
        appended = False
        gate = False
        for effect in effects:
            match effect:
                case Broadcast(frame):
                    gate = gate or self._gated
                    for member in others:
                        send(member, frame)
                case Send(to, frame):
                    gate = gate or self._gated
                    for member in to:
                        send(member, frame)
                case Persist(record, slot):
                    log.append(record, slot)
                    self._gated = appended = True
                case Deliver(output):
                    match output:
                        case ToClient(client, frame):
                            gate = gate or self._gated
                            if hub.is_up(client):
                                send(client, frame)
                        case Jot(record, slot):
                            log.append(record, slot)
                            appended = True
                        case _:
                            await self._carry_out_seldom(output, nursery)
                case SetTimer(key, ticks):
                    self.timers.set(key, hub.clock() + ticks / 1000)
                case CancelTimer(key):
                    self.timers.cancel(key)
                case Draw() | DrawSecret():
                    drawn.append(effect)
                case Blame(member, fault, proof):
                    self.blames.blame(member, fault, proof)
        if gate:
            await self.keeper.sync()
            self._gated = False
        await self.succession.settle_new_keys()
        hub.flush()
        if appended:
            self.keeper.appended()
        if log.full:
            await self.keeper.rotate(self.replica.standing())
        if drawn:
            await self._draw(drawn, nursery)

    def send(self, peer: Peer, frame: bytes) -> None:
        """Queue a frame, until the next flush."""
        # Bounds in the channel keep frames below the hub's. Should one exceed them, it is lost and this member is not.
        if len(frame) > self.hub.limits.frame_bytes or not self.hub.send(peer, frame):
            self.counters.dropped_frames += 1

    async def _carry_out_seldom(self, output: Seldom, nursery: trio.Nursery) -> None:
        match output:
            case Rotate(standing):
                await self.succession.keep_links()  # the log may be about to lose the only copy of a link
                await self.keeper.rotate(standing)
                await self.keeper.suit(self.replica.settings.place)
                self._gated = False
            case Cut(slot):
                self.keeper.cut(slot)
            case Save():
                self.saver.save(output, nursery)
            case StatusAsked(client, number):
                if self._status_text is None:  # once a round: a client may ask thousands of times at once
                    self._status_text = json.dumps(self.status())
                self.send(client, pack_answer(StatusAnswer(number, self._status_text)))
            case Halted(reason, removed, needed):
                # Operators asked for it if it was removed: nobody need be alarmed.
                level = logging.INFO if removed else logging.ERROR
                logger.log(level, "%s halts: %s", self.replica.me, reason)
                self.chronicle.note("halted", epoch=self.replica.settings.epoch, reason=reason)
                if not needed:
                    self.release()
            case Linked(epoch, link):
                self.succession.linked(epoch, link, nursery)
            case NeighboursAre(entries):
                self.follow(entries)
            case Entered():
                self.succession.entered(output, nursery)
            case KeepSecret():
                await self.succession.keep_secret(output)

    async def _draw(self, drawn: list[Draw | DrawSecret], nursery: trio.Nursery) -> None:
        """Chance for the replica, and what it does with it."""
        out: ReplicaOut = Out()
        for effect in drawn:
            if isinstance(effect, Draw):
                self.replica.on_draw(effect.key, secrets.randbelow(effect.choices), out)
            else:
                self.replica.on_draw(effect.key, int.from_bytes(secrets.token_bytes(32), "big"), out)
        await self.carry_out(out, nursery)
