"""From an operator's wish to the command: what it becomes, what is refused with which numbers, and what is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from bftkit.core.digest import digest
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import EpochKeys, SigningKey
from bftkit.crypto.threshold import CoinPublics, deal
from bftkit.membership.commands import CANCEL, FORCED, PLANNED, CommandError, Seat
from bftkit.membership.epochs import Configuration, extended, following
from bftkit.membership.roster import Roster, RosterEntry
from bftkit.membership.wishes import Prospect, Wish, bears, cancelling, foresee

EPOCHS = 24
GROUP = digest(b"group")
NONCE = bytes(16)


def keys_of(name: str, epochs: int = EPOCHS) -> EpochKeys:
    return EpochKeys.generate([digest(name.encode(), bytes([epoch])) for epoch in range(epochs)])


def card(name: str, of: str | None = None, port: int = 7000, epochs: int = EPOCHS) -> Seat:
    """A member of this name; `of`: whose keys it has."""
    keys = keys_of(of or name, epochs)
    identity = SigningKey(digest(b"identity", (of or name).encode())).public
    publics = b"".join(keys.public(epoch) for epoch in range(epochs))
    return Seat(name, identity, keys.root, epochs, (f"tcp://10.0.0.1:{port}",), publics)


def operator(name: str) -> bytes:
    return SigningKey(digest(b"operator", name.encode())).public


@attrs.frozen
class Group:
    """A configuration, and what an operator's client knows besides."""

    here: Configuration
    schedule: Mapping[str, tuple[bytes, ...]]

    def foresee(self, **wishes: Any) -> Prospect:
        wish = Wish(**wishes)
        present = load_protocol(self.here.protocol).record
        wished = load_protocol(wish.protocol or self.here.protocol).record
        return foresee(self.here, self.schedule, wish, present, wished, group=GROUP, nonce=NONCE)

    def refusal(self, **wishes: Any) -> str:
        with pytest.raises(CommandError) as refused:
            self.foresee(**wishes)
        return str(refused.value)


def group(protocol: str, n: int, f: int, c: int, *, epoch: int = 0, epochs: int = EPOCHS, **more: Any) -> Group:
    seats = [card(f"m{index}", port=7001 + index, epochs=epochs) for index in range(n)]
    schedule = {
        seat.id: tuple(seat.keys[start : start + 32] for start in range(0, len(seat.keys), 32)) for seat in seats
    }
    entries = tuple(
        RosterEntry(
            seat.id,
            seat.identity,
            seat.epoch_root,
            seat.epoch_count,
            schedule[seat.id][epoch],
            keys_of(seat.id, epochs).path(epoch),
            seat.addresses,
        )
        for seat in seats
    )
    threshold = n - f - c
    points, _ = deal(tuple(seat.id for seat in seats), threshold, digest(b"coin"))
    coin = CoinPublics(threshold, tuple(points.values()))
    settings: dict[str, Any] = {
        "parameters": {},
        "operators": (operator("ann"),),
        "operator_threshold": 1,
        "checkpoint_interval": 128,
        "window": 256,
        "coin": coin if f else None,
        **more,
    }
    here = Configuration(epoch, protocol, f=f, c=c, roster=Roster(entries, epoch), **settings)
    return Group(here, schedule)


# ------------------------------------------------------------------------------------------------- what it becomes


def test_a_wish_for_another_protocol_keeps_the_rest_and_begins_with_its_defaults() -> None:
    three = group("coordinator", 3, 0, 1, parameters={"coordinator": 1})
    prospect = three.foresee(protocol="paxos")
    change = prospect.change
    assert (change.protocol, change.f, change.c, dict(change.parameters)) == ("paxos", 0, 1, {})
    assert change.members == three.here.seats()
    assert (prospect.command.kind, prospect.command.epoch, prospect.command.group) == (PLANNED, 0, GROUP)
    assert not change.coin
    assert ("protocol", "coordinator", "paxos") in prospect.differences
    assert ("coordinator", "1", "default") in prospect.differences
    assert [what for what, _, _ in prospect.differences] == ["epoch", "protocol", "coordinator"]


def test_settings_of_the_same_protocol_are_added_to_those_that_it_has() -> None:
    change = group("paxos", 3, 0, 1, parameters={"pipeline": 8}).foresee(settings={"beat": 50}).change
    assert dict(change.parameters) == {"beat": 50, "pipeline": 8}


def test_the_groups_own_settings_are_told_from_the_protocols() -> None:
    change = group("paxos", 3, 0, 1).foresee(settings={"checkpoint_interval": 512}).change
    assert (change.checkpoint_interval, change.window, dict(change.parameters)) == (512, 1024, {})


@pytest.mark.parametrize(
    ("before", "n", "wish", "after"),
    [
        (("paxos", 3, 0, 1), 4, {"protocol": "pbft"}, ("pbft", 1, 0)),
        (("pbft", 4, 1, 0), 4, {"protocol": "paxos"}, ("paxos", 0, 1)),
        (("pbft", 4, 1, 0), 4, {"protocol": "cks"}, ("cks", 1, 0)),
        (("paxos", 3, 0, 1), 5, {}, ("paxos", 0, 2)),
        (("pbft", 4, 1, 0), 7, {}, ("pbft", 2, 0)),
        (("pbft", 4, 1, 0), 6, {"byzantine": 1, "crash": 1}, ("pbft", 1, 1)),
        (("pbft", 6, 1, 1), 9, {}, ("pbft", 2, 1)),
        (("pbft", 4, 1, 0), 5, {}, ("pbft", 1, 0)),
    ],
)
def test_the_faults_follow_the_protocol_and_the_number_of_members(
    before: tuple[str, int, int, int], n: int, wish: dict[str, Any], after: tuple[str, int, int]
) -> None:
    add = tuple(card(f"n{index}", port=8000 + index) for index in range(n - before[1]))
    change = group(*before).foresee(add=add, **wish).change
    assert (change.protocol, change.f, change.c) == after
    assert len(change.members) == n
    assert change.coin == (change.f > 0 or change.protocol == "cks")


def test_members_join_leave_and_change_places_in_one_step() -> None:
    four = group("paxos", 4, 0, 1)
    prospect = four.foresee(
        add=(card("m7", port=8000),), remove=("m0",), replace={"m2": card("m9", port=8001)}, crash=1
    )
    assert [seat.id for seat in prospect.change.members] == ["m1", "m9", "m3", "m7"]
    assert any("m9, m7 must run by then" in told for told in prospect.meanwhile)
    assert any(told.startswith("m0, m2 must stay up") for told in prospect.meanwhile)


def test_a_member_with_new_keys_keeps_its_name_and_its_place() -> None:
    four = group("pbft", 4, 1, 0)
    prospect = four.foresee(replace={"m1": card("m1", of="m1 again", port=7002)})
    assert [seat.id for seat in prospect.change.members] == list(four.here.members)
    changed = {what for what, _, _ in prospect.differences}
    assert changed == {"epoch", "keys of m1", "identity of m1"}
    assert any("m1 must run with its new keys" in told for told in prospect.warnings)


def test_a_member_moves_to_another_address() -> None:
    prospect = group("pbft", 4, 1, 0).foresee(addresses={"m3": ("tcp://example.org:7003",)})
    assert prospect.change.members[3].addresses == ("tcp://example.org:7003",)
    assert prospect.differences[1:] == (("addresses of m3", "tcp://10.0.0.1:7004", "tcp://example.org:7003"),)


def test_operators_come_and_go() -> None:
    change = (
        group("paxos", 3, 0, 1)
        .foresee(
            add_operators=(operator("bob"), operator("eve")), remove_operators=(operator("ann"),), operator_threshold=2
        )
        .change
    )
    assert (change.operators, change.operator_threshold) == ((operator("bob"), operator("eve")), 2)


def test_a_forced_change_keeps_members_faults_and_the_coin_key() -> None:
    four = group("pbft", 4, 1, 0)
    prospect = four.foresee(protocol="cks", forced=True)
    change = prospect.change
    assert prospect.command.kind == FORCED
    assert (change.members, change.f, change.c, change.coin) == (four.here.seats(), 1, 0, True)
    assert any("3 of the 4 members must be up and report" in told for told in prospect.meanwhile)


def test_a_forced_change_keeps_a_coin_key_that_the_next_protocol_does_not_need() -> None:
    """With f = 0 as well: whoever follows the chain compares, and there is no time to decide about keys."""
    points, _ = deal(("m0", "m1", "m2", "m3"), 3, digest(b"coin"))
    four = group("cks", 4, 0, 1, coin=CoinPublics(3, tuple(points.values())))
    assert four.foresee(protocol="paxos", forced=True).change.coin
    assert not four.foresee(protocol="paxos").change.coin


def test_what_is_foreseen_is_what_the_members_will_compute() -> None:
    four = group("paxos", 4, 0, 1, epoch=3)
    prospect = four.foresee(protocol="pbft", add=(card("m4", port=8000),))
    there = following(four.here, prospect.command, extended(four.schedule, prospect.command))
    assert (there.epoch, there.protocol, there.members) == (4, "pbft", ("m0", "m1", "m2", "m3", "m4"))
    assert there.change() == attrs.evolve(
        prospect.change, coin=False, members=tuple(attrs.evolve(seat, keys=b"") for seat in prospect.change.members)
    )


def test_a_command_that_cancels_names_no_change() -> None:
    command = cancelling(group("paxos", 3, 0, 1, epoch=2).here, group=GROUP, nonce=NONCE)
    assert (command.kind, command.epoch, command.change) == (CANCEL, 2, None)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("before", "wish", "text"),
    [
        (("pbft", 4, 1, 0), {"remove": ("m3",)}, "3 members bear 0 liars under pbft, and the group bears 1 now"),
        (("paxos", 3, 0, 1), {"remove": ("m2",)}, "2 members bear 0 faults under paxos, and the group bears 1 now"),
        (("paxos", 3, 0, 1), {"protocol": "pbft"}, "which need 4 members"),
        (("paxos", 5, 0, 2), {"protocol": "pbft"}, "which need 7 members"),
        (("pbft", 6, 1, 1), {"protocol": "cks"}, "which need 7 members"),
        (("pbft", 4, 1, 0), {"byzantine": 2}, "2 Byzantine and 0 crash faults need 7 members under pbft"),
        (("paxos", 4, 0, 1), {"byzantine": 1}, "paxos survives crashes only, and 1 member that lies"),
        (("pbft", 6, 1, 1), {"protocol": "cks", "byzantine": 1, "crash": 1}, "need 7 members under cks"),
        (("paxos", 3, 0, 1), {"remove": ("m5",)}, "m5 is no member; the members are m0, m1, m2"),
        (("paxos", 3, 0, 1), {"remove": ("m0", "m1", "m2")}, "nobody would be left"),
        (("paxos", 3, 0, 1), {"remove": ("m0",), "replace": {"m0": card("m9")}}, "m0 is removed or replaced twice"),
        (("paxos", 3, 0, 1), {"add": (card("m1", of="x"),)}, "m1 is a member already"),
        (("paxos", 3, 0, 1), {"replace": {"m1": card("m1", port=7002)}}, "those that m1 has already"),
        (("paxos", 3, 0, 1), {"add": (card("m3", of="m1"),)}, "m3 has the identity of m1"),
        (("paxos", 3, 0, 1), {"add": (card("m3", port=7001),)}, "m3 has the address of m0"),
        (("paxos", 3, 0, 1), {"add": (attrs.evolve(card("m3"), keys=b""),)}, "m3 is new"),
        (("paxos", 3, 0, 1), {"add": (attrs.evolve(card("m3"), keys=card("m4").keys),)}, "epoch_root commits to"),
        (("paxos", 3, 0, 1), {"addresses": {"m0": ("nowhere",)}}, "addresses"),
        (("paxos", 3, 0, 1), {"settings": {"view_timeout": 5}}, "paxos has no parameter 'view_timeout'"),
        (("paxos", 3, 0, 1), {"settings": {"pipeline": 0}}, "give a number between 1 and 1024"),
        (("paxos", 3, 0, 1), {"settings": {"window": 100}}, "a window of 100 slots is not at least twice"),
        (("paxos", 3, 0, 1), {"remove_operators": (operator("bob"),)}, "is no operator"),
        (("paxos", 3, 0, 1), {"add_operators": (operator("ann"),)}, "is an operator already"),
        (("paxos", 3, 0, 1), {"remove_operators": (operator("ann"),)}, "nobody could ever change this group again"),
        (("paxos", 3, 0, 1), {"operator_threshold": 0}, "0 of 1 operators can never sign"),
        (("pbft", 4, 1, 0), {"protocol": "paxos", "forced": True}, "paxos survives crashes only, and 1 member"),
        (("pbft", 4, 1, 0), {"protocol": "cks", "forced": True, "byzantine": 0}, "never changes f or c"),
        (("pbft", 4, 1, 0), {"protocol": "cks", "forced": True, "add": (card("m4"),)}, "never changes the members"),
        (("paxos", 3, 0, 1), {"protocol": "cks", "forced": True}, "cks"),
        (
            ("coordinator", 1, 0, 0),
            {"protocol": "paxos", "forced": True},
            "back, or say --accept-loss",
        ),
        (("pbft", 6, 1, 1), {"protocol": "pbft", "forced": True}, "needs 7 members, and there are 6"),
    ],
)
def test_what_would_be_unsafe_or_meaningless_is_refused_with_the_numbers(
    before: tuple[str, int, int, int], wish: dict[str, Any], text: str
) -> None:
    assert text in group(*before).refusal(**wish)


def test_a_smaller_number_of_faults_is_taken_from_who_says_it() -> None:
    prospect = group("pbft", 4, 1, 0).foresee(remove=("m3",), byzantine=0, crash=1)
    assert (prospect.change.f, prospect.change.c) == (0, 1)
    assert "From epoch 1 on the group is not protected against members that lie." in prospect.warnings


def test_keys_that_do_not_reach_into_the_next_epoch_are_to_be_rotated_in_the_same_step() -> None:
    late = group("paxos", 3, 0, 1, epoch=3, epochs=4)
    assert "rotate its keys in the same step" in late.refusal(protocol="coordinator")
    new = {f"m{index}": card(f"m{index}", of=f"new {index}", port=7001 + index) for index in range(3)}
    assert late.foresee(protocol="coordinator", replace=new).change.protocol == "coordinator"
    old = group("paxos", 3, 0, 1, epoch=3, epochs=8)
    assert "make them for more epochs (--epochs)" in old.refusal(add=(card("m3", port=7009, epochs=4),))


def test_a_coordinator_that_nobody_can_replace_is_left_by_force_only_by_who_accepts_loss() -> None:
    prospect = group("coordinator", 1, 0, 0).foresee(protocol="paxos", forced=True, accept_loss=True)
    assert prospect.command.accept_loss
    assert any("You accept loss" in told for told in prospect.warnings)


# ------------------------------------------------------------------------------------------------- what is told


def test_leaving_the_protection_against_liars_is_told() -> None:
    prospect = group("pbft", 4, 1, 0).foresee(protocol="paxos")
    assert prospect.warnings == ("From epoch 1 on the group is not protected against members that lie.",)
    assert ("faults", "1 may lie or crash", "nobody may lie, 1 may crash") in prospect.differences
    assert ("coin key", "yes", "no") in prospect.differences


def test_a_configuration_that_could_not_be_left_by_force_is_told() -> None:
    add = (card("m4", port=8000), card("m5", port=8001))
    prospect = group("pbft", 4, 1, 0).foresee(add=add, byzantine=1, crash=1)
    assert any(
        "cannot be left by force: with f = 1 and c = 1 that needs 7 members" in told for told in prospect.warnings
    )


def test_few_epochs_to_come_are_told() -> None:
    prospect = group("paxos", 3, 0, 1, epoch=10).foresee(protocol="coordinator")
    assert "m0 has keys for 12 more epochs: rotate it soon." in prospect.warnings


def test_who_must_be_up_is_told_with_the_numbers() -> None:
    told = " ".join(group("coordinator", 3, 0, 1).foresee(protocol="paxos", at=700).meanwhile)
    assert "2 of the present 3 members must be up until epoch 0 ends, the one that orders among them." in told
    assert "2 of the next 3 members must be up and say that they are ready" in told
    assert "ends at the first checkpoint from slot 700 on (every 128 slots)" in told


def test_a_switch_to_the_same_is_told_as_such() -> None:
    assert "Nothing changes but the epoch." in group("paxos", 3, 0, 1).foresee(protocol="paxos").warnings
    assert "Nothing changes but the epoch and the coin key." in group("cks", 4, 1, 0).foresee(protocol="cks").warnings


@pytest.mark.parametrize(
    ("f", "c", "text"),
    [
        (0, 0, "nobody may lie or crash"),
        (0, 2, "nobody may lie, 2 may crash"),
        (1, 0, "1 may lie or crash"),
        (2, 1, "2 may lie, 1 more may crash"),
    ],
)
def test_faults_in_words(f: int, c: int, text: str) -> None:
    assert bears(f, c) == text
