"""The group's bedrock: one agreement that ends an epoch whose protocol has stopped, whatever that protocol was.

A group leaves a protocol that has stopped without that protocol's help: its members agree here on *which* abort
histories count, and everybody computes the same continuation from them. There is one instance for each group and epoch
(SAFETY rule 21); the value is the set of histories with the command that caused the switch, the predicate says that
they are well formed, signed and enough.

Two variants have one face, since what it takes depends on whether members may lie:

- f = 0: `single_decree`, Paxos for one value. n >= 2c + 1. It needs time to terminate, like the protocols there.
- f > 0: `dispersed_agreement`, validated agreement on digests. n >= 3(f + c) + 1, and coin keys (SAFETY rule 26). It
  needs no time: what stopped the protocol may be that the network keeps no bounds.

How it is used::

    bedrock = Bedrock.create(setup, b"ending", valid, value_max)
    bedrock.on_restore(records, out)    only after a restart
    bedrock.on_start(out)
    bedrock.on_input(Propose(value), out)
    bedrock.on_input(Again(), out)      about every second, as long as the machine is kept

It delivers `Agreed(value, proof)` once in each life: a member that restarts hears it again, since it may not have acted
on it. The proof contains the value; `check_agreed` gives it to anybody who knows the members' keys. A machine is kept
after it has agreed, so that members that come late hear the outcome and can fetch the value.

Its records concern no slot: they are standing ones, and `standing()` has those that still matter. Timers are set in the
variant for f = 0 only. Why values are dispersed beside the agreement: docs/adr/0016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from bftkit.blocks.bedrock_messages import (
    CODEC,
    ID_BYTES_MAX,
    RECORDS,
    VALUE_BYTES_MAX,
    Accept,
    Again,
    Agreed,
    Bytes,
    Held,
    Input,
    Message,
    Offer,
    Propose,
)
from bftkit.blocks.dispersed_agreement import DispersedAgreement, check_dispersed
from bftkit.blocks.single_decree import SingleDecree, check_chosen
from bftkit.core.machine import DrawKey, Machine, MemberId, Out, Record, TimerKey
from bftkit.core.ordering import Setup
from bftkit.core.state import Forkable

__all__ = [
    "CODEC",
    "ID_BYTES_MAX",
    "RECORDS",
    "VALUE_BYTES_MAX",
    "Accept",
    "Again",
    "Agreed",
    "Bedrock",
    "Bytes",
    "Held",
    "Input",
    "Message",
    "Offer",
    "Propose",
    "check_agreed",
]


@attrs.define(eq=False)
class Bedrock(Forkable, Machine[Input, Message, Agreed]):
    """One member's part in one bedrock agreement; see `create`, and the top of this file."""

    variant: SingleDecree | DispersedAgreement

    @classmethod
    def create(
        cls,
        setup: Setup,
        id: bytes,  # noqa: A002
        valid: Callable[[bytes], bool],
        value_max: int,
    ) -> Bedrock:
        """The instance `id` (up to 64 bytes), for values of up to `value_max` bytes (up to 15 MiB).

        `valid` is a pure function of what is the same at every member. Raises `ValueError` if f > 0 and the group has
        fewer than 3(f + c) + 1 members (SAFETY rule 26) or no coins of threshold n - f - c, and for an id or a bound
        that is too large.
        """
        kind = SingleDecree if setup.quorum.f == 0 else DispersedAgreement
        return cls(kind.create(setup, id, valid, value_max))

    @property
    def result(self) -> Agreed | None:
        """What was delivered; None as long as nothing was."""
        return self.variant.result

    def standing(self) -> Sequence[Record]:
        """The records that still matter, to be repeated at the head of a new log segment."""
        return self.variant.standing()

    def on_start(self, out: Out[Message, Agreed]) -> None:
        """See `Machine.on_start`."""
        self.variant.on_start(out)

    def on_input(self, value: Input, out: Out[Message, Agreed]) -> None:
        """Raises `ValueError` for a proposal that is not valid. After the first one, proposals are passed over."""
        self.variant.on_input(value, out)

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, Agreed]) -> None:
        """See `Machine.on_message`."""
        self.variant.on_message(sender, message, out)

    def on_timer(self, key: TimerKey, out: Out[Message, Agreed]) -> None:
        """See `Machine.on_timer`."""
        self.variant.on_timer(key, out)

    def on_draw(self, key: DrawKey, value: int, out: Out[Message, Agreed]) -> None:
        """See `Machine.on_draw`."""
        self.variant.on_draw(key, value, out)

    def on_restore(self, records: Sequence[Record], out: Out[Message, Agreed]) -> None:
        """See `Machine.on_restore`. Raises `WireError` for what is no record of this: one's own disk is no peer."""
        self.variant.on_restore(records, out)


def check_agreed(setup: Setup, id: bytes, proof: bytes) -> bytes | None:  # noqa: A002
    """The value that this proves to be agreed on in instance `id`; None for what is no proof of that.

    A pure function, for whoever knows the members and can verify their signatures: the set-up's `me`, coins and secret
    keys do not matter. `valid` need not be known: correct members voted, and found the value valid.
    """
    check = check_chosen if setup.quorum.f == 0 else check_dispersed
    return check(setup, id, proof)
