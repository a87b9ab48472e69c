"""Operators' commands on their way through a client: to all members, and what f + 1 of them say (FAULTS 43 and 44)."""

from __future__ import annotations

import pytest

from bftkit.channel import frames
from bftkit.channel.bundles import COMMAND
from bftkit.channel.client import PATIENCE_TICKS, CommandState, Enough, Order
from bftkit.channel.client_orders import ASK_TICKS
from bftkit.channel.frames import AskChain, AskCommand, CommandAnswer
from bftkit.membership.commands import SignedCommand
from tests.chains import Group, asks
from tests.unit.following_client import Client


def ordered(group: Group) -> tuple[Client, SignedCommand]:
    """A client that was given a command for the group's epoch."""
    client = Client(group)
    signed = group.command(asks(protocol="paxos"))
    client.step("on_input", Order(signed))
    return client, signed


def say(client: Client, signed: SignedCommand, state: int, *members: str, text: str = "text") -> None:
    for member in members:
        client.tell(member, CommandAnswer(1, signed.name, state, text))


def told(client: Client) -> CommandState:
    return client.outputs(CommandState)[-1]


def test_a_command_goes_to_every_member_and_all_are_asked() -> None:
    client, signed = ordered(Group())
    bundles = client.bundles()
    assert [(to, one.kind, one.client, one.payloads()) for to, one in bundles] == [
        (member, COMMAND, signed.name, [signed.encode()]) for member in client.members
    ]
    assert [(to, ask.command) for to, ask in client.asked() if isinstance(ask, AskCommand)] == [
        (member, signed.name) for member in client.members
    ]
    assert client.ticking


def test_it_is_sent_again_and_asked_again() -> None:
    client, signed = ordered(Group())
    client.sent.clear()
    client.tick(ASK_TICKS)
    assert (len(client.bundles()), len(client.asked())) == (0, 4)
    client.sent.clear()
    client.tick(PATIENCE_TICKS)
    assert [to for to, _ in client.bundles()] == list(client.members)
    assert [ask for _, ask in client.asked() if isinstance(ask, AskChain)], "perhaps the group has moved on"
    client.sent.clear()
    client.tick(PATIENCE_TICKS)
    assert client.bundles() == [], "it takes twice as long now"
    client.link("m2", 0)
    assert [to for to, _ in client.bundles()] == ["m2"], "a new link: what was sent over the old one may be lost"
    client.sent.clear()
    client.step("on_input", Enough(signed.name))
    client.tick(20 * PATIENCE_TICKS)
    assert (client.bundles(), [ask for _, ask in client.asked() if isinstance(ask, AskCommand)]) == ([], [])
    assert not client.ticking


def test_what_is_told_is_what_f_plus_one_members_say() -> None:
    group = Group()
    client, signed = ordered(group)
    say(client, signed, frames.DONE, "m3", text="a lie")
    assert told(client) == CommandState(
        signed.name, frames.UNKNOWN_COMMAND, "", (), {"m3": (frames.DONE, "a lie")}, final=False
    )
    say(client, signed, frames.TAKEN, "m0", "m1")
    assert (told(client).state, told(client).by, told(client).text) == (frames.TAKEN, ("m0", "m1"), "text")
    say(client, signed, frames.PREPARED, "m1", text="slot 7")
    say(client, signed, frames.PREPARED, "m2", text="slot 7; m2: no keys")
    assert (told(client).state, told(client).by, told(client).text) == (frames.PREPARED, ("m1", "m2"), "")
    assert dict(told(client).answers) == {
        "m0": (frames.TAKEN, "text"),
        "m1": (frames.PREPARED, "slot 7"),
        "m2": (frames.PREPARED, "slot 7; m2: no keys"),
        "m3": (frames.DONE, "a lie"),
    }
    count = len(client.said)
    say(client, signed, frames.PREPARED, "m1", text="slot 7")
    assert len(client.said) == count, "nothing is new"
    say(client, signed, frames.DONE, "m1", text="epoch 1")
    assert len(client.said) == count, "whoever is told that it is done is in the new epoch"
    client.links("m2", [group.go(asks(protocol="paxos"))])
    assert (told(client).state, told(client).final, client.machine.settings.epoch) == (frames.DONE, True, 1)
    client.tick(ASK_TICKS)
    client.sent.clear()
    client.tick(ASK_TICKS)
    assert client.asked() == []


def test_links_that_are_not_proved_do_not_count() -> None:
    client, signed = ordered(Group())
    for member in client.members:
        client.link(member)
    say(client, signed, frames.DONE, *client.members)
    assert client.outputs(CommandState) == []


def test_a_refusal_is_final_when_nobody_is_left_to_take_it_in() -> None:
    client, signed = ordered(Group())
    say(client, signed, frames.REFUSED, "m0", "m1", text="no")
    assert (told(client).state, told(client).final) == (frames.REFUSED, False)
    say(client, signed, frames.REFUSED, "m2", text="no")
    assert (told(client).state, told(client).text, told(client).final) == (frames.REFUSED, "no", True)


def test_rubbish_is_ignored() -> None:
    client, signed = ordered(Group())
    say(client, signed, 77, *client.members)
    other = Group().command(nonce=9)
    say(client, other, frames.DONE, *client.members)
    assert client.outputs(CommandState) == []


def test_the_chain_says_that_it_was_carried_out() -> None:
    group = Group()
    client = Client(group)
    signed = group.command(asks("m1", "m2", "m3", "m4"))
    client.step("on_input", Order(signed))
    say(client, signed, frames.COMMITTED, "m0", "m1")
    link = group.go(asks("m1", "m2", "m3", "m4"))
    assert link.signed == signed
    client.links("m3", [link])
    assert (told(client).state, told(client).text, told(client).by) == (frames.DONE, "epoch 1", ())
    assert told(client).final


def test_the_chain_says_that_another_command_was_carried_out() -> None:
    group = Group()
    client, _ = ordered(group)
    client.links("m3", [group.go()])
    assert (told(client).state, told(client).final, told(client).by) == (frames.REFUSED, True, ())
    assert "epoch 0 was ended by another command" in told(client).text


@pytest.mark.parametrize("mine", [True, False])
def test_a_command_of_an_epoch_that_is_over_is_decided_at_once(mine: bool) -> None:
    group = Group()
    signed = group.command(nonce=0 if mine else 1)
    group.go()
    client = Client(group, 1, chain=group.links)
    client.step("on_input", Order(signed))
    assert told(client).state == (frames.DONE if mine else frames.REFUSED)
    assert client.sent == []


def test_of_older_epochs_members_are_asked_and_nothing_is_sent() -> None:
    group = Group()
    signed = group.command()
    group.go()
    client = Client(group, 1)
    client.step("on_input", Order(signed))
    assert client.bundles() == []
    say(client, signed, frames.DONE, "m0", "m1", text="epoch 1")
    assert (told(client).state, told(client).final) == (frames.DONE, True)


def test_words_of_the_epoch_before_are_asked_for_again() -> None:
    """A command for an epoch that this client has not reached yet."""
    group = Group()
    late = Client(group)
    group.go()
    signed = group.command(asks(protocol="paxos"))
    late.step("on_input", Order(signed))
    say(late, signed, frames.REFUSED, *late.members, text="for epoch 1; this is epoch 0")
    assert (told(late).state, told(late).final) == (frames.REFUSED, False), "they will get there"
    late.sent.clear()
    late.links("m2", group.links)
    assert [to for to, ask in late.asked() if isinstance(ask, AskCommand)] == list(late.members)
    late.prove("m2", 1)
    say(late, signed, frames.REFUSED, "m2", text="for epoch 1; this is epoch 0")
    assert told(late).answers == {"m2": (frames.REFUSED, "for epoch 1; this is epoch 0")}
