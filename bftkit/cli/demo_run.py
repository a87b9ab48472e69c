"""What happens in a `bftkit demo`: the members, the load, the faults, and the verdict at the end.

While clients work on the key-value service, the leader is killed (or, where nobody leads, the first member), one
member lies, and the power of all members is cut at once: as far as the protocol claims to survive it. At the end all
that was acknowledged must be there, exactly once, in an order that explains every answer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import attrs
import trio

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.demo_load import Load
from bftkit.cli.demo_view import DemoView, ModelOfView
from bftkit.client import AsyncClient
from bftkit.client.aio import driving
from bftkit.client.connect import open_core
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue

LIAR: Final = "bftkit.sim.adversaries:Liar"
STATUS_SECONDS: Final = 0.25
AFTERMATH_SECONDS: Final = 120.0
"""How long the group may take, after the load, until everything is settled."""


@attrs.define(eq=False)
class Injected:
    """Faults that really happened."""

    leader_kills: int = 0
    liars: int = 0
    equivocations: int = 0
    wrong_replies: int = 0
    equivocations_proved: int = 0
    """How many of them an honest member holds the proof of."""
    contradicted_replies: int = 0
    """Replies that clients received and found to differ from what enough members said."""
    power_cuts: int = 0
    recovery_ms: float | None = None


class Demo:
    """One demo, with the group's processes."""

    def __init__(self, group: ProcessGroup, record: ProtocolRecord, seconds: float, clients: int, keep: bool) -> None:
        self.group = group
        self.record = record
        self.seconds = seconds
        self.client_count = clients
        self.keep = keep
        self.load = Load()
        self.injected = Injected()
        self._lives: dict[int, tuple[int, int]] = {}
        self.statuses: Mapping[MemberId, dict[str, Any]] = {}
        # The member that leads after the first leader: so it gets its turn as soon as that one is killed.
        self.liar: MemberId | None = group.members[1] if "liar" in record.survives else None
        self.honest = tuple(member for member in group.members if member != self.liar)
        self.began = 0.0
        self.ended = 0.0
        self.view = DemoView(
            ModelOfView(group.members, self.liar, record.title, seconds, self.load, lambda: self.statuses)
        )

    # ------------------------------------------------------------------------------------------ the run

    async def run(self) -> ExitCode:
        async with AsyncExitStack() as stack:
            stack.enter_context(self.view)
            for member in self.group.members:
                self._start(member)
            await self._ready(self.group.members)
            self.view.say("all members run")
            monitor = await stack.enter_async_context(self._client())
            workers = [await stack.enter_async_context(self._client()) for _ in range(self.client_count)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, monitor)
                await monitor.submit(keyvalue.put(b"hello", b"world"), timeout=AFTERMATH_SECONDS)
                self.began = time.monotonic()
                self.view.begin()
                over = trio.Event()
                async with trio.open_nursery() as load:
                    for number, worker in enumerate(workers):
                        load.start_soon(self.load.work, number, worker, over)
                    # On a busy machine the last recovery may take longer than the load was to run: see it through.
                    await self._inject(monitor)
                    await self._until(1.0)
                    over.set()
                self.ended = time.monotonic()
                self.injected.contradicted_replies = sum(worker.core.machine.contradictions for worker in workers)
                self.view.say("load ends; reading everything back")
                verdict = await self._verify(monitor)
                nursery.cancel_scope.cancel()
        return await self._tell(verdict)

    def _start(self, member: MemberId) -> None:
        self.group.start(member, *(("--adversary", LIAR) if member == self.liar else ()))

    async def _ready(self, members: tuple[MemberId, ...]) -> None:
        for member in members:
            await trio.to_thread.run_sync(self.group.wait_ready, member)

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[AsyncClient]:
        async with driving(open_core(self.group.genesis, secrets.token_bytes(32))) as client:
            yield client

    async def _watch(self, monitor: AsyncClient) -> None:
        while True:
            self.statuses = await monitor.status(timeout=STATUS_SECONDS)
            self._count_lies()
            self._count_proofs()
            await trio.sleep(STATUS_SECONDS)

    def _count_lies(self) -> None:
        """The liar's own counters begin anew when it is restarted, so the highest of each life are added up."""
        if self.liar is None or self.liar not in self.statuses:
            return
        status = self.statuses[self.liar]
        told = status.get("adversary", {})
        self._lives[status.get("pid", 0)] = (told.get("equivocations", 0), told.get("wrong_replies", 0))
        self.injected.equivocations = sum(life[0] for life in self._lives.values())
        self.injected.wrong_replies = sum(life[1] for life in self._lives.values())
        self.injected.liars = 1

    def _count_proofs(self) -> None:
        proved = [
            self.statuses[member].get("counters", {}).get("equivocations", 0)
            for member in self.honest
            if member in self.statuses
        ]
        self.injected.equivocations_proved = max([self.injected.equivocations_proved, *proved])

    # ------------------------------------------------------------------------------------------ faults

    async def _inject(self, monitor: AsyncClient) -> None:
        await self._until(0.15)
        await self._kill_leader()
        while self.liar is not None and not self.injected.equivocations and self._elapsed() < 0.5 * self.seconds:
            await trio.sleep(STATUS_SECONDS)
            # Where everybody proposes, it has its chance all the time.
            if not self._everybody_proposes and self._leader() != self.liar and self._leader_is_settled():
                await self._kill_leader()
        await self._until(0.6)
        await self._cut_power()

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    async def _until(self, share: float) -> None:
        await trio.sleep(max(0.0, share * self.seconds - self._elapsed()))

    @property
    def _everybody_proposes(self) -> bool:
        """Whether the protocol has no leader, as the honest members say."""
        said = [status["everybody_proposes"] for member, status in self.statuses.items() if member in self.honest]
        return bool(said) and all(said)

    def _leader(self) -> MemberId | None:
        """Whom most honest members take for the leader; where nobody leads, the first honest member that runs."""
        if self._everybody_proposes:
            return next((member for member in self.honest if self.group.is_running(member)), None)
        named = [
            self.statuses[member].get("leader")
            for member in self.honest
            if member in self.statuses and self.group.is_running(member)
        ]
        return max(set(named), key=lambda leader: (named.count(leader), str(leader))) if named else None

    def _leader_is_settled(self) -> bool:
        up = [status for member, status in self.statuses.items() if member in self.honest]
        return len(up) == len(self.honest) and len({status.get("leader") for status in up}) == 1

    async def _kill_leader(self) -> None:
        while (leader := self._leader()) is None:
            if self._elapsed() > 0.5 * self.seconds:
                return  # told at the end as a fault that was not injected
            await trio.sleep(STATUS_SECONDS)
        self.view.say(f"SIGKILL to {leader}" + ("; nobody leads here" if self._everybody_proposes else ", which leads"))
        output().event("fault", kind="leader-kill", member=leader)
        await trio.to_thread.run_sync(self.group.kill, leader)
        self.injected.leader_kills += 1
        await trio.sleep(min(1.5, 0.1 * self.seconds))
        self._start(leader)
        await self._ready((leader,))
        self.view.say(f"{leader} is back")

    async def _cut_power(self) -> None:
        self.view.say("power cut: SIGKILL to all members at once")
        output().event("fault", kind="power-cut")
        await trio.to_thread.run_sync(self.group.kill_all)
        cut = time.monotonic()
        self.injected.power_cuts += 1
        await trio.sleep(0.2)
        for member in self.group.members:
            self._start(member)
        await self._ready(self.group.members)
        self.view.say("all members are started again")
        with trio.move_on_after(AFTERMATH_SECONDS):
            while self.load.last_acknowledged <= cut:
                await trio.sleep(0.005)
            self.injected.recovery_ms = round((self.load.last_acknowledged - cut) * 1000, 1)
            self.view.say(f"served again {self.injected.recovery_ms:.0f} ms after the cut")

    # ------------------------------------------------------------------------------------------ verdict

    async def _verify(self, monitor: AsyncClient) -> dict[str, Any]:
        try:
            with trio.fail_after(AFTERMATH_SECONDS):
                audit = await self.load.read_back(monitor)
                agree, slot, stopped = await self._compare_digests(monitor)
        except trio.TooSlowError:
            text = f"the group did not settle within {AFTERMATH_SECONDS:.0f} s after the load"
            raise CommandFailed(ExitCode.PROGRESS_MISSED, text) from None
        self.view.say("checking that the history is linearizable")
        linearizable = await trio.to_thread.run_sync(self.load.linearizable)
        if not linearizable.linearizable:
            output().log(str(linearizable))
        seconds = self.ended - self.began
        return {
            "protocol": self.record.name,
            "members": len(self.group.members),
            "acknowledged": self.load.acknowledged,
            "lost": audit.lost,
            "duplicated": audit.duplicated,
            "reordered": audit.reordered,
            "digests_agree": agree,
            "digest_slot": slot,
            "linearizable": linearizable.linearizable,
            **attrs.asdict(self.injected),
            **self._more_results(),
            "everybody_proposes": self._everybody_proposes,
            "ops_per_second": round(self.load.acknowledged / seconds, 1),
            "unknown": self.load.unknown,
            "longest_gap_ms": round(self.load.longest_gap * 1000, 1),
            "stopped": stopped,
            "errors": sorted(set(self.load.failed))[:5],
        }

    def _more_results(self) -> dict[str, Any]:
        return {}

    async def _compare_digests(self, monitor: AsyncClient) -> tuple[bool, int, list[str]]:
        """All honest members' state digests at one slot that lies behind everything that the clients did."""
        statuses = await monitor.status(timeout=AFTERMATH_SECONDS)
        target = max((status["applied"] for status in statuses.values()), default=0)
        while True:
            for index in range(8):
                await monitor.submit(keyvalue.put(b"beat", b"%d" % index), timeout=AFTERMATH_SECONDS)
            statuses = await monitor.status()
            self.statuses = statuses
            stopped = [
                f"{member}: {statuses[member]['stopped']}"
                for member in self.honest
                if member in statuses and statuses[member].get("stopped")
            ]
            if stopped:
                return False, 0, stopped
            if not all(member in statuses for member in self.honest):
                continue
            tables: list[dict[str, str]] = [statuses[member]["checkpoints"] for member in self.honest]
            newest = max((int(slot) for slot in tables[0] if all(slot in table for table in tables)), default=0)
            if newest and newest >= target:
                return len({table[str(newest)] for table in tables}) == 1, newest, []

    async def _tell(self, result: dict[str, Any]) -> ExitCode:
        missing = self._not_injected()
        safe = (
            result["lost"] == 0
            and result["duplicated"] == 0
            and result["reordered"] == 0
            and result["digests_agree"]
            and result["linearizable"]
            and not result["errors"]
        )
        self.view.result(result, safe, missing)
        if self.keep:
            await self._kept()
        output().event("result", **result)
        if not safe:
            raise CommandFailed(ExitCode.SAFETY_VIOLATED, "a promise was broken; see the result")
        if missing:
            raise CommandFailed(ExitCode.PROGRESS_MISSED, f"not injected: {', '.join(missing)}")
        return ExitCode.OK

    def _not_injected(self) -> list[str]:
        survives, done = self.record.survives, self.injected
        wanted = {
            "leader kill": ({"leader-crash", "leader-restart"}, done.leader_kills),
            "equivocation": ({"liar"}, done.equivocations),
            "wrong replies": ({"liar"}, done.wrong_replies),
            "power cut and recovery": ({"power-cut"}, done.power_cuts and done.recovery_ms is not None),
        }
        return [name for name, (claims, happened) in wanted.items() if claims & survives and not happened]

    async def _kept(self) -> None:
        folder = self.group.directory
        output().show(
            f"\nThe group still runs. Try by hand:\n"
            f"  bftkit put -c {folder}/client greeting hello\n"
            f"  bftkit get -c {folder}/client greeting\n"
            f"  bftkit status -c {folder}/client\n"
            f"  bftkit switch paxos -c {folder}/client\n"
            f"  bftkit history -c {folder}/client\n"
            f"  kill -9 {self.group.pid(self.group.members[0])}      # {self.group.members[0]}\n"
            f"  bftkit node run {folder}/{self.group.members[0]}\n"
            f"Ctrl-C ends it and removes everything."
        )
        try:
            await trio.sleep_forever()
        except KeyboardInterrupt:
            return
