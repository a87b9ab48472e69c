"""An observer in an adversary's place: it changes nothing, and tells the system-call trace what comes next.

Before a round's effects are carried out it writes one line to a file of its own. What goes over the links is encrypted,
so nothing else in a trace says whether a write to a socket carries something that depends on a record.
"""

from __future__ import annotations

import os
from typing import Any, Final

from bftkit.channel.replica import Jot, Replica, ReplicaOut, ReplicaSettings, Rotate, ToClient
from bftkit.core.machine import Broadcast, Deliver, Persist, Send
from bftkit.sim.adversaries import Honest

FILE: Final = "BFTKIT_MARKS"
"""The environment variable that names the file."""


class Marking(Honest):
    """Writes ``after-record`` before a round that sends what depends on a record, else ``free``."""

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self._file = os.open(os.environ[FILE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._recorded = False
        self.marks = 0

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """SAFETY rule 5, read off the effects: what was recorded before something is sent."""
        depends = False
        for effect in out.effects:
            match effect:
                case Persist():
                    self._recorded = True
                case Broadcast() | Send() | Deliver(ToClient()):
                    depends = depends or self._recorded
                case Deliver(Rotate()):
                    self._recorded = False  # a new segment is durable as a whole
                case Deliver(Jot()):
                    pass
                case _:
                    pass
        if depends:
            self._recorded = False
            self.marks += 1
        os.write(self._file, b"after-record\n" if depends else b"free\n")
        return out

    def status(self) -> dict[str, Any]:
        """How many rounds sent what depends on a record."""
        return {"marks": self.marks}
