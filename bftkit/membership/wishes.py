"""From what an operator wishes to the command that says it in full, and to words for what it will do.

An operator thinks in differences ("run paxos", "m4 joins", "m2 has new keys"); a command names the whole next
configuration (see `commands`). Here the one becomes the other, from the present configuration and from what the
protocols say of themselves. It is checked as the members will check it, so that what they would refuse is refused
before anybody signs it, with the numbers. And it is told in words: what is so before and after, which faults the group
bears, who must be up meanwhile, for how long service pauses, and what an operator should think twice about.

A wish that would bear fewer faults than the group bears now is refused unless the operator says the smaller number
itself: nobody should lose protection by forgetting an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.configuration.text import ConfigurationError, check_range
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.quorum import Quorum, QuorumError
from bftkit.membership.commands import CANCEL, FORCED, KINDS, PLANNED, Change, Command, CommandError, Seat
from bftkit.membership.epochs import Configuration, Schedule, extended, following
from bftkit.membership.founding import default_faults
from bftkit.membership.roster import canonical_address

FEW_EPOCHS: Final = 16
"""With keys for fewer epochs to come than this, an operator is reminded to rotate them."""

OF_THE_GROUP: Final = ("checkpoint_interval", "window")
"""Settings that belong to the group and not to its protocol."""


@attrs.frozen
class Wish:
    """What an operator wants to be different. What is not named stays as it is."""

    protocol: str | None = None
    settings: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Parameters of the protocol, and those `OF_THE_GROUP`. Another protocol begins with its own defaults."""
    byzantine: int | None = None
    """f; None: as it is, or, if the protocol or the number of members changes, as many as they bear."""
    crash: int | None = None
    """c; the same."""
    add: tuple[Seat, ...] = ()
    remove: tuple[MemberId, ...] = ()
    replace: Mapping[MemberId, Seat] = attrs.field(factory=dict[MemberId, Seat])
    """Members whose place another one takes. With its own id, a member gets new keys."""
    addresses: Mapping[MemberId, tuple[str, ...]] = attrs.field(factory=dict[MemberId, tuple[str, ...]])
    add_operators: tuple[bytes, ...] = ()
    remove_operators: tuple[bytes, ...] = ()
    operator_threshold: int | None = None
    coin: bool = False
    """Whether there is to be a coin key even if the protocol needs none: for what a policy may change to."""
    forced: bool = False
    at: int = 0
    """Not before the first checkpoint from this slot on."""
    accept_loss: bool = False
    qos: QoS | None = None
    """What is to be needed of the group from now on. That the configuration meets it is for the manager to see to."""
    policy: Policy | None = None
    """By what the members are to change their protocol themselves; ``Policy("manual")`` ends that."""
    reason: str = ""
    """Why, for people; the chain of hand-overs keeps it."""


@attrs.frozen
class Prospect:
    """A wish, thought through: the command, and what it will do, in words."""

    here: Configuration
    command: Command
    rows: tuple[tuple[str, str, str], ...]
    """(what, before, after) of everything that is worth a look, whether it changes or not."""
    meanwhile: tuple[str, ...]
    """Who must be up, and when and for how long service pauses."""
    warnings: tuple[str, ...]
    next: Configuration | None
    """The next configuration, without a coin key; None for a command that takes back another."""

    @property
    def change(self) -> Change:
        """The next configuration, in full."""
        assert self.command.change is not None
        return self.command.change

    @property
    def kind(self) -> str:
        """``planned`` or ``forced``."""
        return "forced" if self.command.forced else KINDS[self.command.kind]

    @property
    def differences(self) -> tuple[tuple[str, str, str], ...]:
        """The rows in which something changes."""
        return tuple(row for row in self.rows if row[1] != row[2])


def foresee(
    here: Configuration,
    schedule: Schedule,
    wish: Wish,
    present: ProtocolRecord,
    wished: ProtocolRecord,
    *,
    group: bytes,
    nonce: bytes,
) -> Prospect:
    """What carrying out the wish in this configuration would mean.

    `schedule` has all members' public keys. `present` and `wished` are the records of the present protocol and of the
    wished one (the same, if none is wished); `nonce` are 16 bytes that no other wish has. Raises `CommandError`, which
    has the numbers, for what the members would refuse, or what an operator must say more clearly.
    """
    if wish.forced and here.f == here.c == 0 and not wish.accept_loss:
        # SAFETY rule 24. The members refuse it as well; an operator is also told what to do.
        raise CommandError(
            "with f = c = 0 what one member alone has acknowledged may be lost by a forced change: bring that member "
            "back, or say --accept-loss"
        )
    seats = _seats(here, wish)
    f, c = _faults(here, wish, wished, len(seats))
    parameters, interval, window = _settings(here, wish, wished)
    operators, threshold = _operators(here, wish)
    # By force the group goes on with the coin key that it has: there is no time to make one (SAFETY rule 22).
    qos, policy = wish.qos or here.qos, wish.policy or here.policy
    # What a policy may change to later, it can have no new key for if it must change by force.
    coin = here.coin is not None if wish.forced else f > 0 or wished.coins or wish.coin
    change = Change(
        wished.name, parameters, f, c, seats, operators, threshold, interval, window, coin, qos, policy
    )  # fmt: skip
    kind = FORCED if wish.forced else PLANNED
    command = Command(group, here.epoch, kind, wish.at, wish.accept_loss, change, nonce, wish.reason)
    return explain(here, schedule, command, present, wished)


def explain(
    here: Configuration, schedule: Schedule, command: Command, present: ProtocolRecord, wished: ProtocolRecord
) -> Prospect:
    """What a command would do that somebody else made. Raises `CommandError` for what the members would refuse."""
    change = command.change
    if change is None:
        told = "What is prepared and not committed is taken back; service goes on."
        return Prospect(here, command, (), (told,), (), None)
    check_record(wished, change)
    there = following(here, command, extended(schedule, command))
    rows, meanwhile = _rows(here, change), _meanwhile(here, command, present)
    return Prospect(here, command, rows, meanwhile, _warnings(here, command), there)


def cancelling(here: Configuration, *, group: bytes, nonce: bytes) -> Command:
    """The command that takes back what is prepared and not committed."""
    return Command(group, here.epoch, CANCEL, 0, False, None, nonce)


# ------------------------------------------------------------------------------------------------- the change


def _seats(here: Configuration, wish: Wish) -> tuple[Seat, ...]:
    known = here.members
    touched = [*wish.remove, *wish.replace]
    for member in (*touched, *wish.addresses):
        if member not in known:
            raise CommandError(f"{member} is no member; the members are {', '.join(known)}")
    for member in touched:
        if touched.count(member) > 1:
            raise CommandError(f"{member} is removed or replaced twice in one step")
    seats: list[Seat] = []
    for seat in here.seats():
        if seat.id in wish.remove:
            continue
        new = wish.replace.get(seat.id)
        if new is not None:
            _check_new(seat, new)
            seat = new
        places = wish.addresses.get(seat.id)
        if places is not None:
            seat = attrs.evolve(seat, addresses=_canonical(places))
        seats.append(seat)
    for new in wish.add:
        if new.id in known and new.id not in touched:
            raise CommandError(f"{new.id} is a member already: rotate it, or replace it")
        seats.append(new)
    if not seats:
        raise CommandError("nobody would be left")
    return tuple(seats)


def _check_new(old: Seat, new: Seat) -> None:
    if new.id == old.id and new.epoch_root == old.epoch_root:
        raise CommandError(f"the keys on the card are those that {old.id} has already")


def _canonical(places: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(canonical_address("addresses", place) for place in places)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None


def _faults(here: Configuration, wish: Wish, record: ProtocolRecord, n: int) -> tuple[int, int]:
    """f and c of the next configuration."""
    if wish.forced:
        f, c = here.f, here.c
        for name, given, now in (("byzantine", wish.byzantine, f), ("crash", wish.crash, c)):
            if given is not None and given != now:
                raise CommandError(f"a forced change never changes f or c, and {name} is {now} now")
        return f, c
    stays = record.name == here.protocol and n == len(here.roster)
    if stays:
        return (here.f if wish.byzantine is None else wish.byzantine, here.c if wish.crash is None else wish.crash)
    if wish.byzantine is None and wish.crash is None and record.name == here.protocol:
        # More members of the same protocol: as many more faults as they bear, of the kind that it is there for.
        f, c = _grown(here, record, n)
    else:
        f, c = default_faults(record, n, wish.byzantine, wish.crash)
    _check_not_weaker(here, wish, record, n, f, c)
    return f, c


def _grown(here: Configuration, record: ProtocolRecord, n: int) -> tuple[int, int]:
    """As many liars as n members bear beside the crashes that were asked for; in a crash protocol, as many crashes."""
    if record.byzantine and here.c and n >= record.members_needed(here.f, here.c):
        return default_faults(record, n, None, here.c)
    return default_faults(record, n, None, None)


def _check_not_weaker(here: Configuration, wish: Wish, record: ProtocolRecord, n: int, f: int, c: int) -> None:
    if f < here.f and wish.byzantine is None and record.byzantine:
        raise CommandError(
            f"{n} members bear {f} liars under {record.name}, and the group bears {here.f} now, which need "
            f"{record.members_needed(here.f, c)} members; say --byzantine {f} if you want it so"
        )
    if f + c < here.f + here.c and wish.byzantine is None and wish.crash is None:
        total = here.f + here.c
        wanted = (here.f, here.c) if record.name == here.protocol else (total, 0) if record.byzantine else (0, total)
        needed = record.members_needed(*wanted)
        raise CommandError(
            f"{n} members bear {f + c} faults under {record.name}, and the group bears {here.f + here.c} now, which "
            f"need {needed} members; say --byzantine {f} --crash {c} if you want it so"
        )


def _settings(here: Configuration, wish: Wish, record: ProtocolRecord) -> tuple[dict[str, int], int, int]:
    """The protocol's parameters, the checkpoint interval and the window."""
    parameters = dict(here.parameters) if record.name == here.protocol else {}
    own = {name: value for name, value in wish.settings.items() if name in OF_THE_GROUP}
    parameters |= {name: value for name, value in sorted(wish.settings.items()) if name not in own}
    interval = own.get("checkpoint_interval", here.checkpoint_interval)
    window = own.get("window", max(here.window, 2 * interval) if "checkpoint_interval" in own else here.window)
    return dict(sorted(parameters.items())), interval, window


def _operators(here: Configuration, wish: Wish) -> tuple[tuple[bytes, ...], int]:
    keys = list(here.operators)
    for key in wish.remove_operators:
        if key not in keys:
            raise CommandError(f"{key.hex()[:16]} is no operator of this group")
        keys.remove(key)
    for key in wish.add_operators:
        if key in keys:
            raise CommandError(f"{key.hex()[:16]} is an operator already")
        keys.append(key)
    threshold = here.operator_threshold if wish.operator_threshold is None else wish.operator_threshold
    if threshold > len(keys):
        raise CommandError(
            f"{threshold} operators must sign a command, and {len(keys)} would be left: nobody could ever change this "
            "group again; lower the threshold in the same step, or add operators"
        )
    return tuple(keys), threshold


# ------------------------------------------------------------------------------------------------- checks


def check_record(record: ProtocolRecord, change: Change) -> None:
    """Whether the protocol, by what it says of itself, can run such a group. Raises `CommandError`."""
    n, f, c = len(change.members), change.f, change.c
    if f and not record.byzantine:
        lie = "member that lies is" if f == 1 else "members that lie are"
        raise CommandError(f"{record.name} survives crashes only, and {f} {lie} allowed for")
    needed = record.members_needed(f, c)
    if n < needed:
        raise CommandError(
            f"{f} Byzantine and {c} crash faults need {needed} members under {record.name}; there would be {n}"
        )
    if record.coins and not change.coin:
        raise CommandError(f"{record.name} tosses coins, and the epoch would have no coin key")
    for name, value in change.parameters.items():
        parameter = record.parameters.get(name)
        if parameter is None:
            known = ", ".join(sorted({*record.parameters, *OF_THE_GROUP}))
            raise CommandError(f"{record.name} has no parameter {name!r}; known here: {known}")
        try:
            check_range(name, value, parameter.minimum, parameter.maximum)
        except ConfigurationError as error:
            raise CommandError(str(error)) from None


# ------------------------------------------------------------------------------------------------- words


def bears(f: int, c: int) -> str:
    """How many faults, in words."""
    liars = f"{f} may lie" if f else "nobody may lie"
    if not f:
        return f"{liars}, {c} may crash" if c else "nobody may lie or crash"
    return f"{liars}, {c} more may crash" if c else f"{liars} or crash"


def _rows(here: Configuration, change: Change) -> tuple[tuple[str, str, str], ...]:
    now = here.change()
    quorums = [_quorum(len(one.members), one.f, one.c) for one in (now, change)]
    rows = [
        ("epoch", str(here.epoch), str(here.epoch + 1)),
        ("protocol", now.protocol, change.protocol),
        ("members", _named(now), _named(change)),
        ("faults", bears(now.f, now.c), bears(change.f, change.c)),
        ("quorum", quorums[0], quorums[1]),
    ]
    before = {seat.id: seat for seat in now.members}
    for seat in change.members:
        old = before.get(seat.id)
        if old is not None and old.epoch_root != seat.epoch_root:
            rows.append((f"keys of {seat.id}", old.epoch_root.hex()[:16], seat.epoch_root.hex()[:16]))
        if old is not None and old.identity != seat.identity:
            rows.append((f"identity of {seat.id}", old.identity.hex()[:16], seat.identity.hex()[:16]))
        if old is not None and old.addresses != seat.addresses:
            rows.append((f"addresses of {seat.id}", " ".join(old.addresses), " ".join(seat.addresses)))
    for name in sorted({*now.parameters, *change.parameters}):
        rows.append((name, _value(now, name), _value(change, name)))
    rows += [
        ("checkpoint interval", str(now.checkpoint_interval), str(change.checkpoint_interval)),
        ("window", str(now.window), str(change.window)),
        ("operators", _operators_named(now), _operators_named(change)),
        ("coin key", "yes" if now.coin else "no", "yes" if change.coin else "no"),
        ("policy", _policy_named(now), _policy_named(change)),
    ]
    needs = [attrs.asdict(one.qos) if one.qos is not None else {} for one in (now, change)]
    for name in needs[1]:
        rows.append((f"needed: {name}", str(needs[0].get(name, "-")), str(needs[1][name])))
    return tuple(rows)


def _value(change: Change, name: str) -> str:
    return str(change.parameters.get(name, "default"))


def _named(change: Change) -> str:
    return f"{len(change.members)}: {', '.join(seat.id for seat in change.members)}"


def _quorum(n: int, f: int, c: int) -> str:
    try:
        return f"{Quorum(n, f, c).certificate} of {n}"
    except QuorumError:
        return "-"


def _policy_named(change: Change) -> str:
    if change.policy is None or not change.policy.modes:
        return "manual"
    return f"{change.policy.name}: {', '.join(mode.protocol for mode in change.policy.modes)}"


def _operators_named(change: Change) -> str:
    keys = ", ".join(key.hex()[:8] for key in change.operators)
    return f"{change.operator_threshold} of {len(change.operators)}: {keys}"


def _meanwhile(here: Configuration, command: Command, present: ProtocolRecord) -> tuple[str, ...]:
    change = command.change
    assert change is not None
    n, after = here.quorum, Quorum(len(change.members), change.f, change.c)
    told: list[str] = []
    joining = [seat.id for seat in change.members if seat.id not in here.members]
    leaving = [member for member in here.members if member not in {seat.id for seat in change.members}]
    if command.forced:
        told.append(
            f"{n.available} of the {n.n} members must be up and report what they may have helped to decide; the "
            f"protocol {here.protocol} need not run any more"
        )
        told.append("Service pauses from the order until the members have agreed; with defaults, a second or two.")
        return tuple(told)
    alone = "" if "leader-crash" in present.survives else ", the one that orders among them"
    told.append(f"{n.certificate} of the present {n.n} members must be up until epoch {here.epoch} ends{alone}.")
    told.append(
        f"{after.available} of the next {after.n} members must be up and say that they are ready; {after.certificate} "
        "must hold the state durably before anything is acknowledged."
    )
    if joining:
        # The change is carried out as soon as enough are ready, and they need not be among these.
        must = "must" if len(joining) > after.n - after.available else "should"
        told.append(f"{', '.join(joining)} {must} run by then: bftkit node run; until then it follows as an observer.")
    if leaving:
        told.append(f"{', '.join(leaving)} must stay up until the next epoch has begun, and has no part in it.")
    first = f"from slot {command.at} on " if command.at else "after they are ready "
    told.append(
        f"Epoch {here.epoch} ends at the first checkpoint {first}(every {here.checkpoint_interval} slots). Service "
        "pauses for a few message delays, and for as long as it takes to write the state to disk."
    )
    return tuple(told)


def _warnings(here: Configuration, command: Command) -> tuple[str, ...]:
    change = command.change
    assert change is not None
    told: list[str] = []
    n = len(change.members)
    if here.f and not change.f:
        told.append(f"From epoch {here.epoch + 1} on the group is not protected against members that lie.")
    elif change.f < here.f:
        told.append(f"The group will bear {change.f} liars in place of {here.f}.")
    if change.f + change.c == 0 and n > 1:
        told.append("The group will bear no fault at all: one member that is down may stop it.")
    elif change.f + change.c < here.f + here.c and not (here.f and not change.f):
        told.append(f"The group will bear {change.f + change.c} faults in place of {here.f + here.c}.")
    if change.f and n < 3 * (change.f + change.c) + 1:
        told.append(
            f"The next epoch cannot be left by force: with f = {change.f} and c = {change.c} that needs "
            f"{3 * (change.f + change.c) + 1} members, and there are {n}."
        )
    if command.forced:
        if not here.f:
            told.append("In an epoch with f = 0, members that lie about what was decided are not tolerated.")
        if command.accept_loss:
            told.append("You accept loss: what the leader alone has written is lost, even if it was acknowledged.")
    now = here.change()
    if command.kind == PLANNED and attrs.evolve(change, coin=now.coin) == now:
        told.append("Nothing changes but the epoch" + (" and the coin key." if change.coin else "."))
    before = {seat.id: seat for seat in here.seats()}
    for seat in change.members:
        old = before.get(seat.id)
        if old is not None and old.epoch_root != seat.epoch_root:
            told.append(f"{seat.id} must run with its new keys; the old ones count until then only.")
        left = seat.epoch_count - 1 - (here.epoch + 1)
        if left < FEW_EPOCHS:
            told.append(f"{seat.id} has keys for {left} more epochs: rotate it soon.")
    if change.operators != here.operators and not set(change.operators) & set(here.operators):
        told.append("No present operator will be one any more.")
    return tuple(told)


__all__ = ["OF_THE_GROUP", "Prospect", "Wish", "bears", "cancelling", "check_record", "explain", "foresee"]
