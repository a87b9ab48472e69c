"""Writes what people are to find after a power cut, in a thread of its own: no round of the member waits for it.

The log has what the group needs, and a member waits for it. Events and proofs of lies are for operators: nothing that
the member does depends on them, but whoever has read in an event that there is a proof expects to find it, also when
the lights went out in between. So they are synced, and they are synced here: a disk that takes a second for that costs
the service nothing. What waits is bounded, since liars decide how much there is to write.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

WAITING_MAX: Final = 16

Job = Callable[[], None]
"""Something to write. It handles its own errors: what it raises is a bug, and ends the thread with a traceback."""


class Scribe:
    """One thread, which begins with the first job. All methods belong to the member's own thread."""

    def __init__(self, waiting_max: int = WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def write(self, job: Job) -> bool:
        """Have this done, after all that was given before; False if too much waits, and it is not taken."""
        if self._jobs.qsize() >= self._waiting_max:
            return False
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="bftkit-scribe", daemon=True)
            self._thread.start()
        return True

    def close(self) -> None:
        """Wait until all of it is done. Further calls do nothing, and further jobs begin anew."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def at_once(job: Job) -> bool:
    """In place of `Scribe.write`: in the caller's own thread, which waits for the disk."""
    job()
    return True


def sync_folder(path: Path) -> None:
    """Makes it durable which files are in a folder. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
