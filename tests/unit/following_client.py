"""A client machine among members that a test speaks for, with chains of real keys: see `tests/chains.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from bftkit.channel import frames
from bftkit.channel.bundles import OK, OPEN, Bundle, opening_tag, pack_results, parse_bundle
from bftkit.channel.client import (
    RETRY_TICKS,
    ClientMachine,
    ClientOutput,
    ClientSettings,
    Executed,
    LinkRefused,
    Moved,
    SendNow,
    Submit,
)
from bftkit.channel.frames import ASK_CODEC, Answer, Ask, AskChain, ChainAnswer, LinkProof, pack_answer, pack_reply
from bftkit.core.digest import digest
from bftkit.core.machine import Deliver, Draw, Out, Send, SetTimer
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import HandOver, Place
from bftkit.membership.verifiers import roster_verifier
from tests.chains import Group

SESSION = 5 << 20

T = TypeVar("T")


def settings_at(group: Group, place: Place, chain: Sequence[HandOver] = ()) -> ClientSettings:
    """What a client is given that starts at this place."""
    verifiers = roster_verifier(group.group)
    here = place.configuration
    return ClientSettings(
        group.group,
        here.members,
        here.quorum,
        SigningKey(b"c" * 32),
        verifiers(here, place.opening),
        1,
        here.epoch,
        place=place,
        founding=group.places[0],
        chain=tuple(chain),
        verifiers=verifiers,
    )


class Client:
    """A machine, and what it sent and said. All members' links are up and proved, if you do not say otherwise."""

    def __init__(
        self, group: Group, epoch: int = 0, *, proved: bool = True, chain: Sequence[HandOver] = (), forget: bool = True
    ) -> None:
        self.group = group
        self.machine = ClientMachine(settings_at(group, group.places[epoch], chain))
        self.sent: list[tuple[str, bytes]] = []
        self.said: list[ClientOutput] = []
        self.ticking = False
        for member in self.members:
            self.link(member, epoch if proved else None)
        if forget:
            self.sent.clear()

    @property
    def epoch(self) -> int:
        return self.machine.settings.epoch

    @property
    def members(self) -> tuple[str, ...]:
        return self.machine.settings.members

    @property
    def place(self) -> Place:
        place = self.machine.settings.place
        assert place is not None
        return place

    def step(self, name: str, *values: object) -> None:
        out: Out[bytes, ClientOutput] = Out()
        getattr(self.machine, name)(*values, out)
        for effect in out.effects:
            match effect:
                case Send(to, frame):
                    self.sent += [(member, frame) for member in to]
                case Deliver(output):
                    self.said.append(output)
                case Draw(key, _):
                    self.step("on_draw", key, 12345)
                case SetTimer():
                    self.ticking = True
                case _:
                    pass

    # ------------------------------------------------------------------------------------------ members speak

    def link(self, member: str, epoch: int | None = None, *, key_of: int | None = None) -> None:
        self.step("on_link", member, self._binding(member))
        if epoch is not None:
            self.prove(member, epoch, key_of=key_of)

    @staticmethod
    def _binding(member: str) -> bytes:
        return b"binding of " + member.encode()

    def prove(self, member: str, epoch: int, *, key_of: int | None = None, group: Group | None = None) -> None:
        keyring = (group or self.group).keyring(member, epoch, key_of)
        self.tell(member, LinkProof(epoch, keyring.sign(frames.LINK_PURPOSE, self._binding(member))))

    def tell(self, member: str, answer: Answer) -> None:
        self.step("on_message", member, pack_answer(answer))

    def links(self, member: str, links: Iterable[HandOver | bytes]) -> None:
        packed = tuple(link if isinstance(link, bytes) else link.encode() for link in links)
        self.tell(member, ChainAnswer(packed))

    def reply(
        self,
        member: str,
        first: int,
        results: Sequence[tuple[int, bytes]] = ((OK, b"yes"),),
        *,
        epoch: int | None = None,
        slot: int = 9,
        session: int = SESSION,
        leader: int = 0,
    ) -> None:
        blob = pack_results(bytes(status for status, _ in results), [result for _, result in results])
        at = self.epoch if epoch is None else epoch
        if first == 0:
            tags = [opening_tag(one.payloads()[0]) for _, one in self.bundles() if one.kind == OPEN]
            session = tags[-1] if tags else session
        frame = pack_reply(at, slot, session, first, len(results), digest(blob), leader, blob)
        self.step("on_message", member, frame)

    def tick(self, ticks: int = RETRY_TICKS) -> None:
        for _ in range(ticks // RETRY_TICKS):
            self.ticking = False
            self.step("on_timer", ("retry",))

    # ------------------------------------------------------------------------------------------ the caller

    def submit(self, *operations: bytes) -> None:
        self.step("on_input", Submit(operations))
        self.step("on_input", SendNow())

    def open(self) -> None:
        """Open the session, with one operation under way."""
        self.submit(b"first")
        for member in self.members[: self.machine.settings.quorum.weak]:
            self.reply(member, 0, [(OK, SESSION.to_bytes(8, "big"))], session=0, slot=5)
        self.sent.clear()

    # ------------------------------------------------------------------------------------------ what came out

    def bundles(self) -> list[tuple[str, Bundle]]:
        return [
            (to, parse_bundle(frame[1:], bytes_max=1 << 21)) for to, frame in self.sent if frame[0] == frames.BUNDLE
        ]

    def asked(self) -> list[tuple[str, Ask]]:
        return [(to, ASK_CODEC.decode(frame[1:])) for to, frame in self.sent if frame[0] == frames.ASK]

    def asked_chain(self) -> list[tuple[str, int]]:
        """Who was asked for the links since which epoch, since the last time; the record is cleared."""
        found = [(to, ask.epoch) for to, ask in self.asked() if isinstance(ask, AskChain)]
        self.sent.clear()
        return found

    def outputs(self, kind: type[T]) -> list[T]:
        return [output for output in self.said if isinstance(output, kind)]

    def executed(self) -> list[Executed]:
        return self.outputs(Executed)

    def refused(self) -> list[str]:
        return [output.member for output in self.outputs(LinkRefused)]

    def moves(self) -> list[int]:
        return [output.place.configuration.epoch for output in self.outputs(Moved)]
