"""The client's machine: what it believes, and when it asks again (SAFETY rules 8 and 13)."""

from __future__ import annotations

import attrs
import pytest

from bftkit.channel import frames
from bftkit.channel.bundles import FAILED, OK, OPEN, REQUESTS, Bundle, opening_tag, pack_results, parse_bundle
from bftkit.channel.client import (
    PATIENCE_TICKS,
    RETRY_TICKS,
    WATCHED_BYTES,
    AskRead,
    ClientMachine,
    ClientOutput,
    ClientSettings,
    Executed,
    NotExecuted,
    ReadDone,
    SendNow,
    Submit,
)
from bftkit.channel.frames import ASK_CODEC, LinkProof, Read, ReadAnswer, ReadRefusal, Refusal, pack_answer, pack_reply
from bftkit.configuration.policy import Mode, Policy
from bftkit.core.digest import digest
from bftkit.core.machine import Deliver, Draw, Out, Send
from bftkit.core.quorum import Quorum
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import Place
from bftkit.sim.keyring import fast_keyrings
from tests.unit.test_wishes import group

GROUP = b"g" * 32
MEMBERS = ("m0", "m1", "m2", "m3")
RINGS = fast_keyrings(b"seed", GROUP, 0, GROUP, MEMBERS)
SESSION = 5 << 20


class Client:
    """A machine, and what it sent and said."""

    def __init__(self, *, quorum: Quorum | None = None, linked: bool = True, window: int = 16_384) -> None:
        self.quorum = quorum or Quorum(4, 1)
        self.members = MEMBERS[: self.quorum.n] if self.quorum.n <= 4 else tuple(f"m{i}" for i in range(self.quorum.n))
        rings = fast_keyrings(b"seed", GROUP, 0, GROUP, self.members)
        self.rings = rings
        settings = ClientSettings(
            GROUP, self.members, self.quorum, SigningKey(b"c" * 32), rings["m0"], 1, session_window=window
        )
        self.machine = ClientMachine(settings)
        self.sent: list[tuple[str, bytes]] = []
        self.said: list[ClientOutput] = []
        if linked:
            for member in self.members:
                self.link(member)

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
                case _:
                    pass

    def link(self, member: str, signer: str | None = None) -> None:
        binding = b"binding of " + member.encode()
        self.step("on_link", member, binding)
        signature = self.rings[signer or member].sign(frames.LINK_PURPOSE, binding)
        self.hear(member, pack_answer(LinkProof(0, signature)))

    def hear(self, member: str, frame: bytes) -> None:
        self.step("on_message", member, frame)

    def submit(self, *operations: bytes) -> None:
        self.step("on_input", Submit(operations))
        self.step("on_input", SendNow())

    def bundles(self) -> list[tuple[str, Bundle]]:
        return [
            (to, parse_bundle(frame[1:], bytes_max=1 << 20)) for to, frame in self.sent if frame[0] == frames.BUNDLE
        ]

    def open(self) -> None:
        """Submit nothing yet, but let the session be opened."""
        self.submit(b"first")
        for member in ("m0", "m1")[: self.quorum.weak]:
            self.reply(member, 0, [(OK, SESSION.to_bytes(8, "big"))], session=0, slot=5)
        self.sent.clear()

    def reply(
        self,
        member: str,
        first: int,
        results: list[tuple[int, bytes]],
        *,
        slot: int = 9,
        session: int = SESSION,
        full: bool = True,
        leader: int = 0,
        epoch: int = 0,
    ) -> None:
        if first == 0:
            tags = [opening_tag(one.payloads()[0]) for _, one in self.bundles() if one.kind == OPEN]
            session = tags[-1] if tags else session
        blob = pack_results(bytes(status for status, _ in results), [result for _, result in results])
        frame = pack_reply(epoch, slot, session, first, len(results), digest(blob), leader, blob if full else None)
        self.hear(member, frame)

    def tick(self, ticks: int) -> None:
        for _ in range(ticks // RETRY_TICKS):
            self.step("on_timer", ("retry",))

    def executed(self) -> list[Executed]:
        return [output for output in self.said if isinstance(output, Executed)]


def test_a_session_is_opened_before_anything_is_ordered() -> None:
    client = Client()
    client.submit(b"one", b"two")
    assert [(to, bundle.kind) for to, bundle in client.bundles()] == [(member, OPEN) for member in MEMBERS]
    client.reply("m0", 0, [(OK, SESSION.to_bytes(8, "big"))], session=0)
    assert not client.machine.is_open, "one member may lie"
    client.reply("m3", 0, [(OK, SESSION.to_bytes(8, "big"))], session=0)
    assert client.machine.session == SESSION
    to, bundle = client.bundles()[-1]
    assert (to, bundle.kind, bundle.session, bundle.first, bundle.count) == ("m0", REQUESTS, SESSION, 1, 2)
    assert bundle.authentic(GROUP)


def test_the_reply_to_an_opening_of_an_earlier_life_opens_no_session() -> None:
    """Members that restart execute again, and answer whoever has the key now: its session must not be that one."""
    client = Client()
    client.submit(b"one")
    blob = pack_results(bytes((OK,)), [SESSION.to_bytes(8, "big")])
    for member in MEMBERS:
        for tag in (0, 77):
            client.hear(member, pack_reply(0, 5, tag, 0, 1, digest(blob), 0, blob))
    assert not client.machine.is_open
    for member in MEMBERS:
        client.reply(member, 0, [(OK, SESSION.to_bytes(8, "big"))])
    assert client.machine.is_open


def test_f_plus_one_members_must_agree_on_slot_and_results() -> None:
    client = Client()
    client.open()
    client.reply("m1", 1, [(OK, b"yes")])
    client.reply("m2", 1, [(OK, b"no")])
    client.reply("m3", 1, [(OK, b"yes")], slot=10)
    assert client.executed() == []
    client.reply("m0", 1, [(OK, b"yes")])
    assert client.executed() == [Executed(1, 9, [(OK, b"yes")])]
    assert client.machine.contradictions == 2


def test_digests_count_and_one_full_reply_suffices() -> None:
    client = Client()
    client.open()
    client.reply("m1", 1, [(OK, b"long")], full=False)
    client.reply("m2", 1, [(OK, b"long")], full=False)
    assert client.executed() == []
    client.reply("m2", 1, [(OK, b"long")], full=True)
    assert client.executed() == [Executed(1, 9, [(OK, b"long")])]


def test_a_full_reply_that_does_not_fit_its_digest_is_no_result() -> None:
    client = Client()
    client.open()
    good = pack_results(bytes((OK,)), [b"good"])
    for member in ("m1", "m2"):
        client.hear(member, pack_reply(0, 9, SESSION, 1, 1, digest(good), 0, pack_results(bytes((OK,)), [b"evil"])))
    assert client.executed() == []


def test_one_member_has_one_vote_however_often_it_speaks() -> None:
    client = Client()
    client.open()
    for result in (b"a", b"b", b"a", b"a"):
        client.reply("m1", 1, [(OK, result)])
    assert client.executed() == []
    client.reply("m2", 1, [(OK, b"b")])
    assert client.executed() == [], "the member's word of now is a"


def test_links_that_are_not_proved_do_not_count() -> None:
    client = Client(linked=False)
    for member in ("m0", "m1"):
        client.link(member)
    client.link("m3", signer="m2")
    client.open()
    client.reply("m1", 1, [(OK, b"yes")])
    client.reply("m2", 1, [(OK, b"yes")])
    client.reply("m3", 1, [(OK, b"yes")])
    assert client.executed() == []
    client.link("m3")
    client.reply("m3", 1, [(OK, b"yes")])
    assert len(client.executed()) == 1


def test_other_epochs_and_sessions_do_not_count() -> None:
    client = Client()
    client.open()
    for member in MEMBERS:
        client.reply(member, 1, [(OK, b"yes")], epoch=1)
        client.reply(member, 1, [(OK, b"yes")], session=SESSION + 1)
        client.reply(member, 1, [(OK, b"yes"), (OK, b"more")])
    assert client.executed() == []


def test_what_is_late_goes_to_everybody_unchanged() -> None:
    client = Client()
    client.open()
    client.submit(b"second")
    first = client.bundles()[-1][1].raw
    client.sent.clear()
    client.tick(PATIENCE_TICKS - RETRY_TICKS)
    assert client.sent == []
    client.tick(RETRY_TICKS)
    again = client.bundles()
    assert {to for to, _ in again} == set(MEMBERS)
    assert first in {bundle.raw for _, bundle in again}
    assert {bundle.first for _, bundle in again} == {1, 2}


def test_new_bundles_go_to_the_leader_that_the_replies_name() -> None:
    client = Client()
    client.open()
    client.reply("m1", 1, [(OK, b"")], leader=2)
    client.reply("m2", 1, [(OK, b"")], leader=2)
    client.submit(b"second")
    assert client.bundles()[-1][0] == "m2"


def test_one_liar_leads_no_client_astray() -> None:
    """FAULTS 31 and 33: its reply is often the one that completes f + 1."""
    client = Client()
    client.open()
    client.submit(b"first")
    before = client.bundles()[-1][0]
    client.reply("m1", 1, [(OK, b"")], leader=0)
    client.reply("m3", 1, [(OK, b"")], leader=3)
    assert client.executed()
    client.submit(b"second")
    assert client.bundles()[-1][0] == before != "m3"


def test_if_enough_members_say_that_nobody_leads_new_bundles_go_to_all_of_them() -> None:
    client = Client()
    client.open()
    client.reply("m1", 1, [(OK, b"")], leader=frames.NO_LEADER)
    client.reply("m2", 1, [(OK, b"")], leader=frames.NO_LEADER)
    client.sent.clear()
    client.submit(b"second")
    assert [to for to, _ in client.bundles()] == list(MEMBERS)
    client.sent.clear()
    client.step("on_link", "m3", b"anew")
    assert [(to, bundle.first) for to, bundle in client.bundles()] == [("m3", 2)], "it may have been lost on the way"


def test_one_member_that_sees_no_leader_changes_nothing() -> None:
    client = Client()
    client.open()
    client.submit(b"first")
    client.reply("m1", 1, [(OK, b"")], leader=0)
    client.reply("m3", 1, [(OK, b"")], leader=frames.NO_LEADER)
    assert client.executed()
    client.sent.clear()
    client.submit(b"second")
    assert [to for to, _ in client.bundles()] == ["m0"]


def test_new_bundles_go_to_a_leader_again_once_there_is_one() -> None:
    client = Client()
    client.open()
    for number, leader, receivers in ((1, frames.NO_LEADER, list(MEMBERS)), (2, 3, ["m3"])):
        client.reply("m1", number, [(OK, b"")], leader=leader)
        client.reply("m2", number, [(OK, b"")], leader=leader)
        client.sent.clear()
        client.submit(b"more")
        assert [to for to, _ in client.bundles()] == receivers


def test_the_window_holds_back_what_is_too_far_ahead() -> None:
    client = Client(window=4)
    client.open()
    client.submit(*(b"%d" % number for number in range(10)))
    assert sum(bundle.count for _, bundle in client.bundles()) == 3
    client.reply("m0", 1, [(OK, b"")])
    client.reply("m1", 1, [(OK, b"")])
    client.step("on_input", SendNow())
    assert max(bundle.end for _, bundle in client.bundles()) == 6
    assert client.bundles()[-1][1].low == 2


def test_a_session_that_ended_is_opened_anew_and_what_waited_is_unknown() -> None:
    client = Client()
    client.open()
    refusal = pack_answer(Refusal(SESSION, 1, frames.NO_SESSION, "gone"))
    client.hear("m1", refusal)
    assert client.said == []
    client.hear("m2", refusal)
    client.submit(b"second")
    (lost,) = client.said
    assert isinstance(lost, NotExecuted)
    assert (lost.first, lost.count, lost.unknown) == (1, 1, True)
    assert not client.machine.is_open
    assert client.bundles()[-1][1].kind == OPEN


@pytest.mark.parametrize("reason", [frames.BUSY, frames.STOPPED])
def test_refusals_for_now_are_no_answers(reason: int) -> None:
    client = Client()
    client.open()
    for member in MEMBERS:
        client.hear(member, pack_answer(Refusal(SESSION, 1, reason, "not now")))
    assert client.said == []
    assert client.machine.outstanding == 1


def test_a_refusal_for_good_needs_f_plus_one() -> None:
    client = Client()
    client.open()
    client.hear("m1", pack_answer(Refusal(SESSION, 1, frames.TOO_LARGE, "too large")))
    assert client.said == []
    client.hear("m2", pack_answer(Refusal(SESSION, 1, frames.TOO_LARGE, "too large")))
    assert client.said == [NotExecuted(1, 1, "too large")]


# Reads


def read_answer(client: Client, member: str, number: int, result: bytes, *, slot: int = 9, failed: int = 0) -> None:
    name = digest(bytes((failed,)), result)
    client.hear(member, pack_answer(ReadAnswer(number, 0, slot, failed, name, result)))


def asked(client: Client) -> list[tuple[str, int]]:
    found = [(to, ASK_CODEC.decode(frame[1:])) for to, frame in client.sent if frame[0] == frames.ASK]
    return [(to, ask.number) for to, ask in found if isinstance(ask, Read)]


def test_a_read_needs_a_quorum_and_not_f_plus_one() -> None:
    client = Client()
    client.step("on_input", AskRead(77, b"question"))
    assert [to for to, _ in asked(client)] == list(MEMBERS)
    read_answer(client, "m0", 1, b"answer", slot=9)
    read_answer(client, "m1", 1, b"answer", slot=10)
    assert client.said == []
    read_answer(client, "m2", 1, b"answer", slot=9)
    assert client.said == [ReadDone(77, OK, b"answer")]


def test_with_small_decision_quorums_a_read_waits_for_more() -> None:
    """SAFETY rule 24: of five, c + 1 = 2 decide; three others need not have heard of it (regression)."""
    client = Client(quorum=Quorum(5, 0, 1))
    client.step("on_input", AskRead(77, b"question"))
    for member in ("m2", "m3", "m4"):
        read_answer(client, member, 1, b"old")
    assert client.said == []
    read_answer(client, "m0", 1, b"old")
    assert client.said == [ReadDone(77, OK, b"old")]


def test_a_read_that_cannot_be_confirmed_is_ordered() -> None:
    client = Client()
    client.open()
    client.step("on_input", AskRead(77, b"question"))
    read_answer(client, "m0", 1, b"old")
    read_answer(client, "m1", 1, b"new")
    client.sent.clear()
    client.hear("m2", pack_answer(ReadRefusal(1, "no")))
    (bundle,) = {bundle.raw: bundle for _, bundle in client.bundles()}.values()
    assert bundle.payloads() == [b"question"]
    client.reply("m1", bundle.first, [(OK, b"new")])
    client.reply("m3", bundle.first, [(OK, b"new")])
    assert ReadDone(77, OK, b"new") in client.said


def test_an_answer_whose_digest_does_not_fit_is_ignored() -> None:
    client = Client()
    client.step("on_input", AskRead(77, b"question"))
    good = digest(b"\0", b"answer")
    for member in MEMBERS[:3]:
        client.hear(member, pack_answer(ReadAnswer(1, 0, 9, 0, good, b"other")))
    assert client.said == []


def test_a_failing_read_is_an_answer_too() -> None:
    client = Client()
    client.step("on_input", AskRead(77, b"question"))
    for member in MEMBERS[:3]:
        read_answer(client, member, 1, b"ValueError: no", failed=1)
    assert client.said == [ReadDone(77, FAILED, b"ValueError: no")]


def test_an_ordered_read_outlives_its_session() -> None:
    """Its caller waits for one answer, and a read may be asked twice (regression: it was never answered)."""
    client = Client()
    client.open()
    client.step("on_input", AskRead(77, b"question"))
    client.tick(PATIENCE_TICKS)
    bundle = next(bundle for _, bundle in client.bundles() if bundle.payloads() == [b"question"])
    for member in ("m1", "m2"):
        client.hear(member, pack_answer(Refusal(SESSION, bundle.first, frames.NO_SESSION, "gone")))
    newer = SESSION + (1 << 20)
    for member in ("m1", "m2"):
        client.reply(member, 0, [(OK, newer.to_bytes(8, "big"))], session=0)
    again = client.bundles()[-1][1]
    assert (again.session, again.payloads()) == (newer, [b"question"])
    for member in ("m1", "m2"):
        client.reply(member, again.first, [(OK, b"answer")], session=newer)
    assert ReadDone(77, OK, b"answer") in client.said


def test_rubbish_is_ignored() -> None:
    client = Client()
    client.open()
    for frame in (b"", b"\x11", b"\x12", b"\x12rubbish", b"\xff" * 50, b"\x11" + bytes(200)):
        client.hear("m1", frame)
    assert client.said == []


def test_an_operation_beyond_the_limit_is_the_callers_mistake() -> None:
    client = Client()
    settings = attrs.evolve(client.machine.settings, operation_bytes_max=10)
    machine = ClientMachine(settings)
    with pytest.raises(ValueError, match="11 bytes"):
        machine.on_input(Submit((b"12345678901",)), Out())


# ------------------------------------------------------------------------------------------------- a policy watches


@pytest.mark.parametrize(
    ("policy", "size", "receivers"),
    [
        (None, 10, ("m0",)),
        (Policy("manual"), 10, ("m0",)),
        (Policy("steady", (Mode("pbft"),)), 10, ("m0",)),
        (Policy("steady", (Mode("pbft"), Mode("cks"))), 10, MEMBERS),
        (Policy("steady", (Mode("pbft"), Mode("cks"))), WATCHED_BYTES, ("m0",)),
    ],
)
def test_where_a_policy_may_change_the_protocol_every_member_sees_what_waits(
    policy: Policy | None, size: int, receivers: tuple[str, ...]
) -> None:
    """Else a leader that is slow is the only one who knows since when requests wait."""
    client = Client()
    client.open()
    place = Place(attrs.evolve(group("pbft", 4, 1, 0).here, policy=policy), GROUP)
    client.machine.settings = attrs.evolve(client.machine.settings, place=place)
    client.sent.clear()
    client.submit(bytes(size))
    assert tuple(to for to, _ in client.bundles()) == receivers
