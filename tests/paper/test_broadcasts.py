"""The broadcasts, claim by claim: consistent (CRYPTO 2001, section 3.2) and reliable (Bracha 1987, section 3)."""

from __future__ import annotations

from typing import Any

import pytest

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import reliable_broadcast as rb
from bftkit.core.digest import digest
from bftkit.core.machine import Blame, Broadcast, Deliver, Effect, MemberId, Out, Persist, Send
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.core.state import fingerprint
from bftkit.sim.keyring import fast_keyrings

ID = b"round 3"
V, W = b"a value", b"another value"
DV, DW = digest(V), digest(W)
KEYRINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), [f"m{index}" for index in range(9)])


class Play:
    """One machine; the test says what its peers say."""

    def __init__(
        self, kind: Any, me: MemberId, sender: MemberId = "m0", n: int = 4, f: int = 1, c: int = 0, name: bytes = ID
    ) -> None:
        members = tuple(f"m{index}" for index in range(n))
        self.kind, self.sender, self.id = kind, sender, name
        self.setup = Setup(me, members, Quorum(n, f, c), KEYRINGS[me])
        self.records: list[bytes] = []
        self.machine = kind.create(self.setup, name, sender, 1000)

    def do(self, event: str, *values: Any) -> list[Any]:
        out: Out[Any, Any] = Out()
        getattr(self.machine, event)(*values, out)
        self.records.extend(effect.record for effect in out.effects if isinstance(effect, Persist))
        return out.effects

    def hear(self, sender: MemberId, message: Any) -> list[Any]:
        return self.do("on_message", sender, message)

    def give(self, value: Any) -> list[Any]:
        return self.do("on_input", value)

    def restart(self) -> None:
        self.machine = self.kind.create(self.setup, self.id, self.sender, 1000)
        assert self.do("on_restore", list(self.records)) == []


def consistent(me: MemberId, **more: Any) -> Play:
    return Play(cb.ConsistentBroadcast, me, **more)


def reliable(me: MemberId, **more: Any) -> Play:
    return Play(rb.ReliableBroadcast, me, **more)


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test have quorums that are wrong."""

    def accept(quorum: Quorum) -> None: ...

    monkeypatch.setattr(Quorum, "__attrs_post_init__", accept)


def echo_of(member: MemberId, value: bytes = V, **more: Any) -> cb.Echo:
    """What the member answers to a Send of the value."""
    play = consistent(member, **more)
    play.hear(play.sender, cb.Send(value))
    echo = play.give(cb.Approve())[-1].message
    assert isinstance(echo, cb.Echo)
    return echo


def final_of(value: bytes = V, voters: tuple[MemberId, ...] = ("m1", "m2"), **more: Any) -> cb.Final:
    """What the sender m0 makes of the votes of these members and its own."""
    play = consistent("m0", **more)
    effects = play.give(cb.Start(value))
    for member in voters:
        effects = play.hear(member, echo_of(member, value, **more))
    final = effects[0].message
    assert isinstance(final, cb.Final)
    return final


# ------------------------------------------------------------------------------------------- consistent: the steps


def test_the_sender_persists_its_value_before_it_sends_it() -> None:
    play = consistent("m0")
    persisted, sent = play.give(cb.Start(V, (DW,)))
    assert persisted == Persist(cb.CODEC.encode(cb.Send(V)), 0)
    assert sent == Broadcast(cb.Send(V), (DW,))
    assert play.machine.said() == (cb.Send(V),)


def test_a_receiver_echoes_when_its_parent_approves_and_persists_first() -> None:
    play = consistent("m1")
    assert play.hear("m0", cb.Send(V)) == [Deliver(cb.Offered(V))]
    assert play.hear("m0", cb.Send(V)) == [], "bytes before votes (SAFETY rule 3)"
    persisted, sent = play.give(cb.Approve())
    assert sent == Send(("m0",), echo_of("m1"))
    assert persisted == Persist(cb.CODEC.encode(sent.message), 0)
    assert play.give(cb.Approve()) == []
    assert play.hear("m0", cb.Send(V)) == [sent], "the same again gets the same answer"


def test_n_minus_t_votes_make_the_final_and_the_sender_delivers() -> None:
    play = consistent("m0")
    play.give(cb.Start(V))
    assert play.hear("m2", echo_of("m2")) == []
    assert play.hear("m2", echo_of("m2")) == [], "one member counts once"
    sent, delivered = play.hear("m3", echo_of("m3"))
    final = sent.message
    assert delivered == Deliver(cb.Delivered(V, cb.CODEC.encode(final)))
    assert play.machine.proof == cb.CODEC.encode(final)
    assert play.machine.said() == (final,)
    assert play.hear("m1", echo_of("m1")) == []
    assert play.machine.certifier.signers(final.certificate) == ("m0", "m2", "m3")


@pytest.mark.parametrize(
    ("n", "f", "c", "size"), [(4, 1, 0, 3), (5, 1, 0, 4), (7, 1, 1, 5), (8, 1, 1, 6), (1, 0, 0, 1)]
)
def test_the_certificate_has_n_minus_t_votes(n: int, f: int, c: int, size: int) -> None:
    more: dict[str, Any] = {"n": n, "f": f, "c": c}
    play = consistent("m0", **more)
    effects = play.give(cb.Start(V))
    count = 1
    while not any(isinstance(effect, Deliver) for effect in effects):
        effects = play.hear(f"m{count}", echo_of(f"m{count}", **more))
        count += 1
    assert count == size


def test_whoever_is_given_the_final_by_anybody_delivers_the_same() -> None:
    final = final_of()
    proof = cb.CODEC.encode(final)
    for before in ([], [cb.Send(V)], [cb.Send(W)]):
        play = consistent("m3")
        for message in before:
            play.hear("m0", message)
        assert play.hear("m2", final) == [Deliver(cb.Delivered(V, proof))]
        assert play.hear("m0", final) == [], "delivered once"
    assert cb.check_proof(play.setup, ID, "m0", proof) == V
    assert cb.check_proof(play.setup, ID, "m0", proof) == V
    assert cb.proof_signers(play.setup, proof) == ("m0", "m1", "m2")


def test_a_sender_that_asks_again_is_given_the_final() -> None:
    play = consistent("m3")
    final = final_of()
    play.hear("m0", cb.Send(V))
    play.give(cb.Approve())
    play.hear("m2", final)
    assert play.hear("m0", cb.Send(V)) == [Send(("m0",), final)]


def test_a_late_approval_of_what_was_delivered_says_nothing() -> None:
    play = consistent("m3")
    play.hear("m0", cb.Send(V))
    play.hear("m2", final_of())
    assert play.give(cb.Approve()) == []


# ------------------------------------------------------------------------------------------- consistent: lies


def test_nobody_echoes_two_values() -> None:
    play = consistent("m1")
    play.hear("m0", cb.Send(V))
    (blame,) = play.hear("m0", cb.Send(W))
    assert blame == Blame("m0", "sent two values in one broadcast")
    *_, sent = play.give(cb.Approve())
    assert sent.message == echo_of("m1", V)
    assert play.hear("m0", cb.Send(W)) == [blame]
    assert play.hear("m0", cb.Send(V)) == [sent]


def test_nobody_echoes_another_value_after_a_restart() -> None:
    play = consistent("m1")
    play.hear("m0", cb.Send(V))
    *_, sent = play.give(cb.Approve())
    play.restart()
    assert play.hear("m0", cb.Send(W)) == [Blame("m0", "sent two values in one broadcast")]
    assert play.hear("m0", cb.Send(V)) == [sent], "the same again, without asking the parent anew"
    assert play.hear("m0", cb.Send(W)) == [Blame("m0", "sent two values in one broadcast")]
    assert play.give(cb.Approve()) == []


def test_what_was_offered_and_not_echoed_is_offered_again_after_a_restart() -> None:
    play = consistent("m1")
    play.hear("m0", cb.Send(V))
    play.restart()
    assert play.hear("m0", cb.Send(W)) == [Deliver(cb.Offered(W))]


def test_a_restarted_sender_goes_on_with_its_value_and_no_other() -> None:
    play = consistent("m0")
    play.give(cb.Start(V))
    play.hear("m1", echo_of("m1"))
    play.restart()
    assert play.machine.said() == (cb.Send(V),)
    with pytest.raises(ValueError, match="another value"):
        play.give(cb.Start(W))
    assert play.give(cb.Start(V)) == [Broadcast(cb.Send(V))]
    play.hear("m1", echo_of("m1"))
    assert isinstance(play.hear("m2", echo_of("m2"))[-1], Deliver)
    assert play.give(cb.Start(V)) == []


def test_a_bad_vote_is_blamed_once_and_no_more_looked_at() -> None:
    play = consistent("m0")
    play.give(cb.Start(V))
    for bad in (echo_of("m1", W), echo_of("m2"), cb.Echo(b""), echo_of("m1", name=b"round 4")):
        fresh = consistent("m0")
        fresh.give(cb.Start(V))
        assert fresh.hear("m1", bad) == [Blame("m1", "sent an echo with a bad vote")]
        assert fresh.hear("m1", bad) == []
        assert fresh.hear("m1", echo_of("m1")) == []
        assert fresh.machine.votes.keys() == {"m0"}


def test_the_fields_of_a_statement_cannot_run_into_each_other() -> None:
    texts = {cb.statement(name, sender, V) for name, sender in ((b"0x", "m1"), (b"x", "m10"), (b"x", "m1"))}
    assert len(texts) == 3
    assert cb.statement(ID, "m0", V) != cb.statement(ID, "m0", W)


def test_a_final_is_refused_with_any_change() -> None:
    good = final_of()
    short = final_of(n=5, voters=("m1", "m2", "m3"))
    changed = {
        "value": cb.Final(W, good.certificate),
        "certificate": cb.Final(V, good.certificate[:-1] + bytes([good.certificate[-1] ^ 1])),
        "of another broadcast": final_of(name=b"round 4"),
        "nothing": cb.Final(V, b""),
        "of another size": short,
    }
    for what, final in changed.items():
        play = consistent("m3")
        assert play.hear("m2", final) == [Blame("m2", "sent a final with a bad certificate")], what
        assert play.hear("m2", final) == [], "a liar costs one check"
        assert cb.check_proof(play.setup, ID, "m0", cb.CODEC.encode(final)) is None, what
        assert isinstance(play.hear("m1", good)[0], Deliver)


def test_only_a_final_is_a_proof_and_only_of_its_broadcast() -> None:
    setup = consistent("m3").setup
    proof = cb.CODEC.encode(final_of())
    assert cb.check_proof(setup, ID, "m0", proof) == V
    assert cb.check_proof(setup, ID, "m1", proof) is None
    assert cb.check_proof(setup, b"round 4", "m0", proof) is None
    for other in (b"", b"\x03", proof + b"\0", proof[:-1], cb.CODEC.encode(cb.Send(V))):
        assert cb.check_proof(setup, ID, "m0", other) is None
        assert cb.proof_signers(setup, other) == ()


def test_who_speaks_out_of_its_role_is_blamed() -> None:
    play = consistent("m1")
    assert play.hear("m2", cb.Send(V)) == [Blame("m2", "sent a value in the broadcast of m0")]
    assert play.hear("m2", echo_of("m2")) == [Blame("m2", "sent an echo of the broadcast of m0")]
    (blame,) = play.hear("m0", cb.Send(bytes(1001)))
    assert blame == Blame("m0", "sent a value of 1001 bytes, more than 1000")
    assert play.machine.value is None


def test_an_echo_before_anything_was_sent_is_nothing() -> None:
    play = consistent("m0")
    assert play.hear("m1", echo_of("m1")) == []
    assert play.machine.votes == {}


def two_finals(n: int, f: int) -> list[bytes]:
    """The liar m0 sends V to half of the others and W to the rest, and votes for both: the values that it can prove."""
    others = [f"m{index}" for index in range(1, n)]
    sides = {V: others[: (n - 1) // 2], W: others[(n - 1) // 2 :]}
    proved: list[bytes] = []
    for value, members in sides.items():
        play = consistent("m0", n=n, f=f)
        play.give(cb.Start(value))
        for member in members:
            play.hear(member, echo_of(member, value, n=n, f=f))
        # Votes of the other side are for the other value.
        for member in (member for member in others if member not in members):
            play.hear(member, echo_of(member, W if value == V else V, n=n, f=f))
        if play.machine.proof is not None:
            assert cb.check_proof(consistent("m1", n=n, f=f).setup, ID, "m0", play.machine.proof) == value
            proved.append(value)
    return proved


@pytest.mark.parametrize(("n", "f"), [(4, 1), (5, 1), (6, 1), (7, 2), (9, 2)])
def test_a_sender_that_splits_the_group_cannot_prove_two_values(n: int, f: int) -> None:
    assert len(two_finals(n, f)) <= 1


def test_with_certificates_of_2f_plus_1_votes_it_could(monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked(monkeypatch)
    monkeypatch.setattr(Quorum, "available", property(lambda quorum: 2 * quorum.f + 1))
    assert two_finals(6, 1) == [V, W]


def test_two_finals_for_two_values_prove_who_echoed_twice() -> None:
    # More than f liars are needed: here m0, m1 and m2 vote for both.
    play = consistent("m3")
    play.hear("m0", final_of(V, ("m1", "m2")))
    blames = play.hear("m0", final_of(W, ("m1", "m2")))
    assert [(blame.member, blame.fault) for blame in blames] == [
        (member, "echoed two values of one broadcast") for member in ("m0", "m1", "m2")
    ]
    proof = cb.PROOFS.decode(blames[0].proof)
    for final in (proof.first, proof.second):
        assert cb.check_proof(play.setup, ID, "m0", cb.CODEC.encode(final)) == final.value
    assert {proof.first.value, proof.second.value} == {V, W}


def test_the_mistakes_of_a_caller_are_said() -> None:
    with pytest.raises(ValueError, match="m9 is none of the members"):
        consistent("m1", sender="m9")
    with pytest.raises(ValueError, match="too long"):
        consistent("m1", name=bytes(129))
    with pytest.raises(ValueError, match="does not start"):
        consistent("m1").give(cb.Start(V))
    with pytest.raises(ValueError, match="longer than 1000"):
        consistent("m0").give(cb.Start(bytes(1001)))
    with pytest.raises(ValueError, match="nothing was offered"):
        consistent("m1").give(cb.Approve())
    play = consistent("m0")
    play.give(cb.Start(V))
    with pytest.raises(ValueError, match="nothing was offered"):
        play.give(cb.Approve())


def test_a_copy_goes_its_own_way() -> None:
    play = consistent("m0")
    play.give(cb.Start(V))
    copy = play.machine.fork()
    assert copy.fingerprint() == play.machine.fingerprint()
    before = fingerprint(copy)
    play.hear("m1", echo_of("m1"))
    assert copy.fingerprint() == before != play.machine.fingerprint()


# ------------------------------------------------------------------------------------------- reliable: the steps


def names(effects: list[Effect[Any, Any]]) -> list[Any]:
    """What is sent to all, and what is delivered."""
    found: list[Any] = []
    for effect in effects:
        match effect:
            case Broadcast(item) | Deliver(item):
                found.append(item)
            case _:
                pass
    return found


def test_step_1_the_first_value_is_echoed_and_its_bytes_are_durable_before() -> None:
    play = reliable("m1")
    persisted, sent = play.hear("m0", rb.Send(V))
    assert persisted == Persist(rb.CODEC.encode(rb.Send(V)), 0)
    assert sent == Broadcast(rb.Echo(DV))
    assert play.hear("m0", rb.Send(V)) == []
    assert play.hear("m0", rb.Send(W)) == [Blame("m0", "sent two values in one broadcast")]


def test_step_2_q_echoes_make_ready() -> None:
    play = reliable("m3", n=6, f=1, c=1)
    assert play.setup.quorum.certificate == 4
    for member in ("m0", "m1", "m2"):
        assert play.hear(member, rb.Echo(DV)) == []
    assert play.hear("m2", rb.Echo(DV)) == [], "one member counts once"
    assert play.hear("m4", rb.Echo(DW)) == [], "another value counts for itself"
    persisted, sent = play.hear("m5", rb.Echo(DV))
    assert persisted == Persist(rb.CODEC.encode(rb.Ready(DV)), 0)
    assert sent == Broadcast(rb.Ready(DV))


def test_the_quorum_of_echoes_is_larger_than_2f_plus_1_above_the_smallest_n() -> None:
    # n = 6, f = 1: two sets of 2 f + 1 = 3 echoes can meet in the liar only, and two values would be ready.
    play = reliable("m1", n=6, f=1)
    for member in ("m0", "m2", "m3"):
        assert names(play.hear(member, rb.Echo(DV))) == []
    assert names(play.hear("m4", rb.Echo(DV))) == [rb.Ready(DV)]


def test_the_send_counts_as_the_sender_s_echo() -> None:
    play = reliable("m1")
    play.hear("m2", rb.Echo(DV))
    assert names(play.hear("m0", rb.Send(V))) == [rb.Echo(DV), rb.Ready(DV)]
    assert play.hear("m0", rb.Echo(DW)) == [Blame("m0", "echoed two values of one broadcast")]


def test_f_plus_1_readys_amplify_and_n_minus_t_deliver() -> None:
    play = reliable("m3", n=6, f=1, c=1)
    play.hear("m0", rb.Send(V))
    assert names(play.hear("m1", rb.Ready(DV))) == []
    assert names(play.hear("m2", rb.Ready(DV))) == [rb.Ready(DV)]
    assert names(play.hear("m4", rb.Ready(DV))) == [rb.Delivered(V)], "three others and this one are n - t = 4"
    assert names(play.hear("m5", rb.Ready(DV))) == []


def talk(group: dict[MemberId, Play], speakers: tuple[MemberId, ...]) -> set[MemberId]:
    """The speakers say all again, and everything in the group arrives, in order. Returns who delivers."""
    flying = [
        (speaker, receiver, message)
        for speaker in speakers
        for message in group[speaker].machine.said()
        for receiver in group
        if receiver != speaker
    ]
    delivered: set[MemberId] = set()
    while flying:
        sender, receiver, message = flying.pop(0)
        effects: list[Effect[Any, Any]] = group[receiver].hear(sender, message)
        for effect in effects:
            match effect:
                case Broadcast(said):
                    flying.extend((receiver, other, said) for other in group if other != receiver)
                case Send(to, said):
                    flying.extend((receiver, other, said) for other in to if other in group)
                case Deliver():
                    delivered.add(receiver)
                case _:
                    pass
    return delivered


def one_delivers_and_two_fall_silent() -> dict[MemberId, Play]:
    """n = 6, f = 1, c = 1: the correct members m0 to m3, of which m0 has delivered and m2, m3 heard nothing yet.

    The liar m5 sent to m0, m1 and m4 only; m4 crashed when it had spoken to m0 and m1, and is left out.
    """
    group = {f"m{index}": reliable(f"m{index}", sender="m5", n=6, f=1, c=1) for index in range(5)}
    quorum = group["m0"].setup.quorum
    assert (quorum.certificate, quorum.available, quorum.faulty + 1) == (4, 4, 3)
    speaking = ("m0", "m1", "m4")
    for member in speaking:
        # The Send is the liar's echo: with it and each other's the three have q.
        assert names(group[member].hear("m5", rb.Send(V))) == [rb.Echo(DV)]
    for member in speaking:
        for other in speaking:
            if other != member:
                group[member].hear(other, rb.Echo(DV))
        assert group[member].machine.said() == (rb.Echo(DV), rb.Ready(DV))
    for member in ("m1", "m4", "m5"):
        effects = group["m0"].hear(member, rb.Ready(DV))
    assert names(effects) == [rb.Delivered(V)]
    del group["m4"]
    return group


def test_totality_by_amplification_at_f_plus_1() -> None:
    """m2 and m3 never hear q echoes, and two correct members' readys: f + 1."""
    group = one_delivers_and_two_fall_silent()
    assert talk(group, ("m0", "m1")) == {"m1", "m2", "m3"}
    assert group["m2"].machine.said() == (rb.Ready(DV),), "amplified, and its bytes asked for"


def test_amplification_at_t_plus_1_never_fires(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the number of the papers, which write t for both kinds of faults: m0 delivers alone."""
    monkeypatch.setattr(Quorum, "weak", property(lambda quorum: quorum.faulty + 1))
    group = one_delivers_and_two_fall_silent()
    for _ in range(3):
        assert talk(group, ("m0", "m1", "m2", "m3")) == set()


def split(n: int, f: int) -> set[bytes]:
    """What is delivered: the liar m0 sends V to half of the others and W to the rest, and is ready for both."""
    group = {f"m{index}": reliable(f"m{index}", n=n, f=f) for index in range(1, n)}
    sides = {member: V if index < (n - 1) // 2 else W for index, member in enumerate(group)}
    near: list[tuple[MemberId, MemberId, Any]] = []
    far: list[tuple[MemberId, MemberId, Any]] = []
    for member, value in sides.items():
        near += [("m0", member, rb.Send(value)), ("m0", member, rb.Ready(digest(value)))]
    delivered: set[bytes] = set()
    while near or far:
        # Each side hears itself first, and nothing of the other before it has done what it can.
        sender, receiver, message = near.pop(0) if near else far.pop(0)
        effects: list[Effect[Any, Any]] = group[receiver].hear(sender, message)
        for effect in effects:
            match effect:
                case Broadcast(said):
                    for other in group:
                        if other != receiver:
                            (near if sides[other] == sides[receiver] else far).append((receiver, other, said))
                case Deliver(output):
                    delivered.add(output.value)
                case _:
                    pass
    return delivered


@pytest.mark.parametrize(("n", "f"), [(4, 1), (5, 1), (6, 1), (7, 2), (8, 2), (9, 2)])
def test_a_sender_that_splits_the_group_does_not_get_two_values_delivered(n: int, f: int) -> None:
    assert len(split(n, f)) <= 1


@pytest.mark.parametrize(("n", "f"), [(6, 1), (9, 2)])
def test_with_2f_plus_1_for_a_quorum_it_would(monkeypatch: pytest.MonkeyPatch, n: int, f: int) -> None:
    """Above the smallest n, sets of 2f + 1 need not share a correct member (SAFETY rule 1)."""
    unchecked(monkeypatch)
    monkeypatch.setattr(Quorum, "certificate", property(lambda quorum: 2 * quorum.f + 1))
    monkeypatch.setattr(Quorum, "available", property(lambda quorum: 2 * quorum.f + 1))
    assert split(n, f) == {V, W}


# ------------------------------------------------------------------------------------------- reliable: the bytes


def ready_without_bytes(n: int = 4, f: int = 1, c: int = 0) -> Play:
    """A member for which n - t are ready, and that has neither the bytes nor an echo."""
    play = reliable(f"m{n - 1}", n=n, f=f, c=c)
    for index in range(play.setup.quorum.available):
        effects = play.hear(f"m{index}", rb.Ready(DV))
        assert not any(isinstance(effect, Deliver) for effect in effects)
    return play


def test_who_lacks_the_bytes_asks_f_plus_c_plus_1_echoers() -> None:
    play = ready_without_bytes(6, 1, 1)
    asked: list[MemberId] = []
    for index in range(5):
        for effect in play.hear(f"m{index}", rb.Echo(DV if index != 1 else DW)):
            assert effect == Send(effect.to, rb.Ask(DV))
            asked.extend(effect.to)
    assert asked == ["m0", "m2", "m3"]
    assert rb.Ask(DV) in play.machine.said()
    assert names(play.hear("m2", rb.Answer(V))) == [rb.Delivered(V)]
    assert rb.Ask(DV) not in play.machine.said()
    assert play.hear("m0", rb.Answer(V)) == [], "delivered once"


def test_other_bytes_are_no_answer_and_are_hashed_once() -> None:
    play = ready_without_bytes()
    assert play.hear("m0", rb.Answer(W)) == [Blame("m0", "answered with other bytes than were asked for")]
    assert play.hear("m0", rb.Answer(V)) == []
    assert names(play.hear("m1", rb.Answer(V))) == [rb.Delivered(V)]


def test_an_answer_that_nobody_asked_for_is_nothing() -> None:
    play = reliable("m1")
    before = fingerprint(play.machine)
    assert play.hear("m2", rb.Answer(V)) == []
    assert fingerprint(play.machine) == before


def test_a_send_that_comes_last_delivers() -> None:
    play = ready_without_bytes()
    assert names(play.hear("m0", rb.Send(V))) == [rb.Echo(DV), rb.Delivered(V)]


def test_who_holds_the_bytes_answers_and_not_for_ever() -> None:
    play = reliable("m1")
    play.hear("m0", rb.Send(V))
    assert play.hear("m2", rb.Ask(DW)) == []
    assert [play.hear("m2", rb.Ask(DV)) for _ in range(rb.ANSWERS_MAX + 3)] == [
        *[[Send(("m2",), rb.Answer(V))]] * rb.ANSWERS_MAX,
        [],
        [],
        [],
    ]
    assert play.hear("m3", rb.Ask(DV)) == [Send(("m3",), rb.Answer(V))]


def test_what_was_fetched_is_passed_on_though_the_sender_sent_other_bytes() -> None:
    play = reliable("m3")
    play.hear("m0", rb.Send(W))
    for index in range(3):
        play.hear(f"m{index}", rb.Ready(DV))
    play.hear("m1", rb.Answer(V))
    assert play.hear("m2", rb.Ask(DV)) == [Send(("m2",), rb.Answer(V))]
    assert play.hear("m2", rb.Ask(DW)) == [Send(("m2",), rb.Answer(W))]


# ------------------------------------------------------------------------------------------- reliable: restarts, lies


def test_nobody_echoes_or_is_ready_for_another_value_after_a_restart() -> None:
    play = reliable("m1")
    play.hear("m0", rb.Send(V))
    play.hear("m2", rb.Echo(DV))
    assert play.machine.said() == (rb.Echo(DV), rb.Ready(DV))
    play.restart()
    assert play.machine.said() == (rb.Echo(DV), rb.Ready(DV))
    assert play.hear("m0", rb.Send(W)) == [Blame("m0", "sent two values in one broadcast")]
    for member in ("m0", "m2", "m3"):
        assert names(play.hear(member, rb.Echo(DW))) == []
    assert names(play.hear("m2", rb.Ready(DW))) == []
    assert names(play.hear("m3", rb.Ready(DW))) == []
    assert play.machine.said() == (rb.Echo(DV), rb.Ready(DV))
    assert play.hear("m2", rb.Ask(DV)) == [Send(("m2",), rb.Answer(V))], "the bytes outlive a restart"


def test_a_restarted_sender_goes_on_with_its_value_and_no_other_one() -> None:
    play = reliable("m0")
    assert play.give(rb.Start(V)) == [Persist(rb.CODEC.encode(rb.Send(V)), 0), Broadcast(rb.Send(V))]
    play.restart()
    assert play.machine.said() == (rb.Send(V),)
    with pytest.raises(ValueError, match="another value"):
        play.give(rb.Start(W))
    assert play.give(rb.Start(V)) == [Broadcast(rb.Send(V))]


def test_after_a_restart_the_sender_s_echo_counts_again() -> None:
    play = reliable("m1")
    play.hear("m0", rb.Send(V))
    play.restart()
    play.hear("m2", rb.Echo(DV))
    assert names(play.hear("m0", rb.Send(V))) == [rb.Ready(DV)]


def test_two_words_of_one_member_are_blamed_and_the_first_counts() -> None:
    play = reliable("m1")
    play.hear("m2", rb.Echo(DV))
    play.hear("m3", rb.Ready(DV))
    assert play.hear("m2", rb.Echo(DW)) == [Blame("m2", "echoed two values of one broadcast")]
    assert play.hear("m3", rb.Ready(DW)) == [Blame("m3", "was ready for two values of one broadcast")]
    assert (play.machine.echoes, play.machine.readys) == ({"m2": DV}, {"m3": DV})
    assert play.hear("m2", rb.Send(V)) == [Blame("m2", "sent a value in the broadcast of m0")]
    (blame,) = play.hear("m0", rb.Send(bytes(1001)))
    assert blame.fault == "sent a value of 1001 bytes, more than 1000"


def test_a_group_of_one_needs_nobody() -> None:
    play = reliable("m0", n=1, f=0)
    assert names(play.give(rb.Start(V))) == [rb.Send(V), rb.Ready(DV), rb.Delivered(V)]


def test_the_mistakes_of_a_caller_of_the_reliable_broadcast_are_said() -> None:
    with pytest.raises(ValueError, match="m9 is none of the members"):
        reliable("m1", sender="m9")
    with pytest.raises(ValueError, match="does not start"):
        reliable("m1").give(rb.Start(V))
    with pytest.raises(ValueError, match="longer than 1000"):
        reliable("m0").give(rb.Start(bytes(1001)))
    with pytest.raises(ValueError, match="too long"):
        rb.ReliableBroadcast.create(reliable("m1").setup, ID, "m0", rb.VALUE_BYTES_MAX + 1)
