"""`manual`: the members change nothing by themselves; operators do."""

from __future__ import annotations

from typing import Final

import attrs

from bftkit.configuration.policy import Outlook, PolicyRecord, Wish

RECORD: Final = PolicyRecord(
    name="manual",
    title="Operators decide",
    when="You want to decide every change yourself.",
    modes="none",
)


@attrs.frozen
class Manual:
    """Wishes for what there is."""

    record: PolicyRecord = RECORD

    def judge(self, outlook: Outlook) -> Wish:
        """The present mode."""
        return Wish(outlook.mode, "operators decide")


POLICY: Final = Manual()
