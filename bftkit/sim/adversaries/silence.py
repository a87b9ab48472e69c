"""Members that keep something back: silence, withheld batches, delays, and unfairness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

from bftkit.channel import frames
from bftkit.channel.frames import pack_protocol, unpack_protocol
from bftkit.channel.replica import Replica, ReplicaOut, ReplicaSettings
from bftkit.core.machine import MemberId
from bftkit.sim.adversaries.honest import Rewriting, Said, chosen, kind_of


class Silent(Rewriting):
    """Says nothing to some members, or to nobody at all; or keeps back messages of some kinds only.

    FAULTS 21. The defence: nobody waits for more than n - f - c members (SAFETY rule 1), a leader that is not heard of
    is replaced, and who lacks something learns it from the others (rule 17).
    """

    lines: ClassVar[tuple[int, ...]] = (21,)

    def __init__(
        self,
        settings: ReplicaSettings,
        to: str | Iterable[MemberId] | None = None,
        kinds: str = "",
        clients: bool = False,
    ) -> None:
        """`to`: ``all``, ``half`` or ids with commas between. `kinds`: names of messages, such as ``Commit,Reply``;
        nothing: all of them. `clients`: say nothing to clients either (of these kinds).

        Raises ValueError for an id that is no member's.
        """
        super().__init__(settings)
        self._to = chosen(settings, to, self.last_half)
        self._kinds = frozenset(part.strip() for part in kinds.split(",") if part.strip())
        self._clients = clients
        self.silences = 0

    def status(self) -> dict[str, Any]:
        """How many frames it kept back."""
        return {"adversary": {"kind": "silent", "silences": self.silences}}

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Nothing to them."""
        if not self._about(frame):
            yield to, frame
            return
        spoken = [member for member in to if member not in self._to]
        if len(spoken) < len(to):
            self.silences += 1
            self.act(21)
        yield spoken, frame

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        """Clients hear it, unless they are not to. The proof of who it is is part of the connection."""
        if not self._clients or not self._about(frame) or kind_of(self.settings, frame) == "LinkProof":
            return frame
        self.silences += 1
        self.act(21)
        return None

    def _about(self, frame: bytes) -> bool:
        return not self._kinds or kind_of(self.settings, frame) in self._kinds


class HalfSilent(Silent):
    """Says nothing to half of the others. See `Silent`."""

    def __init__(self, settings: ReplicaSettings, to: str = "half", kinds: str = "") -> None:
        """See `Silent`."""
        super().__init__(settings, to, kinds)


class Withhold(Rewriting):
    """Proposes by digest alone: the batch's bytes do not come along, and who asks for them gets no answer.

    FAULTS 27. The defence: no vote before the bytes are here (SAFETY rule 3); they are fetched from whoever has them,
    or else the leader is replaced.
    """

    lines: ClassVar[tuple[int, ...]] = (27,)

    def __init__(self, settings: ReplicaSettings, to: str = "all") -> None:
        """`to`: ``all``, ``half`` or ids with commas between. Raises ValueError for an id that is no member's."""
        super().__init__(settings)
        self._to = chosen(settings, to, self.last_half)
        self.withheld = 0
        """Batches that did not come along."""
        self.unanswered = 0
        """Batches that were asked for in vain."""

    def status(self) -> dict[str, Any]:
        """What it withheld."""
        return {"adversary": {"kind": "withhold", "withheld": self.withheld, "unanswered": self.unanswered}}

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Digests without bytes."""
        deceived = [member for member in to if member in self._to]
        if not deceived or frame[:1] not in (b"\x01", b"\x03"):
            yield to, frame
            return
        without: bytes | None = frame
        if frame[0] == frames.PROTOCOL:
            epoch, message, carried = unpack_protocol(frame)
            if carried:
                self.withheld += len(carried)
                self.act(27)
                without = pack_protocol(epoch, message, [])
        elif kind_of(self.settings, frame) == "BatchBytes":
            self.unanswered += 1
            self.act(27)
            without = None
        if without == frame:
            yield to, frame
            return
        if truthful := [member for member in to if member not in self._to]:
            yield truthful, frame
        if without is not None:
            yield deceived, without


class SlowLeader(Rewriting):
    """Sends its proposals late, always just in time: by `ticks` of a millisecond each.

    FAULTS 31. The defence is the protocol's: a leader that makes requests wait without need, again and again, is
    replaced although no timeout ever ends.
    """

    lines: ClassVar[tuple[int, ...]] = (31,)

    def __init__(self, settings: ReplicaSettings, ticks: int = 380) -> None:
        """Raises ValueError for a delay below one tick."""
        super().__init__(settings)
        if ticks < 1:
            raise ValueError(f"a slow leader is slow by at least one tick, not {ticks}")
        self._ticks = ticks
        self.delayed = 0

    def status(self) -> dict[str, Any]:
        """How many proposals were late."""
        return {"adversary": {"kind": "slow-leader", "ticks": self._ticks, "delayed": self.delayed}}

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Whatever carries a batch is late; all else is in time."""
        if frame[0] == frames.PROTOCOL and frame[9:10] > b"\0":
            self.delayed += 1
            self.act(31)
            self.later(self._ticks, to, frame)
        else:
            yield to, frame


CLIENT_BYTES: Final = 32
_KEY: Final = slice(2, 2 + CLIENT_BYTES)
"""Where the client's key stands in a frame with a bundle."""
_REQUESTS: Final = 1
_CLOCK_REPORT: Final = 3


class UnfairLeader(Rewriting):
    """Hears nothing of one client, neither from it nor from members that pass its requests on, and so orders none.

    FAULTS 31. The defence: the other members hold the request as well, and give a leader up that passes over it for
    long (`Neglected`), however busy it is with others; where nobody leads, they propose it in their turn.
    """

    lines: ClassVar[tuple[int, ...]] = (31,)

    def __init__(self, settings: ReplicaSettings, client: str = "") -> None:
        """`client`: its public key in hexadecimal, or how that begins; nothing: the first one that it hears of.

        Raises ValueError if that is not hexadecimal.
        """
        super().__init__(settings)
        self._victim = bytes.fromhex(client) if client else b""
        self._leads = False
        self.ignored = 0

    def status(self) -> dict[str, Any]:
        """How often it heard nothing."""
        return {"adversary": {"kind": "unfair-leader", "client": self._victim.hex()[:16], "ignored": self.ignored}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """Not what other members pass on."""
        return None if self._ignores(frame) else frame

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        """Not what the client says itself."""
        return None if self._ignores(frame) else frame

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Everything, as it is."""
        self._leads = replica.machine.leader == self.settings.me or replica.proposer.everybody
        return out

    def _ignores(self, frame: bytes) -> bool:
        if frame[:1] != bytes((frames.BUNDLE,)) or len(frame) < _KEY.stop or frame[1] == _CLOCK_REPORT:
            return False
        if not self._victim and frame[1] == _REQUESTS:
            self._victim = frame[_KEY]
        if not self._victim or not frame[_KEY].startswith(self._victim):
            return False
        self.ignored += 1
        if self._leads:
            self.act(31)
        return True
