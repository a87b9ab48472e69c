"""Single-decree Paxos, machine by machine: promises kept, bytes before votes, duels that end, proofs that hold."""

from __future__ import annotations

import attrs
import pytest

from bftkit.blocks import bedrock_messages as m
from bftkit.blocks import single_decree as sd
from bftkit.core.digest import digest
from bftkit.core.machine import Blame, Broadcast, Draw, MemberId, Out, Persist, Record, Send, SetTimer
from bftkit.core.ordering import Setup
from bftkit.sim.block_world import block_setups
from tests.unit.bedrock_world import ID, VALUE_MAX, BedrockWorld, valid, value_of

A, B = b"good a", b"good b"


def machine(setup: Setup) -> sd.SingleDecree:
    return sd.SingleDecree.create(setup, ID, valid, VALUE_MAX)


class Bench:
    """Machines without a world between them: each step's effects are looked at by hand."""

    def __init__(self, n: int = 3, c: int = 1) -> None:
        self.setups = block_setups(n, 0, c, seed=3)
        self.members = tuple(self.setups)
        self.machines = {name: machine(self.setups[name]) for name in self.members}
        self.records: dict[MemberId, list[Record]] = {name: [] for name in self.members}
        self.blames: list[Blame] = []

    def tell(self, receiver: MemberId, sender: MemberId, message: m.Message) -> list[m.Message]:
        out = Out[m.Message, m.Agreed]()
        self.machines[receiver].on_message(sender, message, out)
        return self.done(receiver, out)

    def give(self, member: MemberId, value: m.Input) -> list[m.Message]:
        out = Out[m.Message, m.Agreed]()
        self.machines[member].on_input(value, out)
        said = self.done(member, out)
        for effect in out.effects:
            if isinstance(effect, Draw):
                drawn = Out[m.Message, m.Agreed]()
                self.machines[member].on_draw(effect.key, 0, drawn)
                assert any(isinstance(timer, SetTimer) for timer in drawn.effects)
        return said

    def attempt(self, member: MemberId, value: bytes) -> list[m.Message]:
        """The member proposes, and its time has come."""
        self.give(member, m.Propose(value))
        return self.timer(member)

    def timer(self, member: MemberId) -> list[m.Message]:
        out = Out[m.Message, m.Agreed]()
        self.machines[member].on_timer(sd.ATTEMPT, out)
        return self.done(member, out)

    def done(self, member: MemberId, out: Out[m.Message, m.Agreed]) -> list[m.Message]:
        said: list[m.Message] = []
        for effect in out.effects:
            match effect:
                case Send(_, message, _) | Broadcast(message, _):
                    said.append(message)
                case Persist(record, _):
                    self.records[member].append(record)
                case Blame():
                    self.blames.append(effect)
                case _:
                    pass
        return said

    def restart(self, member: MemberId, records: list[Record] | None = None) -> list[m.Message]:
        self.machines[member] = machine(self.setups[member])
        out = Out[m.Message, m.Agreed]()
        self.machines[member].on_restore(self.records[member] if records is None else records, out)
        self.machines[member].on_start(out)
        return self.done(member, out)

    def vote(self, member: MemberId, ballot: int, value: bytes) -> bytes:
        return self.machines[member].certifier.sign(sd.statement(ID, ballot, digest(value)))

    def certificate(self, ballot: int, value: bytes, signers: tuple[MemberId, ...]) -> bytes:
        certifier = self.machines["m0"].certifier
        votes = {name: self.vote(name, ballot, value) for name in signers}
        return certifier.combine(sd.statement(ID, ballot, digest(value)), votes)


def only(said: list[m.Message], kind: type[m.Message]) -> m.Message:
    found = [message for message in said if isinstance(message, kind)]
    assert len(found) == 1, said
    return found[0]


# ------------------------------------------------------------------------------------------------- the way through


@pytest.mark.parametrize(("n", "c"), [(1, 0), (2, 0), (3, 1), (5, 2), (7, 3)])
def test_all_agree_once_on_a_proposal(n: int, c: int) -> None:
    world = BedrockWorld(n, 0, c)
    world.propose()
    world.go()
    assert world.outcome() in {value_of(name) for name in world.members}
    assert all(len(world.outputs[name]) == 1 for name in world.members)
    assert world.blames == []


def test_the_phases_are_those_of_the_table() -> None:
    moves = {(row.source, row.target) for row in sd.PHASES}
    seen: set[tuple[str, str]] = set()
    for seed in range(12):
        world = BedrockWorld(5, 0, 2, seed=seed, loss=0.3)
        before = dict.fromkeys(world.members, "idle")

        def look(world: BedrockWorld = world, before: dict[MemberId, str] = before) -> None:
            for name in world.members:
                found = world.machine(name).variant
                assert isinstance(found, sd.SingleDecree)
                if found.phase.value != before[name]:
                    seen.add((before[name], found.phase.value))
                    before[name] = found.phase.value

        world.observed.append(look)
        world.propose()
        look()
        world.go()
    # A step may take two transitions at once.
    two = {(a, d) for a, b in moves for c, d in moves if b == c}
    assert seen <= moves | two
    assert {("idle", "waiting"), ("waiting", "preparing"), ("accepting", "agreed")} <= seen


@pytest.mark.parametrize("seed", range(20))
def test_duels_end(seed: int) -> None:
    """All propose at the same moment, over links that lose messages, without the first of the roster."""
    world = BedrockWorld(5, 0, 2, seed=seed, loss=0.2, absent=("m0",))
    world.propose()
    for name in world.machines:
        world.timers[name, sd.ATTEMPT] = 1
    world.go()
    world.outcome()
    assert world.blames == []


def test_nothing_is_said_that_is_not_durable() -> None:
    """SAFETY rules 3 and 5: promise, acceptance and bytes stand in the records when the message leaves."""
    for seed in range(10):
        world = BedrockWorld(3, 0, 1, seed=seed, loss=0.3)
        looked = 0

        def look(sender: MemberId, message: m.Message, world: BedrockWorld = world) -> None:
            nonlocal looked
            records = [m.RECORDS.decode(record) for record in world.records[sender]]
            if isinstance(message, m.Prepare | m.Promise):
                bound = [item.ballot for item in records if isinstance(item, m.Promised | m.Accepted)]
                assert message.ballot in bound
                looked += 1
            if isinstance(message, m.Promise) and message.accepted:
                assert m.Accepted(message.accepted, message.digest) in records
            if isinstance(message, m.Vote | m.Accept):
                at = records.index(m.Accepted(message.ballot, message.digest))
                assert any(isinstance(item, m.Held) and digest(item.value) == message.digest for item in records[:at])
                looked += 1

        world.observers.append(look)
        world.propose()
        world.go()
        assert looked >= 4


# ------------------------------------------------------------------------------------------------- the acceptor


def test_nothing_below_a_promise_is_accepted_also_after_a_restart() -> None:
    bench = Bench()
    assert bench.tell("m1", "m2", m.Prepare(8)) == [m.Promise(8, 0, sd.NOTHING)]
    low = m.Accept(3, digest(A), True, A)
    assert bench.tell("m1", "m0", low) == [m.Refuse(3, 8)]
    bench.restart("m1")
    assert bench.tell("m1", "m0", low) == [m.Refuse(3, 8)]
    assert bench.tell("m1", "m0", m.Prepare(6)) == [m.Refuse(6, 8)]
    assert isinstance(bench.tell("m1", "m2", m.Accept(8, digest(B), True, B))[0], m.Vote)
    assert bench.blames == []


def test_what_was_accepted_is_reported_also_after_a_restart() -> None:
    bench = Bench()
    bench.tell("m1", "m0", m.Accept(3, digest(A), True, A))
    bench.restart("m1")
    assert bench.tell("m1", "m2", m.Prepare(8)) == [m.Promise(8, 3, digest(A))]
    assert bench.tell("m1", "m2", m.Want(digest(A))) == [m.Bytes(A)]


def test_no_vote_before_the_bytes() -> None:
    """SAFETY rule 3."""
    bench = Bench()
    assert bench.tell("m1", "m0", m.Accept(3, digest(A), False, b"")) == [m.Want(digest(A))]
    assert bench.tell("m1", "m0", m.Bytes(B)) == []
    said = bench.tell("m1", "m0", m.Bytes(A))
    assert only(said, m.Vote) == m.Vote(3, digest(A), bench.vote("m1", 3, A))


def test_bytes_that_come_after_a_higher_promise_are_no_vote() -> None:
    bench = Bench()
    bench.tell("m1", "m0", m.Accept(3, digest(A), False, b""))
    bench.tell("m1", "m2", m.Prepare(8))
    assert bench.tell("m1", "m0", m.Bytes(A)) == []


def test_what_is_not_valid_is_not_accepted() -> None:
    bench = Bench()
    assert bench.tell("m1", "m0", m.Accept(3, digest(b"bad"), True, b"bad")) == []
    long = b"good" + bytes(VALUE_MAX)
    assert bench.tell("m1", "m0", m.Accept(3, digest(long), True, long)) == []
    assert bench.tell("m1", "m0", m.Accept(3, digest(A), True, B)) == []
    assert len(bench.blames) == 3


def test_a_ballot_is_used_by_its_owner_only_and_for_one_value() -> None:
    bench = Bench()
    assert bench.tell("m1", "m2", m.Prepare(3)) == []
    assert bench.tell("m1", "m0", m.Prepare(0)) == []
    bench.tell("m1", "m0", m.Accept(3, digest(A), True, A))
    assert bench.tell("m1", "m0", m.Accept(3, digest(B), True, B)) == []
    assert {blame.member for blame in bench.blames} == {"m0", "m2"}


# ------------------------------------------------------------------------------------------------- the proposer


def test_a_later_ballot_proposes_what_may_be_chosen() -> None:
    """Section 2.2, P2c: the value of the highest ballot among q promises; its bytes come from who accepted it."""
    bench = Bench(5, 2)
    prepare = only(bench.attempt("m4", B), m.Prepare)
    assert isinstance(prepare, m.Prepare)
    bench.tell("m1", "m0", m.Accept(5, digest(A), True, A))
    low = m.Promise(prepare.ballot, 5, digest(A))
    assert bench.tell("m4", "m0", m.Promise(prepare.ballot, 0, sd.NOTHING)) == []
    assert bench.tell("m4", "m1", low) == [m.Want(digest(A))]
    said = bench.tell("m4", "m1", m.Bytes(A))
    accepts = [message for message in said if isinstance(message, m.Accept)]
    assert len(accepts) == 4
    assert {message.digest for message in accepts} == {digest(A)}
    # Who said that it has the bytes is not sent them.
    assert [message.carried for message in accepts] == [True, False, True, True]


def test_a_used_ballot_is_never_used_again() -> None:
    bench = Bench()
    first = only(bench.attempt("m0", A), m.Prepare)
    bench.restart("m0")
    second = only(bench.timer("m0"), m.Prepare)
    assert isinstance(first, m.Prepare)
    assert isinstance(second, m.Prepare)
    assert second.ballot > first.ballot
    # And what was wanted before is wanted still, whatever is proposed now.
    bench.give("m0", m.Propose(B))
    said = bench.tell("m0", "m1", m.Promise(second.ballot, 0, sd.NOTHING))
    assert {message.digest for message in said if isinstance(message, m.Accept)} == {digest(A)}


def test_each_failure_doubles_the_wait() -> None:
    """Two that overtake each other for ever would choose nothing; chance parts them, and long waits do so sooner."""
    bench = Bench()
    bench.attempt("m1", A)
    ranges: list[int] = []
    for _ in range(7):
        machine = bench.machines["m1"]
        refused = Out[m.Message, m.Agreed]()
        machine.on_message("m2", m.Refuse(machine.ballot, machine.ballot + 1), refused)
        ranges += [effect.choices for effect in refused.effects if isinstance(effect, Draw)]
        assert isinstance(only(bench.timer("m1"), m.Prepare), m.Prepare)
    assert ranges == [sd.PATIENCE_TICKS << level for level in (1, 2, 3, 4, 5, 5, 5)]


def test_who_hears_another_wait_longer_and_proposes_in_the_end() -> None:
    bench = Bench()
    bench.give("m1", m.Propose(A))
    heard = Out[m.Message, m.Agreed]()
    bench.machines["m1"].on_message("m0", m.Prepare(3), heard)
    draw = next(effect for effect in heard.effects if isinstance(effect, Draw))
    waiting = Out[m.Message, m.Agreed]()
    bench.machines["m1"].on_draw(draw.key, 0, waiting)
    assert [effect.ticks for effect in waiting.effects if isinstance(effect, SetTimer)] == [sd.PATIENCE_TICKS + 1]
    assert isinstance(only(bench.timer("m1"), m.Prepare), m.Prepare)


def test_bytes_go_to_a_member_once() -> None:
    bench = Bench()
    prepare = only(bench.attempt("m0", A), m.Prepare)
    assert isinstance(prepare, m.Prepare)
    said = bench.tell("m0", "m1", m.Promise(prepare.ballot, 0, sd.NOTHING))
    assert [message.carried for message in said if isinstance(message, m.Accept)] == [True, True]
    again = bench.timer("m0")
    assert [message.carried for message in again if isinstance(message, m.Accept)] == [False, False]


def test_bad_votes_do_not_count() -> None:
    bench = Bench()
    prepare = only(bench.attempt("m0", A), m.Prepare)
    assert isinstance(prepare, m.Prepare)
    bench.tell("m0", "m1", m.Promise(prepare.ballot, 0, sd.NOTHING))
    forged = m.Vote(prepare.ballot, digest(A), bench.vote("m2", prepare.ballot, A))
    assert bench.tell("m0", "m1", forged) == []
    old = m.Vote(prepare.ballot - 3, digest(A), bench.vote("m1", prepare.ballot - 3, A))
    assert bench.tell("m0", "m1", old) == []
    good = m.Vote(prepare.ballot, digest(A), bench.vote("m1", prepare.ballot, A))
    assert isinstance(bench.tell("m0", "m1", good)[0], m.Chosen)
    assert [blame.member for blame in bench.blames] == ["m1"]


# ------------------------------------------------------------------------------------------------- the learner


def test_who_knows_the_outcome_tells_it() -> None:
    bench = Bench()
    chosen = m.Chosen(3, digest(A), bench.certificate(3, A, ("m0", "m1")))
    # m2 has no bytes: it asks one that signed.
    assert bench.tell("m2", "m0", chosen) == [m.Want(digest(A))]
    assert bench.tell("m2", "m1", m.Prepare(7)) == [chosen]
    assert bench.tell("m2", "m1", m.Prepare(7)) == [], "once between two looks, unasked"
    assert bench.tell("m2", "m1", m.Ask(b"")) == [chosen]
    bench.tell("m2", "m0", m.Bytes(A))
    result = bench.machines["m2"].result
    assert result is not None
    assert result.value == A
    bench.restart("m2")
    assert bench.machines["m2"].result == result
    assert bench.tell("m2", "m1", m.Ask(b"")) == [chosen]


def test_a_certificate_that_is_none_decides_nothing() -> None:
    bench = Bench(5, 2)
    good = bench.certificate(5, A, ("m0", "m1", "m2"))
    for message in (
        m.Chosen(5, digest(B), good),
        m.Chosen(10, digest(A), good),
        m.Chosen(5, digest(A), good[:-64]),
        m.Chosen(5, digest(A), b""),
    ):
        assert bench.tell("m3", "m0", message) == []
        assert bench.machines["m3"].chosen is None
    assert len(bench.blames) == 4


def test_proofs_hold_for_one_instance_one_value_and_a_majority() -> None:
    bench = Bench(5, 2)
    setup = bench.setups["m4"]
    certificate = bench.certificate(5, A, ("m0", "m1", "m3"))

    def proof(ballot: int, made: bytes, value: bytes) -> bytes:
        return m.PROOFS.encode(m.ChosenValue(ballot, made, value))

    good = proof(5, certificate, A)
    assert sd.check_chosen(setup, ID, good) == A
    assert sd.check_chosen(setup, b"another", good) is None
    assert sd.check_chosen(setup, ID, proof(5, certificate, B)) is None
    assert sd.check_chosen(setup, ID, proof(6, certificate, A)) is None
    assert sd.check_chosen(setup, ID, good[:-1]) is None
    assert sd.check_chosen(setup, ID, m.PROOFS.encode(m.DispersedValue(b"", A))) is None
    two = b"".join((bytes([0b11]), bench.vote("m0", 5, A), bench.vote("m1", 5, A)))
    assert sd.check_chosen(setup, ID, proof(5, two, A)) is None
    twice = b"".join((bytes([0b111]), bench.vote("m0", 5, A), bench.vote("m1", 5, A), bench.vote("m1", 5, A)))
    assert sd.check_chosen(setup, ID, proof(5, twice, A)) is None


# ------------------------------------------------------------------------------------------------- limits, copies


def test_wrong_set_ups_and_proposals_are_refused() -> None:
    setups = block_setups(4, 1, seed=3)
    with pytest.raises(ValueError, match="f is 1"):
        sd.SingleDecree.create(setups["m0"], ID, valid, VALUE_MAX)
    good = block_setups(3, 0, 1)["m0"]
    with pytest.raises(ValueError, match="too long"):
        sd.SingleDecree.create(good, bytes(65), valid, VALUE_MAX)
    with pytest.raises(ValueError, match="too long"):
        sd.SingleDecree.create(good, ID, valid, (15 << 20) + 1)
    with pytest.raises(ValueError, match="not valid"):
        Bench().give("m0", m.Propose(b"bad"))


def test_the_standing_records_say_all_that_matters() -> None:
    """A member that restarts from `standing()` does what one with its whole log does."""
    bench = Bench()
    bench.attempt("m0", A)
    bench.tell("m0", "m1", m.Accept(7, digest(B), True, B))
    bench.tell("m0", "m2", m.Prepare(11))
    standing = list(bench.machines["m0"].standing())
    bench.restart("m0")
    whole = bench.machines["m0"].fingerprint()
    bench.restart("m0", standing)
    assert bench.machines["m0"].fingerprint() == whole
    assert bench.tell("m0", "m2", m.Prepare(11)) == [m.Promise(11, 7, digest(B))]


def test_a_fork_goes_its_own_way() -> None:
    bench = Bench()
    bench.attempt("m0", A)
    copy = bench.machines["m0"].fork()
    before = copy.fingerprint()
    bench.tell("m0", "m2", m.Prepare(11))
    assert copy.fingerprint() == before != bench.machines["m0"].fingerprint()


def test_messages_of_the_other_variant_are_blamed() -> None:
    bench = Bench()
    assert bench.tell("m0", "m1", m.Offer(A)) == []
    assert bench.tell("m0", "m1", m.Dispersal(0, b"")) == []
    assert [attrs.astuple(blame)[0] for blame in bench.blames] == ["m1", "m1"]
