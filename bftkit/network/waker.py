"""Ends a wait from another thread: one byte through a pair of sockets that the waiter's selector watches."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """`wake` may be called from any thread; everything else only by the thread that waits."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._signalled = False

    def fileno(self) -> int:
        """Readable after `wake`, until `drain`."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Makes `fileno` readable. Calls before the next `drain` cost nothing more."""
        if not self._signalled:
            self._signalled = True
            # Closed meanwhile: nobody waits any more. Full: it is readable already.
            with contextlib.suppress(OSError):
                self._writer.send(b"\0")

    def drain(self) -> None:
        """Forgets all calls of `wake` so far. Look at what they announced only *after* this.

        The order matters: bytes first, the mark second. The other way round, a `wake` between the two would leave
        the mark set and no byte behind it, and all later ones would be lost.
        """
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        self._signalled = False

    def close(self) -> None:
        """Further calls of `wake` do nothing."""
        self._reader.close()
        self._writer.close()
