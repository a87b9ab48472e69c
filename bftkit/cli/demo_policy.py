"""What happens in a `bftkit demo --policy steady`: the group notices by itself that its leader is slow.

Four members under PBFT, with a policy that operators signed into the genesis. Clients work; after some seconds
proposals come late: not so late that a view change would help, but every request waits. The members measure it,
report it to each other in the total order, and all come to the same decision: to the randomized protocol, which needs
no leader. After a calm while they go back, and find the leader quick again. No operator does anything.

What is told of each change comes from the chain of hand-overs, verified from the genesis on, with the reason that the
members computed.
"""

from __future__ import annotations

import time
from typing import Any, Final

import trio

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.demo_adversary import LATE_TICKS, LateLeader
from bftkit.cli.demo_changes import ChangingDemo
from bftkit.client import AsyncClient
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.node.processes import ProcessGroup

PROTOCOL: Final = "pbft"
MEMBERS: Final = 4
SECONDS: Final = 40.0
"""How long the load runs, as long as the changes have happened by then."""
PATIENCE_SECONDS: Final = 60.0
"""How long the group may take for a decision of its own."""
ADVERSARY: Final = f"{LateLeader.__module__}:{LateLeader.__name__}"


class PolicyDemo(ChangingDemo):
    """One demo of a policy."""

    def __init__(self, group: ProcessGroup, record: ProtocolRecord, seconds: float, clients: int, keep: bool) -> None:
        super().__init__(group, record, seconds, clients, keep, ADVERSARY)
        self.view.model.title = "steady by itself"

    async def _inject(self, monitor: AsyncClient) -> None:
        """Nothing but patience: the leader becomes slow by itself, and the group does the rest."""
        self.view.say("all is well; soon proposals will come late")
        slow = False
        for goal in range(1, 3):
            before = monitor.configuration.protocol
            began = time.monotonic()
            with trio.move_on_after(PATIENCE_SECONDS) as patience:
                while monitor.epoch < goal:
                    if self.delayed and not slow:
                        slow = True
                        output().event("fault", kind="slow-leader", late_ms=LATE_TICKS)
                        self.view.say("proposals come late now; the members will notice")
                    await trio.sleep(0.05)
            if patience.cancelled_caught:
                raise CommandFailed(
                    ExitCode.PROGRESS_MISSED, f"the policy decided nothing in {PATIENCE_SECONDS:.0f} s; see status"
                )
            done = time.monotonic()
            self.links = await monitor.history(timeout=PATIENCE_SECONDS)
            link = self.links[goal - 1]
            reason = link.signed.command.reason
            await self._tell_change(monitor, before, link, began, done, cause=link.cause, reason=reason)
            self.view.say(f"because {reason}")
        self.record = load_protocol(monitor.configuration.protocol).record

    def _more_results(self) -> dict[str, Any]:
        return {
            "switches": len(self.links),
            "forced": sum(link.kind == "forced" for link in self.links),
            **self._longest_pauses(),
            "delayed": self.delayed,
            "policy": [line["reason"] for line in self.told],
        }

    def _not_injected(self) -> list[str]:
        wanted = {
            "a slow leader": self.delayed > 0,
            "to the randomized protocol and back, by the policy": [
                (link.next.protocol, link.cause) for link in self.links
            ]
            == [("cks", "policy"), (PROTOCOL, "policy")],
        }
        return [name for name, happened in wanted.items() if not happened]
