"""The view change's claims, on the pure functions: what is chosen, what is refused, and why nothing decided is lost.

Castro 2001, sections 2.3.5 and 3.2.4. The random test at the end plays whole views with an abstract group and asks
of every set of view changes whether each decided slot survives in it.
"""

from __future__ import annotations

from itertools import combinations
from random import Random

import attrs
import pytest

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.crypto.signed import Certificate, Vote
from bftkit.sim.keyring import fast_keyrings
from bftkit_pbft import messages as m
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.view_change import (
    Invalid,
    Known,
    Opening,
    choose,
    leader_of,
    low_of,
    read_new_view,
    read_view_change,
    signed_by_leader,
    signed_by_signer,
    window_max,
)
from tests.seeds import at_least

A, B, C = digest(b"a"), digest(b"b"), digest(b"c")
WINDOW = 16


@attrs.frozen
class Group:
    """Members with keys, who say whatever the test wants."""

    n: int = 4
    f: int = 1
    c: int = 0

    @property
    def members(self) -> tuple[MemberId, ...]:
        return tuple(f"m{index}" for index in range(self.n))

    def setup(self, me: MemberId = "m0") -> Setup:
        keyring = fast_keyrings(b"", bytes(32), 0, bytes(32), self.members)[me]
        return Setup(me, self.members, Quorum(self.n, self.f, self.c), keyring, window=WINDOW)

    def sign(self, member: MemberId, purpose: str, statement: bytes) -> bytes:
        return self.setup(member).keyring.sign(purpose, statement)

    def certificate(self, view: int, slot: int, name: bytes, voters: tuple[MemberId, ...] | None = None) -> Certificate:
        body = m.vote_statement(view, slot, name)
        voters = voters or self.members[: self.setup().quorum.certificate]
        return Certificate(body, tuple(Vote(member, self.sign(member, m.VOTE, body)) for member in voters))

    def low(self, *slots: int) -> tuple[m.StableVote, ...]:
        return tuple(
            m.StableVote(member, slot, self.sign(member, m.STABLE, m.stable_statement(slot)))
            for member, slot in zip(self.members, slots, strict=False)
        )

    def change(self, member: MemberId, body: m.ViewChangeBody) -> m.ViewChange:
        data = m.BODIES.encode(body)
        return m.ViewChange(member, data, self.sign(member, m.VIEW_CHANGE, data))

    def new_view(
        self, view: int, changes: dict[MemberId, m.ViewChangeBody], opening: Opening | None = None
    ) -> m.NewView:
        leader = leader_of(self.setup(), view)
        opening = opening or choose(self.setup(), changes)
        data = m.BODIES.encode(
            m.NewViewBody(
                view,
                tuple(self.change(member, changes[member]) for member in sorted(changes)),
                tuple(
                    self.sign(leader, m.VOTE, m.vote_statement(view, choice.slot, choice.digest))
                    for choice in opening.choices
                ),
            )
        )
        return m.NewView(data, self.sign(leader, m.NEW_VIEW, data))


G = Group()
SETUP = G.setup()
EMPTY = m.ViewChangeBody(1, (), ())


def said(*certificates: Certificate, view: int = 9, low: tuple[m.StableVote, ...] = ()) -> m.ViewChangeBody:
    return m.ViewChangeBody(view, low, certificates)


def chosen(*bodies: m.ViewChangeBody) -> dict[int, bytes]:
    opening = choose(SETUP, dict(zip(G.members, bodies, strict=False)))
    assert [choice.slot for choice in opening.choices] == list(range(opening.low + 1, opening.high + 1))
    return {choice.slot: choice.digest for choice in opening.choices}


# ------------------------------------------------------------------------------------------------- what is chosen


def test_without_certificates_the_new_view_starts_empty() -> None:
    assert chosen(said(), said(), said()) == {}


def test_a_prepared_batch_is_chosen_even_if_only_one_member_reports_it() -> None:
    assert chosen(said(), said(G.certificate(0, 1, A)), said()) == {1: A}


def test_the_highest_view_wins_not_the_most_members() -> None:
    """SAFETY rule 22's counter-example: a value prepared in an old view loses to one prepared in a newer view."""
    old, new = G.certificate(1, 1, A), G.certificate(4, 1, B)
    assert chosen(said(old), said(old), said(new)) == {1: B}
    assert chosen(said(new), said(old), said(old)) == {1: B}


def test_gaps_are_filled_with_the_empty_batch() -> None:
    """Castro 2001, section 2.3.5: null requests. Without them delivery would stop at the gap for ever."""
    assert chosen(said(G.certificate(0, 4, A)), said(G.certificate(0, 2, B)), said()) == {
        1: NO_DIGEST,
        2: B,
        3: NO_DIGEST,
        4: A,
    }


def test_the_low_mark_is_the_highest_proven_one() -> None:
    """A trap of real implementations: low watermarks counted over the wrong set."""
    low, lower = G.low(8, 9), G.low(4, 4)
    bodies = said(G.certificate(0, 6, A), low=lower), said(G.certificate(0, 9, B), low=low), said()
    assert choose(SETUP, dict(zip(G.members, bodies, strict=False))).low == 8
    assert chosen(*bodies) == {9: B}


def test_the_voters_of_a_certificate_are_named_as_holders() -> None:
    voters = ("m1", "m2", "m3")
    opening = choose(SETUP, {"m0": said(G.certificate(0, 1, A, voters)), "m1": said(), "m2": said()})
    assert opening.choices[0].holders == voters


def test_the_order_of_the_view_changes_does_not_matter() -> None:
    bodies = [said(G.certificate(2, 1, A)), said(G.certificate(1, 1, B), G.certificate(0, 3, C)), said()]
    changes = dict(zip(G.members, bodies, strict=False))
    backwards = dict(reversed(list(changes.items())))
    assert choose(SETUP, changes) == choose(SETUP, backwards)


# ------------------------------------------------------------------------------------------------- what is refused


def refusal(body: m.ViewChangeBody) -> str:
    with pytest.raises(Invalid) as caught:
        read_view_change(SETUP, G.change("m1", body))
    return str(caught.value)


def test_a_good_view_change_is_read() -> None:
    body = said(G.certificate(0, 9, A), G.certificate(3, 11, B), low=G.low(8, 9))
    assert read_view_change(SETUP, G.change("m1", body)) == body


def test_a_low_mark_needs_f_plus_one_different_signed_votes() -> None:
    assert low_of(SETUP, G.low(8, 9)) == 8
    assert "needs 2 votes" in refusal(said(low=G.low(8)))
    assert "needs 2 votes" in refusal(said(low=G.low(8, 9, 10)))
    vote = G.low(8)[0]
    assert "twice" in refusal(said(low=(vote, vote)))
    forged = attrs.evolve(G.low(8, 9)[1], slot=99)
    assert "not signed" in refusal(said(low=(vote, forged)))
    assert "no member" in refusal(said(low=(vote, attrs.evolve(vote, member="m9"))))


def test_a_certificate_needs_q_different_signed_votes_under_one_statement() -> None:
    """FAULTS 23: missing, repeated and wrong-view votes."""
    good = G.certificate(0, 1, A)
    assert "of 2 votes" in refusal(said(attrs.evolve(good, votes=good.votes[:2])))
    assert "twice" in refusal(said(attrs.evolve(good, votes=(*good.votes[:2], good.votes[1]))))
    assert "twice" in refusal(said(attrs.evolve(good, votes=good.votes[::-1])))
    other_view = G.certificate(1, 1, A)
    assert "not signed" in refusal(said(attrs.evolve(good, votes=(*good.votes[:2], other_view.votes[2]))))
    other_slot = G.certificate(0, 2, A)
    assert "not signed" in refusal(said(attrs.evolve(good, votes=(*good.votes[:2], other_slot.votes[2]))))
    assert "statement" in refusal(said(attrs.evolve(good, body=b"short")))
    stranger = attrs.evolve(good, votes=(*good.votes[:2], Vote("m9", bytes(64))))
    assert "no member" in refusal(said(stranger))


def test_certificates_come_once_a_slot_in_order_and_in_the_window() -> None:
    one, two = G.certificate(0, 1, A), G.certificate(0, 2, B)
    assert "order" in refusal(said(two, one))
    assert "order" in refusal(said(one, one))
    assert "order" in refusal(said(G.certificate(0, 8, A), low=G.low(8, 9)))
    assert "far above" in refusal(said(G.certificate(0, 3 * WINDOW + 1, A)))


def test_a_certificate_of_the_new_view_or_later_is_refused() -> None:
    assert "view 9" in refusal(said(G.certificate(9, 1, A), view=9))
    assert "view 0" in refusal(said(view=0))


def test_a_view_change_in_anothers_name_is_not_its_signers() -> None:
    change = G.change("m1", EMPTY)
    assert signed_by_signer(SETUP, change)
    assert not signed_by_signer(SETUP, attrs.evolve(change, signer="m2"))
    assert not signed_by_signer(SETUP, attrs.evolve(change, signer="m9"))
    assert not signed_by_signer(SETUP, attrs.evolve(change, body=change.body + b"\0"))


def test_garbage_is_refused() -> None:
    for data in (b"", b"\1", b"\1\xc1", m.BODIES.encode(m.NewViewBody(1, (), ()))):
        with pytest.raises(Invalid):
            read_view_change(SETUP, m.ViewChange("m1", data, bytes(64)))
    with pytest.raises(Invalid):
        read_new_view(SETUP, m.NewView(m.BODIES.encode(EMPTY), bytes(64)))


def refused_view(new_view: m.NewView) -> str:
    with pytest.raises(Invalid) as caught:
        read_new_view(SETUP, new_view)
    return str(caught.value)


def test_a_good_new_view_is_read() -> None:
    changes = {"m0": said(G.certificate(0, 2, A)), "m1": said(), "m3": said()}
    new_view = G.new_view(9, changes)
    assert signed_by_leader(SETUP, new_view, 9)
    assert not signed_by_leader(SETUP, new_view, 10)
    _, opening = read_new_view(SETUP, new_view)
    assert [choice.digest for choice in opening.choices] == [NO_DIGEST, A]


def test_a_new_view_that_leaves_out_a_prepared_batch_is_refused() -> None:
    """FAULTS 24: the reader computes what must be in it."""
    changes = {"m0": said(G.certificate(0, 1, A)), "m1": said(), "m3": said()}
    without = choose(SETUP, {member: said() for member in changes})
    assert "0 proposals where the view changes yield 1" in refused_view(G.new_view(9, changes, without))
    replaced = choose(SETUP, {"m0": said(G.certificate(0, 1, B)), "m1": said(), "m3": said()})
    assert "slot 1" in refused_view(G.new_view(9, changes, replaced))
    more = choose(SETUP, {"m0": said(G.certificate(0, 2, B)), "m1": said(), "m3": said()})
    assert "yield 1" in refused_view(G.new_view(9, changes, more))


def test_a_new_view_needs_q_view_changes_for_itself() -> None:
    bodies = {member: said() for member in G.members}
    few = {member: bodies[member] for member in ("m0", "m1")}
    assert "2 view changes" in refused_view(G.new_view(9, few))
    assert "4 view changes" in refused_view(G.new_view(9, bodies))
    mixed = {"m0": said(), "m1": said(view=8), "m2": said()}
    assert "view 8 in view 9" in refused_view(G.new_view(9, mixed))


def test_a_new_view_with_a_view_change_that_nobody_signed_is_refused() -> None:
    body = m.BODIES.decode(G.new_view(9, {"m0": said(), "m1": said(), "m2": said()}).body)
    assert isinstance(body, m.NewViewBody)
    forged = attrs.evolve(body.changes[2], body=m.BODIES.encode(said(G.certificate(0, 1, A))))
    twice = (*body.changes[:2], body.changes[1])
    for changes in ((*body.changes[:2], forged), twice):
        data = m.BODIES.encode(attrs.evolve(body, changes=changes))
        with pytest.raises(Invalid):
            read_new_view(SETUP, m.NewView(data, G.sign("m1", m.NEW_VIEW, data)))


def test_what_was_verified_before_is_not_trusted_further_than_that() -> None:
    """The memory of verified certificates must not let other signatures in under the same statement."""
    good = G.certificate(0, 1, A)
    known = Known(certificates={1: good})
    forged = attrs.evolve(good, votes=(*good.votes[:2], Vote("m3", bytes(64))))
    with pytest.raises(Invalid):
        read_view_change(SETUP, G.change("m1", said(forged)), known)
    assert read_view_change(SETUP, G.change("m1", said(good)), known) == said(good)
    # A remembered view change counts only if it is the same in every byte.
    change = G.change("m1", said())
    lie = attrs.evolve(G.change("m1", said(forged)), signature=change.signature)
    body = m.NewViewBody(9, (G.change("m0", said()), lie, G.change("m2", said())), ())
    data = m.BODIES.encode(body)
    with pytest.raises(Invalid):
        read_new_view(SETUP, m.NewView(data, G.sign("m1", m.NEW_VIEW, data)), Known(changes={"m1": (change, said())}))


# ------------------------------------------------------------------------------------------------- the argument


SHAPES = [(4, 1, 0), (3, 0, 1), (5, 1, 0), (6, 1, 1), (7, 2, 0), (8, 1, 2)]


def play(group: Group, seed: int, *, drop_at_own_stable: bool = False) -> None:
    """Random views in which members prepare, decide, checkpoint and forget, as far as the rules let them.

    After each view every set of q view changes is tried: no decided slot above its low mark may be chosen otherwise,
    none at or below may be unsettled. Then one of the sets opens the next view.
    """
    random = Random(seed)
    setup = group.setup()
    q, f = setup.quorum.certificate, setup.quorum.f
    liars = group.members[:f]
    correct = group.members[f:]
    held: dict[MemberId, dict[int, Certificate]] = {member: {} for member in group.members}
    stable = dict.fromkeys(group.members, 0)
    proven: dict[MemberId, tuple[m.StableVote, ...]] = dict.fromkeys(group.members, ())
    decided: dict[int, bytes] = {}
    settled = 0
    opening = Opening(0, ())
    for view in range(4):
        fixed = {choice.slot: choice.digest for choice in opening.choices}
        for slot in range(opening.low + 1, opening.low + 7):
            name = fixed.get(slot, digest(b"%d %d %d" % (seed, view, slot)))
            voters = tuple(sorted(random.sample(group.members, q)))
            if random.random() < 0.8 and all(stable[member] < slot or member in liars for member in voters):
                certificate = group.certificate(view, slot, name, voters)
                prepared = [member for member in group.members if random.random() < 0.75]
                for member in prepared:
                    held[member][slot] = certificate
                # Decided: q members said that they hold it; liars say so whether they do or not.
                if len(set(prepared) | set(liars)) >= q:
                    assert decided.setdefault(slot, name) == name, f"slot {slot} decided twice"
        while settled + 1 in decided:
            settled += 1
        for member in correct:
            if random.random() < 0.4:
                stable[member] = max(stable[member], random.randint(0, settled))
        for member in correct:
            said_so = [
                m.StableVote(other, stable[other], group.sign(other, m.STABLE, m.stable_statement(stable[other])))
                for other in correct
                if stable[other] > 0 and (other == member or random.random() < 0.6)
            ] + [
                m.StableVote(liar, 500, group.sign(liar, m.STABLE, m.stable_statement(500)))
                for liar in liars
                if random.random() < 0.5
            ]
            best = sorted(said_so, key=lambda vote: (-vote.slot, vote.member))[: f + 1]
            if len(best) == f + 1 and low_of(setup, best) > low_of(setup, proven[member]):
                proven[member] = tuple(sorted(best, key=lambda vote: vote.member))
            edge = stable[member] if drop_at_own_stable else low_of(setup, proven[member])
            held[member] = {slot: kept for slot, kept in held[member].items() if slot > edge}
        bodies: dict[MemberId, m.ViewChangeBody] = {}
        for member in group.members:
            shown = held[member] if member in correct else {}  # a liar leaves everything out
            low = proven[member] if member in correct else ()
            above = low_of(setup, low)
            bodies[member] = m.ViewChangeBody(
                view + 1, low, tuple(shown[slot] for slot in sorted(shown) if slot > above)
            )
            read_view_change(setup, group.change(member, bodies[member]))
        sets = list(combinations(group.members, q))
        for members in sets:
            found = choose(setup, {member: bodies[member] for member in members})
            assert found.low <= settled, "a low mark above what a stable checkpoint covers"
            names = {choice.slot: choice.digest for choice in found.choices}
            for slot, name in sorted(decided.items()):
                if slot > found.low:
                    assert names.get(slot) == name, f"decided slot {slot} is lost by {members}"
        opening = choose(setup, {member: bodies[member] for member in random.choice(sets)})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", at_least(12))
def test_no_set_of_view_changes_loses_a_decided_slot(shape: tuple[int, int, int], seed: int) -> None:
    play(Group(*shape), seed)


def test_the_random_views_would_show_a_certificate_that_is_dropped_too_early() -> None:
    """Checks the check: dropping at the own stable checkpoint, instead of the proven mark, loses decided slots."""

    def many() -> None:
        for seed in range(200):
            play(Group(), seed, drop_at_own_stable=True)

    with pytest.raises(AssertionError, match="is lost by"):
        many()


# ------------------------------------------------------------------------------------------------- how large it gets


@pytest.mark.parametrize("n", [4, 7, 22, 64])
def test_the_largest_new_view_that_a_set_up_allows_fits_into_a_message(n: int) -> None:
    """And not much larger a window would do: three windows of certificates in each of q view changes."""
    members = tuple(f"member-{index}".ljust(16, "x") for index in range(n))
    quorum = Quorum(n, (n - 1) // 3)
    keyring = fast_keyrings(b"", bytes(32), 0, bytes(32), members)[members[0]]
    setup = Setup(members[0], members, quorum, keyring)
    signers = sorted(members)[: quorum.certificate]
    low = tuple(m.StableVote(member, 2**60, bytes(64)) for member in signers[: quorum.weak])
    certificate = Certificate(bytes(m.VOTE_BYTES), tuple(Vote(member, bytes(64)) for member in signers))

    def sizes(window: int) -> tuple[int, int]:
        slots = 3 * window
        body = m.BODIES.encode(m.ViewChangeBody(2**60, low, (certificate,) * slots))
        # What is too long cannot be packed into the next one any more; one byte stands for it then.
        fits = len(body) <= m.VIEW_CHANGE_BYTES_MAX
        changes = tuple(m.ViewChange(member, body if fits else b"-", bytes(64)) for member in signers)
        return len(body), len(m.BODIES.encode(m.NewViewBody(2**60, changes, (bytes(64),) * slots)))

    window = window_max(setup)
    change, new_view = sizes(window)
    assert change <= m.VIEW_CHANGE_BYTES_MAX
    assert new_view <= m.NEW_VIEW_BYTES_MAX
    change, new_view = sizes(window + window // 50 + 1)
    assert change > m.VIEW_CHANGE_BYTES_MAX or new_view > m.NEW_VIEW_BYTES_MAX
    # What is signed and written down is a message and a record.
    assert len(m.CODEC.encode(m.NewView(bytes(m.NEW_VIEW_BYTES_MAX), bytes(64)))) < m.CODEC.bytes_max


def test_a_set_up_whose_new_views_would_not_fit_is_refused() -> None:
    members = tuple(f"m{index}" for index in range(31))
    keyring = fast_keyrings(b"", bytes(32), 0, bytes(32), members)["m0"]
    setup = Setup("m0", members, Quorum(31, 10), keyring, window=256)
    with pytest.raises(ValueError, match=r"31 members and a window of 256 slots.*can be 161 slots at most"):
        PbftMachine.create(setup)
    PbftMachine.create(attrs.evolve(setup, window=161))


def test_a_certificate_of_more_than_q_votes_is_refused() -> None:
    """What its receivers carry along in their own view changes would have no bound."""
    body = m.ViewChangeBody(9, (), (G.certificate(0, 1, A, G.members),))
    with pytest.raises(Invalid, match="a certificate of 4 votes; it takes 3"):
        read_view_change(SETUP, G.change("m1", body))
