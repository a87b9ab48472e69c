"""What happened to the group's configuration, and what went wrong, as this member saw it: for people, kept on disk.

A line of JSON for each event, in ``events.jsonl`` in the member's folder: epochs that were entered, how long service
paused, commands that were refused, members that were blamed, and why this member stopped. Nothing depends on it: it is
synced, so that what came before a power cut can be read after it, but off the member's own thread (`scribe`), and a
disk that has no room costs events and nothing else. It is bounded: a full file becomes
``events.jsonl.1``, and the one before that goes.

**How long service paused** is measured from the last decision of the old epoch to the first one of the new. If nothing
was waiting to be ordered, that says how idle the clients were; so there is a second measure, from the moment at which
the old epoch stopped until the new one was ready to decide. A member that fetched the state measures nothing.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from bftkit.channel.replica import Replica
from bftkit.core.wire import WireError
from bftkit.membership.chain import HandOver, Place
from bftkit.node.scribe import Job, at_once, sync_folder

logger = logging.getLogger("bftkit.node")

FILE: Final = "events.jsonl"
FILE_BYTES_MAX: Final = 1 << 20
LINES_MAX: Final = 256
"""So many events may wait for a disk that stands still; then the oldest of them are lost."""
NEWEST: Final = 16
"""So many events are in the member's status."""


@attrs.define
class Switch:
    """One change of the configuration, as this member saw it."""

    epoch: int
    before: str
    after: str
    kind: str
    members: int
    slot: int
    """The last slot of the epoch before."""
    decided: float | None
    """When that epoch's last decision was made here; None: this member did not see it."""
    stopped: float | None
    """When that epoch stopped deciding here: by its last decision, or because its members left it by force."""
    ready_ms: float | None = None
    pause_ms: float | None = None

    def told(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "epoch": self.epoch,
            "from": self.before,
            "to": self.after,
            "kind": self.kind,
            "members": self.members,
            "after_slot": self.slot,
            "ready_ms": self.ready_ms,
            "pause_ms": self.pause_ms,
        }


class Chronicle:
    """One member's events."""

    def __init__(
        self,
        path: Path | None,
        *,
        wall_clock: Callable[[], float] = time.time,
        file_bytes_max: int = FILE_BYTES_MAX,
        write: Callable[[Job], bool] = at_once,
    ) -> None:
        """`path`: the file; None for a member that keeps nothing. `write`: has it written, now or soon (`Scribe`)."""
        self.newest: deque[dict[str, Any]] = deque(maxlen=NEWEST)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        """Told of every event, in the member's own thread."""
        self.switch: Switch | None = None
        """The newest change of the configuration since this process began."""
        self.switches: Counter[tuple[str, str]] = Counter()
        """How many there were, by kind (planned, forced) and by who decided them (operators, policy)."""
        self._path = path
        self._wall_clock = wall_clock
        self._bytes_max = file_bytes_max
        self._write = write
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        """What is not written yet. Two threads use it, each by single operations that need no lock."""
        self._full = False
        self._protocol = ""
        self._applied = -1
        self._decided: float | None = None
        self._wedged: float | None = None
        self._refused: set[bytes] = set()

    def note(self, event: str, **fields: Any) -> None:
        """Something happened."""
        entry = {"event": event, "time_ms": int(self._wall_clock() * 1000), **fields}
        self.newest.append(entry)
        for listener in self.listeners:
            listener(entry)
        if self._path is not None:
            self._lines.append(json.dumps(entry) + "\n")
            self._write(partial(self._append, self._path))  # if it takes no more, the next one writes this one, too

    def _append(self, path: Path) -> None:
        """Write the lines that wait."""
        lines: list[str] = []
        while self._lines:
            lines.append(self._lines.popleft())
        text = "".join(lines)
        if not text:
            return
        try:
            is_new = not path.exists()
            if not is_new and path.stat().st_size + len(text) > self._bytes_max:
                path.replace(path.with_name(path.name + ".1"))
                is_new = True
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(path.parent)
            self._full = False
        except OSError as error:
            if not self._full:  # once is enough
                logger.warning("%s cannot be written: %s", path, error.strerror or error)
            self._full = True

    # ------------------------------------------------------------------------------------------ epochs

    def begin(self, replica: Replica) -> None:
        """The member's process begins."""
        self._protocol = replica.settings.plugin.record.name
        self._applied = replica.applied
        self.note(
            "started",
            epoch=replica.settings.epoch,
            protocol=self._protocol,
            applied=replica.applied,
            silent=replica.silent,
        )

    def entered(self, place: Place, link: bytes) -> None:
        """This member is in a new epoch."""
        here = place.configuration
        ending, kind, cause, reason = _read(link)
        self.switches[kind, cause] += 1
        decided = self._decided if self._applied == ending else None
        stopped = self._wedged if decided is not None and self._wedged is not None else decided
        protocols, members = (self._protocol, here.protocol), len(here.members)
        self.switch = Switch(here.epoch, *protocols, kind, members, ending, decided, stopped)
        self._wedged = None
        self._protocol = here.protocol
        self._refused.clear()
        self.note(
            "entered",
            epoch=here.epoch,
            **{"from": self.switch.before, "to": here.protocol},
            kind=kind,
            cause=cause,
            reason=reason,
            members=list(here.members),
            byzantine=here.f,
            crash=here.c,
            after_slot=ending,
        )

    def after_round(self, replica: Replica, now: float) -> None:
        """Called after every round of the node: looks whether something was decided, and measures the pause."""
        switch = self.switch
        if switch is not None and switch.decided is not None and switch.pause_ms is None:
            self._measure(switch, replica, now)
        if replica.wedged and self._wedged is None:
            self._wedged = now
        applied = replica.applied
        if applied != self._applied:
            self._applied = applied
            if replica.catchup.busy or replica.observing:
                self._decided = None  # it came from others
            elif not replica.wedged:
                self._decided = now
        if replica.orders.refused:
            self._note_refusals(replica)

    def _measure(self, switch: Switch, replica: Replica, now: float) -> None:
        assert switch.decided is not None
        succession = replica.succession
        if replica.settings.epoch != switch.epoch or succession is None:
            return
        if switch.ready_ms is None and succession.active and switch.stopped is not None:
            switch.ready_ms = round((now - switch.stopped) * 1000, 3)
        if replica.applied > switch.slot and replica.applied != self._applied:
            switch.pause_ms = round((now - switch.decided) * 1000, 3)
            self.note("resumed", **switch.told())

    def _note_refusals(self, replica: Replica) -> None:
        for name, text in replica.orders.refused.items():
            if name not in self._refused:
                self._refused.add(name)
                self.note("refused", epoch=replica.settings.epoch, command=name.hex(), reason=text)

    def told(self) -> dict[str, Any]:
        """For the member's status."""
        switch = self.switch.told() if self.switch is not None else None
        return {"switch": switch, "events": list(self.newest)}


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events that a member's folder holds, the oldest first. A line that a crash has cut is left out."""
    for path in (folder / f"{FILE}.1", folder / FILE):
        if not path.exists():
            continue
        for line in path.read_text("utf-8", "replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def _read(link: bytes) -> tuple[int, str, str, str]:
    """The last slot of the epoch that this hand-over ends, which kind of change it is, who decided it, and why."""
    try:
        handover = HandOver.decode(link)
    except WireError:  # pragma: no cover - a replica gives out what it has checked
        return 0, "planned", "operators", ""
    return handover.ending.slot, handover.kind, handover.cause, handover.signed.command.reason
