"""What the demos share in which a group changes while clients work: what is told of each change."""

from __future__ import annotations

import statistics
from typing import Any, Final, cast

import trio

from bftkit.cli.app import output
from bftkit.cli.demo_run import AFTERMATH_SECONDS, STATUS_SECONDS, Demo
from bftkit.client import AsyncClient
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.membership.chain import HandOver
from bftkit.node.processes import ProcessGroup

PAUSE_SECONDS: Final = 10.0
"""How long members may take to know how long service was paused, once one of them knows."""


class ChangingDemo(Demo):
    """A demo of changes: nobody lies, but at times proposals come late."""

    def __init__(
        self,
        group: ProcessGroup,
        record: ProtocolRecord,
        seconds: float,
        clients: int,
        keep: bool,
        adversary: str,
    ) -> None:
        super().__init__(group, record, seconds, clients, keep)
        self._adversary = adversary
        self.told: list[dict[str, Any]] = []
        """A line for each change."""
        self.links: tuple[HandOver, ...] = ()
        self.delayed = 0
        self._delays: dict[MemberId, int] = {}

    def _start(self, member: MemberId) -> None:
        self.group.start(member, "--adversary", self._adversary)

    async def _tell_change(
        self, monitor: AsyncClient, before: str, link: HandOver, begin: float, end: float, **more: Any
    ) -> None:
        """Tell of a change, once clients that waited in its course have their answers."""
        pause = await self._pause(monitor, link.next.epoch)
        with trio.move_on_after(AFTERMATH_SECONDS):
            while any(asked <= end for asked in self.load.waiting.values()):
                await trio.sleep(0.02)
        line: dict[str, Any] = {
            "epoch": link.next.epoch,
            "from": before,
            "to": link.next.protocol,
            "kind": link.kind,
            "members": len(link.next.members),
            "pause_ms": pause,
            "client_gap_ms": round(self.load.longest_wait(begin, end) * 1000, 1),
            **more,
        }
        self.told.append(line)
        output().event("switch", **line)
        self.view.say(
            f"epoch {line['epoch']}: {line['from']} -> {line['to']} on {line['members']} members, {line['kind']}; "
            f"pause {'?' if pause is None else f'{pause:.0f}'} ms, longest wait of a client "
            f"{line['client_gap_ms']:.0f} ms"
        )

    async def _pause(self, monitor: AsyncClient, epoch: int) -> float | None:
        """How long service was paused: the median of what the members measured, once enough of them have."""
        enough = monitor.configuration.quorum.available
        found: dict[MemberId, float] = {}
        soon = trio.current_time() + PAUSE_SECONDS
        with trio.move_on_after(AFTERMATH_SECONDS):
            while not found or (len(found) < enough and trio.current_time() < soon):
                for member, status in (await monitor.status(timeout=STATUS_SECONDS)).items():
                    switch: Any = status.get("switch")
                    told = cast("dict[str, Any]", switch) if isinstance(switch, dict) else {}
                    if told.get("epoch") == epoch and type(told.get("pause_ms")) in (int, float):
                        found[member] = float(told["pause_ms"])
        return round(statistics.median(found.values()), 1) if found else None

    def _longest_pauses(self) -> dict[str, float | None]:
        """Of planned changes, and of those by force: these begin only when nothing was ordered for long already."""
        longest: dict[str, float | None] = {}
        for name, kind in (("pause_ms_max", "planned"), ("forced_pause_ms_max", "forced")):
            told = (line["pause_ms"] for line in self.told if line["kind"] == kind and line["pause_ms"] is not None)
            longest[name] = max(told, default=None)
        return longest

    def _count_lies(self) -> None:
        """Nobody lies here; but proposals come late."""
        for member, status in self.statuses.items():
            told: Any = status.get("adversary", {})
            self._delays[member] = max(self._delays.get(member, 0), int(told.get("delayed", 0)))
        self.delayed = sum(self._delays.values())
