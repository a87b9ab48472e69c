"""Clients that follow the chain of hand-overs (SAFETY rules 8, 9 and 28; FAULTS 33)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs
import pytest

from bftkit.channel import frames
from bftkit.channel.bundles import OK, OPEN
from bftkit.channel.client import (
    PATIENCE_TICKS,
    PATIENCE_TICKS_MAX,
    RETRY_TICKS,
    AskHistory,
    AskRead,
    History,
    LinkRefused,
    Moved,
    NotExecuted,
    ReadDone,
    Stopped,
)
from bftkit.channel.client_chain import CHAIN_PATIENCE_TICKS, KEPT_LINKS, SILENCES_MAX
from bftkit.channel.frames import LinkProof, Read, ReadAnswer, Refusal
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.crypto.signed import Certificate, Vote
from bftkit.membership.chain import HandOver, Place
from bftkit.membership.commands import FORCED, Change
from tests.chains import Group, asks, coin_key, person
from tests.unit.following_client import SESSION, Client


def five_epochs() -> Group:
    """m0 to m3 hand over to m4 to m7, one after the other, with a change of protocol in between."""
    group = Group()
    group.go(asks("m1", "m2", "m3", "m4"))
    group.go(asks("m2", "m3", "m4", "m5"))
    group.go(asks(protocol="cks"))
    group.go(asks("m3", "m4", "m5", "m6"))
    group.go(asks("m4", "m5", "m6", "m7"))
    return group


# ------------------------------------------------------------------------------------------------ following


def test_a_client_that_slept_through_five_epochs_comes_back_and_continues() -> None:
    """None of the members that it knows is one any more; they say that they take no part, and show the way."""
    group = five_epochs()
    client = Client(group)
    client.open()
    (bundle,) = {bundle.raw for _, bundle in client.bundles()} or {b""}
    client.submit(b"second")
    bundle = client.bundles()[-1][1].raw
    for member in client.members:
        client.link(member)  # they restarted since, and prove nothing
    client.sent.clear()
    client.tell("m1", Refusal(SESSION, 2, frames.STOPPED, "this member takes no part"))
    assert client.asked_chain() == [("m0", 0)], "one is asked"
    client.links("m0", [])
    assert client.asked_chain() == [("m1", 0)], "and the next one, if it has nothing"
    client.links("m1", group.links)
    assert (client.epoch, client.members) == (5, ("m4", "m5", "m6", "m7"))
    assert client.place == group.place
    (moved,) = client.outputs(Moved)
    assert moved == Moved(group.place, group.packed[-1], group.packed)
    resent = [(to, one.raw) for to, one in client.bundles() if one.raw == bundle]
    assert resent == [(member, bundle) for member in client.members], "unchanged, to every new member"
    for member in ("m4", "m5"):
        client.link(member, 5)
        client.reply(member, 2)
        client.reply(member, 1)
    assert [done.first for done in client.executed()] == [2, 1]
    client.submit(b"third")
    assert client.bundles()[-1][1].first == 3


def test_a_client_is_shown_each_epoch_as_it_comes() -> None:
    group = Group()
    client = Client(group)
    for epoch in range(1, 4):
        link = group.go()
        client.prove("m2", epoch)
        assert client.asked_chain() == [("m2", epoch - 1)]
        client.links("m2", [link])
        assert client.epoch == epoch
        assert "m2" in client.machine.proved, "its proof was kept until it could be checked"
    assert client.moves() == [1, 2, 3]


@pytest.mark.parametrize("how", ["reply", "read answer", "proof"])
def test_anything_of_a_later_epoch_makes_the_client_ask(how: str) -> None:
    group = Group()
    client = Client(group)
    client.open()
    group.go()
    if how == "reply":
        client.reply("m3", 1, epoch=1)
    elif how == "proof":
        client.prove("m3", 1)
    else:
        client.tell("m3", ReadAnswer(1, 1, 9, 0, digest(b""), b""))
    assert client.asked_chain() == [("m3", 0)]


def test_links_that_do_not_fit_into_one_answer_are_asked_for_again() -> None:
    group = five_epochs()
    client = Client(group)
    client.prove("m3", 4)
    client.links("m3", group.links[:2])
    assert client.asked_chain() == [("m3", 0), ("m3", 2)]
    client.links("m3", group.links[2:4])
    assert (client.epoch, client.asked_chain()) == (4, [])


def test_who_is_silent_is_not_waited_for() -> None:
    """A liar that shows a later epoch first, and then says nothing."""
    group = Group()
    client = Client(group)
    group.go()
    client.prove("m3", 1)
    client.prove("m1", 1)
    assert client.asked_chain() == [("m3", 0)]
    client.tick(CHAIN_PATIENCE_TICKS)
    assert client.asked_chain() == [("m1", 0)]
    client.links("m1", group.links)
    assert client.epoch == 1


def test_a_liar_that_shows_epochs_which_are_not_there_costs_little() -> None:
    group = Group()
    client = Client(group)
    client.tell("m3", LinkProof(1 << 60, b"s" * 64))
    ticks = 0
    while client.ticking:
        client.tick()
        ticks += 1
        assert ticks < 1000, "it ends"
    assert len(client.asked_chain()) == SILENCES_MAX
    for _ in range(50):
        client.tell("m3", LinkProof(1 << 60, b"s" * 64))
    assert client.asked_chain() == [("m3", 0)], "one question at a time"
    client.links("m3", [])
    assert client.asked_chain() == [], "it has nothing to show"


def test_who_shows_bad_links_is_not_listened_to_for_a_time_that_doubles() -> None:
    group = Group()
    client = Client(group)
    genuine = group.go()
    bad = attrs.evolve(genuine, configuration=group.places[0].configuration.encode())
    patience = PATIENCE_TICKS
    for heard in range(1, 7):
        for _ in range(20):
            client.links("m3", [bad])
        assert client.machine.following is not None
        assert client.machine.following.refused["m3"][0] == heard, "twenty at once count as one"
        client.tick(patience - RETRY_TICKS)
        client.links("m3", [bad])
        assert client.machine.following.refused["m3"][0] == heard, "not yet"
        client.tick()
        patience = min(2 * patience, PATIENCE_TICKS_MAX)
    client.links("m0", [genuine])
    assert client.epoch == 1


def test_who_shows_old_links_unasked_is_not_listened_to_for_a_while() -> None:
    """Reading them costs more than sending them."""
    group = five_epochs()
    client = Client(group, 4, chain=group.links[:4])
    client.links("m3", group.links[:4])
    client.links("m3", group.links)
    assert client.epoch == 4
    client.tick(PATIENCE_TICKS)
    client.links("m3", group.links)
    assert client.epoch == 5
    assert client.refused() == []


def test_questions_over_an_old_link_excuse_nothing() -> None:
    group = Group()
    client = Client(group)
    group.go()
    client.prove("m3", 1)
    client.link("m3", 0)
    client.links("m3", [])
    client.links("m3", group.links)
    assert client.epoch == 0
    client.tick(PATIENCE_TICKS)
    client.links("m3", group.links)
    assert client.epoch == 1


@pytest.mark.parametrize("what", ["read", "operation"])
def test_when_no_answers_come_the_client_asks_whether_the_group_has_moved_on(what: str) -> None:
    client = Client(Group())
    client.open()
    for member in ("m0", "m1"):
        client.reply(member, 1)
    client.tick(PATIENCE_TICKS)
    client.sent.clear()
    if what == "read":
        client.step("on_input", AskRead(1, b"read"))
    else:
        client.submit(b"second")
    client.tick(PATIENCE_TICKS)
    assert client.asked_chain() == [("m0", 0)]
    for member, after in (("m0", "m1"), ("m1", "m2"), ("m2", "m3")):
        client.links(member, [])
        assert client.asked_chain() == [(after, 0)]
    client.links("m3", [])
    assert client.asked_chain() == [], "all were asked once"


def test_nobody_goes_back() -> None:
    group = five_epochs()
    client = Client(group, 3)
    for member in client.members:
        client.links(member, group.links[:2])
        client.links(member, [])
    client.prove("m2", 2)
    assert (client.epoch, client.said) == (3, [])
    client.reply("m2", 0, [(OK, SESSION.to_bytes(8, "big"))], session=0, epoch=2)
    assert client.asked_chain() == []


def test_a_client_without_a_place_follows_nobody() -> None:
    group = Group()
    client = Client(group)
    client.machine = type(client.machine)(attrs.evolve(client.machine.settings, place=None))
    for member in client.members:
        client.link(member, 0)
    group.go()
    client.prove("m0", 1)
    client.links("m0", group.links)
    client.step("on_input", AskHistory())
    assert (client.epoch, client.said, client.asked_chain()) == (0, [History(())], [])


# ------------------------------------------------------------------------------------------------ forgeries


def too_few(group: Group) -> HandOver:
    signed = group.command(asks(protocol="paxos"))
    return group.ending(signed, group.after(signed)[0], signers=("m0", "m1"))


def bad_signature(group: Group) -> HandOver:
    signed = group.command(asks(protocol="paxos"))
    link = group.ending(signed, group.after(signed)[0])
    votes = (*link.certificate.votes[:2], Vote("m3", b"s" * 64))
    return attrs.evolve(link, certificate=Certificate(link.certificate.body, votes))


def one_signer_often(group: Group) -> HandOver:
    signed = group.command(asks(protocol="paxos"))
    link = group.ending(signed, group.after(signed)[0], signers=("m0",))
    return attrs.evolve(link, certificate=Certificate(link.certificate.body, 3 * link.certificate.votes))


def present_keys(group: Group) -> HandOver:
    """The members' keys of epoch 3 were stolen; those of epoch 0 are erased."""
    signed = group.command(asks(protocol="paxos"))
    return group.ending(signed, group.after(signed)[0], key_of=3)


def one_operator(group: Group) -> HandOver:
    signed = group.command(asks(protocol="paxos"), signers=(1,))
    return group.ending(signed, group.after(signed)[0])


def no_operator(group: Group) -> HandOver:
    signed = group.command(asks(protocol="paxos"), signers=(1, 7))
    return group.ending(signed, group.after(signed)[0])


def not_asked_for(group: Group) -> HandOver:
    """All members agree, and operators asked for something; but not for a group of other members."""
    asked = group.command(asks(protocol="paxos"))
    other = group.command(asks("m0", "m1", "m2", "m9"))
    return group.ending(asked, group.after(other)[0])


def forced_with_another_coin(group: Group) -> HandOver:
    """No coin key is made when a protocol is left by force, so a new one is the dealer's who shows it."""
    signed = group.command(asks(protocol="paxos"), kind=FORCED)
    there = group.after(signed)[0]
    return group.ending(signed, attrs.evolve(there, coin=coin_key(there.members, there.f, there.c, 99)))


def other_configuration(group: Group) -> HandOver:
    """What was signed is genuine, and what is shown beside it is not."""
    signed = group.command()
    link = group.ending(signed, group.after(signed)[0])
    other = group.command(asks("m0", "m1", "m2", "m9"))
    return attrs.evolve(link, configuration=group.after(other)[0].encode())


def other_command(group: Group) -> HandOver:
    signed = group.command()
    link = group.ending(signed, group.after(signed)[0])
    return attrs.evolve(link, command=group.command(nonce=1).encode())


def other_group(group: Group) -> HandOver:
    return Group(nonce=1).go()


def further_on(group: Group) -> HandOver:
    other = group.copy()
    other.go()
    return other.go()


def unreadable(group: Group) -> bytes:
    return b"no link at all"


def cut_short(group: Group) -> bytes:
    return group.copy().go().encode()[:-1]


FORGERIES: tuple[Callable[[Group], HandOver | bytes], ...] = (
    too_few,
    bad_signature,
    one_signer_often,
    present_keys,
    one_operator,
    no_operator,
    not_asked_for,
    forced_with_another_coin,
    other_configuration,
    other_command,
    other_group,
    further_on,
    unreadable,
    cut_short,
)
WORDS: dict[Callable[[Group], HandOver | bytes], str] = {
    too_few: "is not signed by 3 members of epoch 0",
    bad_signature: "is not signed by 3 members of epoch 0",
    one_signer_often: "is not signed by 3 members of epoch 0",
    present_keys: "is not signed by 3 members of epoch 0",
    one_operator: "1 operator signed, and 2 must",
    no_operator: "is no operator of this epoch",
    not_asked_for: "is not the one that the command names",
    forced_with_another_coin: "a forced change keeps the coin key",
    other_configuration: "another configuration or command than its members signed",
    other_command: "another configuration or command than its members signed",
    other_group: "is not signed by 3 members of epoch 0",
    further_on: "leads nowhere from epoch 0",
    unreadable: "cannot be read",
    cut_short: "cannot be read",
}


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.__name__)
def test_a_bad_link_is_refused_and_somebody_else_is_asked(forgery: Callable[[Group], HandOver | bytes]) -> None:
    group = Group()
    forged = forgery(group)
    genuine = group.go()
    client = Client(group)
    client.tell("m3", LinkProof(1, b"s" * 64))
    client.prove("m1", 1)
    client.sent.clear()
    client.links("m3", [forged])
    assert client.epoch == 0
    (refused,) = client.outputs(LinkRefused)
    assert refused.member == "m3"
    assert WORDS[forgery] in refused.reason
    assert client.machine.following is not None
    assert client.machine.following.refused == {"m3": (1, refused.reason)}
    assert client.asked_chain() == [("m1", 0)]
    client.links("m1", [genuine])
    assert (client.epoch, client.moves()) == (1, [1])
    assert client.machine.stopped is None


def test_what_comes_before_a_bad_link_is_followed() -> None:
    group = Group()
    group.go()
    forged = too_few(group)
    client = Client(group, 0)
    client.links("m3", [group.links[0], forged])
    assert (client.epoch, client.moves(), client.refused()) == (1, [1], ["m3"])


def test_strangers_lead_nowhere() -> None:
    group = Group()
    group.go()
    client = Client(group)
    client.links("m9", group.links)
    assert (client.epoch, client.said) == (0, [])


# ------------------------------------------------------------------------------------------------ two histories


def two_histories(shared: int = 0) -> tuple[Group, Group]:
    """Groups that part after so many epochs: so many members lied that both are genuine."""
    one = Group()
    for _ in range(shared):
        one.go()
    other = one.copy()
    one.go()
    other.go(asks(protocol="paxos"), nonce=1)
    return one, other


def test_two_genuine_links_for_one_epoch_stop_the_client() -> None:
    one, other = two_histories(2)
    client = Client(one)
    client.open()
    client.submit(b"second")
    client.step("on_input", AskRead(1, b"read"))
    client.links("m0", one.links)
    assert client.epoch == 3
    client.links("m3", other.links[2:])
    (stopped,) = client.outputs(Stopped)
    assert "epoch 2 has two hand-overs to epoch 3" in stopped.reason
    assert "m0, m1, m2 signed both" in stopped.reason
    assert client.outputs(NotExecuted) == [
        NotExecuted(1, 1, stopped.reason, unknown=True),
        NotExecuted(2, 1, stopped.reason, unknown=True),
    ]
    assert client.outputs(ReadDone) == []
    client.sent.clear()
    client.said.clear()
    client.submit(b"third")
    assert client.said == [stopped, NotExecuted(3, 1, stopped.reason)]
    client.said.clear()
    client.step("on_input", AskRead(2, b"read"))
    client.step("on_input", AskHistory())
    assert client.said == [stopped, stopped]
    client.reply("m0", 1)
    client.reply("m1", 1)
    client.link("m0", 3)
    client.links("m0", [one.go()])
    client.tick(20 * RETRY_TICKS)
    assert len(client.said) == 2
    assert (client.sent, client.executed(), client.ticking) == ([], [], False)


def test_operations_that_never_left_fail_for_certain() -> None:
    one, other = two_histories()
    client = Client(one)
    client.submit(b"first")
    client.links("m0", one.links)
    client.links("m3", other.links)
    assert [failed.unknown for failed in client.outputs(NotExecuted)] == [False]


def test_the_same_ending_with_other_signers_is_no_contradiction() -> None:
    group = Group()
    signed = group.command()
    there = group.after(signed)[0]
    one, other = group.ending(signed, there), group.ending(signed, there, signers=("m1", "m2", "m3"))
    assert one != other
    client = Client(group)
    client.links("m0", [one])
    client.links("m1", [other])
    assert client.said == [client.outputs(Moved)[0]]


def test_a_second_history_that_is_not_genuine_is_refused() -> None:
    group = Group()
    forged = present_keys(group)
    group.go()
    client = Client(group)
    client.links("m0", group.links)
    client.links("m3", [forged])
    assert (client.machine.stopped, client.refused()) == (None, ["m3"])


def test_a_proof_that_does_not_fit_leads_to_the_other_history() -> None:
    """A member in the other history has followed other links: it is asked for them, once."""
    one, other = two_histories(1)
    client = Client(one)
    client.links("m0", one.links)
    client.sent.clear()
    for _ in range(3):
        client.prove("m3", 2, group=other)
        client.tick()
    assert client.asked_chain() == [("m3", 0)]
    client.links("m3", other.links)
    assert client.machine.stopped is not None
    assert "epoch 1 has two hand-overs" in client.machine.stopped


def test_links_that_do_not_fit_lead_to_the_other_history() -> None:
    one, other = two_histories(1)
    other.go()
    client = Client(one)
    client.links("m0", one.links)
    client.prove("m3", 3, group=other)
    assert client.asked_chain()[-1] == ("m3", 2)
    client.links("m3", other.links[2:])
    assert (client.refused(), client.asked_chain()) == (["m3"], [])
    client.tick(PATIENCE_TICKS)
    assert client.asked_chain() == [("m3", 0)]
    client.links("m3", other.links)
    assert client.machine.stopped is not None


def test_a_client_that_starts_again_knows_what_it_followed() -> None:
    one, other = two_histories(1)
    client = Client(one, 2, chain=one.links)
    client.links("m3", other.links)
    assert client.machine.stopped is not None
    # Without the link before, nobody can say where the other one would begin: it is refused, and that is all.
    client = Client(one, 2, chain=one.links[1:])
    client.links("m3", other.links[1:])
    assert (client.machine.stopped, client.refused(), client.epoch) == (None, ["m3"], 2)


def test_only_the_newest_links_are_kept() -> None:
    group = Group()
    for _ in range(7):
        group.go()
    client = Client(group)
    client.links("m0", group.links)
    assert client.machine.following is not None
    client.machine.following._keep(client.machine.following.kept[-1])  # pyright: ignore[reportPrivateUsage]
    client.machine.following._keep(client.machine.following.kept[-1])  # pyright: ignore[reportPrivateUsage]
    assert len(client.machine.following.kept) == KEPT_LINKS


# ------------------------------------------------------------------------------------------------ who counts


def moved_client(
    change: Callable[[Change], Change], *, f: int = 1, names: tuple[MemberId, ...] = ()
) -> tuple[Group, Client]:
    """A client with one operation under way in epoch 0, and the group one epoch further."""
    group = Group(*names, f=f)
    client = Client(group)
    client.open()
    group.go(change)
    return group, client


def test_words_of_members_that_stay_count_on() -> None:
    group, client = moved_client(asks("m1", "m2", "m3", "m4"))
    client.reply("m1", 1)
    client.links("m0", group.links)
    assert client.executed() == []
    client.link("m4", 1)
    client.reply("m4", 1)
    assert len(client.executed()) == 1


def test_words_of_members_that_left_do_not_count() -> None:
    group, client = moved_client(asks("m1", "m2", "m3", "m4"))
    client.reply("m0", 1)
    client.links("m1", group.links)
    client.link("m4", 1)
    client.reply("m4", 1)
    assert client.executed() == []
    client.reply("m0", 1)
    assert client.executed() == [], "nor does what they say now"
    client.prove("m2", 1)
    client.reply("m2", 1)
    assert len(client.executed()) == 1


def test_whoever_has_the_name_of_a_member_with_another_key_is_another_one() -> None:
    replaced = attrs.evolve(person("m1", "new").seat(), id="m1", addresses=("memory://elsewhere",))

    def change(now: Change) -> Change:
        return attrs.evolve(now, members=(now.members[0], replaced, *now.members[2:]))

    group, client = moved_client(change)
    group.people["m1"] = person("m1", "new")
    client.reply("m1", 1)
    client.links("m0", group.links)
    client.prove("m2", 1)
    client.reply("m2", 1)
    assert client.executed() == []
    client.prove("m1", 1)
    client.reply("m1", 1)
    assert client.executed() == [], "the link is the old one's"
    client.link("m1", 1)
    client.reply("m1", 1)
    assert len(client.executed()) == 1


def test_if_fewer_are_to_be_believed_words_are_given_again() -> None:
    """From f = 1 to f = 0: a word that was one of two does not become one of one."""
    group, client = moved_client(asks(f=0, protocol="paxos"))
    client.reply("m3", 1, [(OK, b"a lie")])
    client.links("m0", group.links)
    client.prove("m2", 1)
    assert client.executed() == []
    client.reply("m2", 1)
    assert [done.results for done in client.executed()] == [[(OK, b"yes")]]


def test_words_of_a_time_when_more_could_lie_are_not_added_up() -> None:
    """m3 lied when two members could, and was mended since; of its word and m4's, one may be a lie, and so both."""
    names = tuple(f"m{number}" for number in range(7))
    group, client = moved_client(asks(*names, f=1), f=2, names=names)
    client.reply("m3", 1, [(OK, b"a lie")])
    client.links("m0", group.links)
    for member in ("m1", "m2", "m4"):
        client.prove(member, 1)
    client.reply("m4", 1, [(OK, b"a lie")])
    assert client.executed() == []
    client.reply("m1", 1)
    client.reply("m2", 1)
    assert [done.results for done in client.executed()] == [[(OK, b"yes")]]


def test_more_must_agree_when_more_may_lie() -> None:
    group, client = moved_client(asks("m0", "m1", "m2", "m3", f=1), f=0, names=("m0", "m1", "m2"))
    client.links("m0", group.links)
    for member in ("m0", "m1"):
        client.prove(member, 1)
    client.reply("m0", 1)
    assert client.executed() == []
    client.reply("m1", 1)
    assert len(client.executed()) == 1


def test_proofs_and_replies_of_the_epoch_before_count_no_more() -> None:
    group, client = moved_client(asks())
    client.links("m0", group.links)
    for member in client.members:
        client.reply(member, 1, epoch=0)
        client.reply(member, 1)
    assert client.executed() == [], "no link is proved for epoch 1"
    for member in ("m0", "m1"):
        client.prove(member, 1, key_of=0)
        client.reply(member, 1)
    assert client.executed() == [], "the keys of epoch 0 prove nothing in epoch 1"
    for member in ("m0", "m1"):
        client.prove(member, 1)
        client.reply(member, 1, epoch=0)
    assert client.executed() == []
    for member in ("m0", "m1"):
        client.reply(member, 1)
    assert len(client.executed()) == 1


def test_who_led_in_the_epoch_before_is_not_followed() -> None:
    """Word of a leader is a place in a roster, and that of another epoch is another member's."""
    group, client = moved_client(asks("m1", "m2", "m3", "m4"))
    client.reply("m1", 1, leader=1)
    client.links("m0", group.links)
    client.link("m4", 1)
    client.reply("m4", 1, leader=1)
    client.sent.clear()
    client.submit(b"second")
    assert [to for to, _ in client.bundles()] == list(client.members)


def test_from_three_to_four_to_others_without_a_gap() -> None:
    group = Group("m0", "m1", "m2", f=0)
    client = Client(group)
    client.open()
    client.reply("m0", 1)
    for change in (asks("m0", "m1", "m2", "m3", f=1), asks("m2", "m3", "m4", "m5", "m6"), asks("m4", "m5", "m6", "m7")):
        number = client.machine.next_number
        client.submit(b"operation %d" % number)
        raw = client.bundles()[-1][1].raw
        link = group.go(change)
        client.sent.clear()
        client.links(client.members[-1], [link])
        assert client.members == group.place.configuration.members
        assert {to for to, bundle in client.bundles() if bundle.raw == raw} == set(client.members)
        for member in client.members[-2:]:
            client.link(member, client.epoch)
            client.reply(member, number)
        client.sent.clear()
    assert [done.first for done in client.executed()] == [1, 2, 3, 4]
    assert client.machine.outstanding == 0


def test_refusals_count_in_the_new_epoch_as_they_did_before() -> None:
    group, client = moved_client(asks("m1", "m2", "m3", "m4"))
    client.tell("m0", Refusal(SESSION, 1, frames.TOO_LARGE, "too large"))
    client.links("m1", group.links)
    client.prove("m1", 1)
    client.tell("m1", Refusal(SESSION, 1, frames.TOO_LARGE, "too large"))
    assert client.outputs(NotExecuted) == [], "m0 is no member any more"
    client.link("m4", 1)
    client.tell("m4", Refusal(SESSION, 1, frames.TOO_LARGE, "too large"))
    assert client.outputs(NotExecuted) == [NotExecuted(1, 1, "too large")]


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("slot", [4, 5])
def test_a_session_that_was_opened_in_what_operators_gave_up_is_opened_anew(slot: int, more: int) -> None:
    """Members would take themselves to be behind until they come to its slot, where nothing brings an idle group."""
    group = Group()
    client = Client(group)
    client.open()
    assert client.machine.session >> 20 == 5
    lost = slot < 5
    signed = group.command(asks(protocol="cks"))
    there, group.schedule = group.after(signed)
    group.links.append(group.ending(signed, there, slot=slot))
    group.places.append(Place(there, group.links[-1].ending.opening))
    for _ in range(more):
        group.go()
    client.links("m2", group.links)
    assert client.epoch == 1 + more
    assert (client.machine.session == 0) == lost
    given_up = [(one.first, one.count, one.unknown) for one in client.outputs(NotExecuted)]
    assert given_up == ([(1, 1, True)] if lost else [])
    client.submit(b"second")
    assert (OPEN in [bundle.kind for _, bundle in client.bundles()]) == lost


def test_an_opening_session_is_opened_by_the_new_members() -> None:
    group = Group()
    client = Client(group)
    client.submit(b"first")
    raw = client.bundles()[0][1].raw
    group.go(asks("m4", "m5", "m6", "m7"))
    client.sent.clear()
    client.links("m0", group.links)
    assert [(to, bundle.raw) for to, bundle in client.bundles()] == [(member, raw) for member in client.members]
    for member in ("m5", "m6"):
        client.link(member, 1)
        client.reply(member, 0, [(OK, SESSION.to_bytes(8, "big"))], session=0)
    assert client.machine.session == SESSION


def test_reads_are_asked_again_and_count_within_one_epoch() -> None:
    group = Group()
    client = Client(group)
    client.step("on_input", AskRead(1, b"read"))
    answer = ReadAnswer(1, 0, 9, 0, digest(b"\0", b"old"), b"old")
    for member in ("m1", "m2"):
        client.tell(member, answer)
    group.go(asks("m1", "m2", "m3", "m4"))
    client.sent.clear()
    client.links("m1", group.links)
    assert [to for to, ask in client.asked() if ask == Read(1, b"read")] == list(client.members)
    for member in client.members:
        client.link(member, 1)
    client.tell("m3", answer)
    client.tell("m3", attrs.evolve(answer, epoch=1))
    assert client.outputs(ReadDone) == [], "answers of two epochs are not added up"
    for member in ("m1", "m4"):
        client.tell(member, attrs.evolve(answer, epoch=1))
    assert client.outputs(ReadDone) == [ReadDone(1, OK, b"old")]


# ------------------------------------------------------------------------------------------------ the whole chain


def test_the_whole_chain_is_fetched_and_checked_from_the_founding_on() -> None:
    group = five_epochs()
    client = Client(group, 5, chain=group.links[3:])
    client.step("on_input", AskHistory())
    assert client.asked_chain() == [("m4", 0)]
    client.links("m4", group.links[:3])
    assert client.asked_chain() == [("m4", 3)]
    client.links("m4", group.links[3:])
    assert client.outputs(History) == [History(tuple(group.links))]
    client.tick()
    assert not client.ticking


def test_the_chain_is_fetched_from_others_if_one_is_silent_or_lies() -> None:
    group = five_epochs()
    client = Client(group, 5, chain=group.links[4:])
    client.step("on_input", AskHistory())
    assert client.asked_chain() == [("m4", 0)]
    client.tick(CHAIN_PATIENCE_TICKS)
    assert client.asked_chain() == [("m5", 0)]
    client.links("m5", [Group(nonce=1).go()])
    assert (client.refused(), client.asked_chain()) == (["m5"], [("m6", 0)])
    client.links("m6", [])
    assert client.asked_chain() == [("m7", 0)]
    client.links("m7", [])
    assert client.asked_chain() == [], "after one round, some time passes"
    client.tick(CHAIN_PATIENCE_TICKS)
    assert client.asked_chain() == [("m4", 0)]
    client.links("m4", group.links)
    assert client.outputs(History) == [History(tuple(group.links))]


def test_a_chain_that_comes_to_another_place_stops_the_client() -> None:
    one, other = two_histories()
    for group in (one, other):
        group.go()
    client = Client(one, 2)
    client.step("on_input", AskHistory())
    client.links("m0", other.links)
    assert client.machine.stopped is not None
    assert "two genuine chains of hand-overs to epoch 2" in client.machine.stopped


# ------------------------------------------------------------------------------------------------ whatever comes


@pytest.mark.parametrize("seed", range(20))
def test_whatever_members_answer_the_epoch_never_falls_and_every_place_is_the_groups(seed: int) -> None:
    """Genuine links in any order and any pieces, forgeries of every kind at every epoch, proofs right and wrong."""
    random = Random(seed)
    group = Group()
    forged: list[HandOver | bytes] = []
    for _ in range(5):
        # The other two are genuine at some epochs.
        forged += [forgery(group) for forgery in FORGERIES if forgery not in (present_keys, further_on)]
        group.go()
    client = Client(group)
    client.open()
    epoch = 0
    for _ in range(120):
        member = random.choice(client.members)
        match random.randrange(6):
            case 0:
                start = random.randrange(6)
                client.links(member, group.links[start : start + random.randrange(4)])
            case 1:
                client.links(member, random.choices(forged, k=random.randrange(1, 3)))
            case 2:
                links: list[HandOver | bytes] = [*group.links, *random.choices(forged, k=2)]
                random.shuffle(links)
                client.links(member, links)
            case 3:
                client.prove(member, random.randrange(6), key_of=random.randrange(6))
            case 4:
                client.reply(member, 1, epoch=random.randrange(8), slot=random.randrange(3))
            case _:
                client.tick(random.randrange(1, 10) * RETRY_TICKS)
        assert client.epoch >= epoch
        epoch = client.epoch
        assert client.place == group.places[epoch]
        assert client.machine.stopped is None
    moves = client.moves()
    assert moves == sorted(set(moves))
    client.tick(PATIENCE_TICKS_MAX)
    client.links("m0", group.links[epoch:])
    assert client.epoch == 5
