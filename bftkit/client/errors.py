"""What a client can tell its caller when it has no result: what is known, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REFUSED_TOLD: Final = 3
REASON_MAX: Final = 300
"""Of so many members is told why what they showed was refused, and so long; the others are counted."""


class ClientError(Exception):
    """Base of all that a client raises about an operation."""


class OperationFailed(ClientError):
    """The operation was executed and the application raised: its error, the same on all members. It had no effect."""


class Refused(ClientError):
    """Not executed, and it never will be: enough members refused it for a reason that time does not change."""


class TooLate(Refused):
    """Not executed, and it never will be: its deadline was over when its turn came.

    The group judges by its agreed time, and the deadline was counted from this client's own clock. A client whose
    clock is slow gets this for everything: `late_ms` shows it.
    """

    def __init__(self, late_ms: int) -> None:
        """`late_ms`: by how many ms of agreed time it came too late."""
        super().__init__(f"not executed: its turn came {late_ms} ms after its deadline, by the group's agreed time")
        self.late_ms = late_ms


class OutcomeUnknown(ClientError):
    """No result in time. The operation may have been executed, or may be yet: ask again with `wait(number)`."""

    def __init__(self, number: int, text: str) -> None:
        """`number`: the operation's sequence number (0 for a read, which has no effect anyway)."""
        super().__init__(text)
        self.number = number


class NoAnswer(OutcomeUnknown):
    """No member answered at all."""


class TooFewAgreed(OutcomeUnknown):
    """Members answered, but too few of them agreed."""


class Contradicted(ClientError):
    """The group showed two genuine histories: members of an epoch signed two endings of it (SAFETY rule 28).

    More of them lied than the group was made to bear, and nobody can say which history is the right one. The text
    names the epochs. This client does nothing any more; whether what was under way was executed is not known.
    """


def refused_in_words(refused: Mapping[str, tuple[int, str]]) -> list[str]:
    """Whose hand-overs did not hold, and why the last one did not, for the end of an error's text.

    `refused`: as `SyncClient.refused_links`. Those that showed the most come first; the rest are counted.
    """
    most = sorted(refused, key=lambda name: (-refused[name][0], name))
    told: list[str] = []
    for name in most[:REFUSED_TOLD]:
        count, reason = refused[name]
        what = "a hand-over that does not hold" if count == 1 else f"{count} hand-overs that do not hold, the last"
        told.append(f"{name} showed {what}: {reason[:REASON_MAX]}")
    if len(most) > REFUSED_TOLD:
        told.append(f"so did {len(most) - REFUSED_TOLD} more")
    return told
