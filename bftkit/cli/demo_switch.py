"""What happens in a `bftkit demo --switch`: the group becomes another one seven times, and nobody loses anything.

Three members with a coordinator become Paxos, take in a fourth, become PBFT, the randomized protocol, and PBFT again.
Then the network turns against them: the leader stands still, and what its successors propose comes late, so PBFT
orders nothing. The operator makes the group leave it by force for the randomized protocol, which needs no luck with
delays, and when the leader has come back, plans the way back to PBFT. Clients work all the time; what they saw is
judged over the whole, as in the plain demo.

Every change is what an operator would do with `bftkit switch` and `bftkit member add`: a command that says the whole
next configuration, signed with the operator's key. What is told of it comes from the chain of hand-overs, verified
from the genesis on; the pause is what the members measured.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs
import trio

from bftkit.channel.client import CommandState
from bftkit.channel.frames import DONE
from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.change import known_by
from bftkit.cli.demo_adversary import EPOCH, SlowSuccessor
from bftkit.cli.demo_changes import ChangingDemo
from bftkit.cli.demo_run import AFTERMATH_SECONDS, STATUS_SECONDS
from bftkit.cli.quiet import found_group
from bftkit.client import AsyncClient
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.membership.card import MemberCard
from bftkit.membership.commands import sign_command
from bftkit.membership.wishes import Wish, foresee
from bftkit.node.folders import CARD_FILE, GENESIS_FILE, read_key
from bftkit.node.processes import ProcessGroup

FROM: Final = "coordinator"
FOUNDERS: Final = 3
JOINER: Final = "m3"
ADVERSARY: Final = f"{SlowSuccessor.__module__}:{SlowSuccessor.__name__}"
STUCK_SECONDS: Final = 2.0
"""So long nothing is acknowledged before the operator loses patience."""


@attrs.frozen
class Step:
    """One change, as the operator wishes it."""

    to: str
    forced: bool = False
    joins: bool = False


STEPS: Final = (
    Step("paxos"),
    Step("paxos", joins=True),
    Step("pbft"),
    Step("cks"),
    Step("pbft"),
    Step("cks", forced=True),
    Step("pbft"),
)
assert STEPS[EPOCH].forced


class SwitchDemo(ChangingDemo):
    """One demo of changes."""

    def __init__(self, group: ProcessGroup, record: ProtocolRecord, seconds: float, clients: int, keep: bool) -> None:
        super().__init__(group, record, seconds, clients, keep, ADVERSARY)
        self.operator = read_key(group.directory / "operator" / "operator.key", "operator").signing_key
        self.leader_stops = 0
        self.view.model.title = "from protocol to protocol"

    # ------------------------------------------------------------------------------------------ changes

    async def _inject(self, monitor: AsyncClient) -> None:
        for number, step in enumerate(STEPS):
            await self._until(number / len(STEPS))
            seats = (await self._joiner(),) if step.joins else ()
            frozen = await self._stop_progress() if step.forced else None
            try:
                await self._change(monitor, Wish(step.to, forced=step.forced, add=tuple(card.seat() for card in seats)))
            finally:
                if frozen is not None and self.group.is_running(frozen):
                    self.group.thaw(frozen)
            if frozen is not None:
                self.view.say(f"{frozen} goes on, and finds itself in another epoch")
                output().event("fault", kind="leader-goes-on", member=frozen)

    async def _joiner(self) -> MemberCard:
        """A member's folder, made as on its own machine; it runs before anybody knows it."""
        directory = self.group.directory
        folder = directory / JOINER
        await trio.to_thread.run_sync(partial(found_group, folder, join=directory / GENESIS_FILE, id=JOINER))
        self.group.joined(JOINER)
        self._start(JOINER)
        await self._ready((JOINER,))
        self.honest = self.group.members
        self.view.model.members = self.group.members
        self.view.say(f"{JOINER} runs, and follows the group")
        return MemberCard.from_text((folder / CARD_FILE).read_text())

    async def _stop_progress(self) -> MemberId:
        """Stop the leader; its successors are slow by themselves (see `demo_adversary`)."""
        while (leader := self._leader()) is None or not self._leader_is_settled():
            await trio.sleep(STATUS_SECONDS)
        self.view.say(f"SIGSTOP to {leader}, which leads; what its successors propose comes late")
        output().event("fault", kind="leader-stop", member=leader)
        self.group.freeze(leader)
        self.leader_stops += 1
        stopped = time.monotonic()
        with trio.move_on_after(AFTERMATH_SECONDS):
            while not self.delayed or time.monotonic() - max(self.load.last_acknowledged, stopped) < STUCK_SECONDS:
                await trio.sleep(0.05)
        self.view.say("nothing is ordered any more; the operator makes the group leave the protocol")
        return leader

    async def _change(self, monitor: AsyncClient, wish: Wish) -> None:
        """One change, from the wish until clients are served in the new epoch."""
        known = known_by(self.group.client, await monitor.history(timeout=AFTERMATH_SECONDS))
        here = known.here
        assert wish.protocol is not None
        present, wished = load_protocol(here.protocol).record, load_protocol(wish.protocol).record
        nonce = secrets.token_bytes(16)
        prospect = foresee(here, known.schedule, wish, present, wished, group=known.group, nonce=nonce)
        signed = sign_command(prospect.command, self.operator)
        ordered = time.monotonic()
        last: CommandState | None = None
        async for state in monitor.order(signed, timeout=AFTERMATH_SECONDS):
            last = state
        if last is None or last.state != DONE:
            why = last.text if last is not None else "no answer"
            raise CommandFailed(ExitCode.PROGRESS_MISSED, f"the change to {wished.name} was not carried out: {why}")
        done = time.monotonic()
        with trio.fail_after(AFTERMATH_SECONDS):
            while monitor.epoch <= here.epoch:  # members may say so before they show it
                await trio.sleep(0.01)
        self.links = await monitor.history(timeout=AFTERMATH_SECONDS)
        link = self.links[-1]
        self.record = wished
        await self._tell_change(monitor, here.protocol, link, ordered, done)

    # ------------------------------------------------------------------------------------------ verdict

    def _more_results(self) -> dict[str, Any]:
        return {
            "switches": len(self.links),
            "forced": sum(link.kind == "forced" for link in self.links),
            **self._longest_pauses(),
            "leader_stops": self.leader_stops,
            "delayed": self.delayed,
        }

    def _not_injected(self) -> list[str]:
        wanted: Mapping[str, bool] = {
            "stopped leader": self.leader_stops == 1,
            "delayed successors": self.delayed > 0,
            "exactly seven changes": [(link.next.protocol, link.kind == "forced") for link in self.links]
            == [(step.to, step.forced) for step in STEPS],
        }
        return [name for name, happened in wanted.items() if not happened]
