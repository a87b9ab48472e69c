"""The kinds of records in a member's log: the first byte of each says what the rest is.

Some are *standing*: a new segment of the log begins with them, as `Replica.standing` lists them. The others concern a
slot, and go with the segments that no checkpoint needs any more.
"""

from __future__ import annotations

from typing import Final

from bftkit.core.digest import digest
from bftkit.membership.chain import HandOver

PROTOCOL_RECORD: Final = b"\x01"
"""What the epoch's protocol wants to know after a restart."""
BATCH_RECORD: Final = b"\x02"
"""A slot, 8 bytes, and the batch that this member may vote for in it (SAFETY rule 3)."""
DECIDED_RECORD: Final = b"\x03"
"""A slot, 8 bytes, and the digest of the batch that was decided in it. A hint that may be lost."""
OWN_RECORD: Final = b"\x04"
"""The replica's own: see `settling.own_record`."""
EPOCH_RECORD: Final = b"\x05"
"""The hand-over that opened the epoch: what stands before it in the log is of epochs before."""
WEDGE_RECORD: Final = b"\x06"
"""The command by which this member left the epoch's protocol."""
BEDROCK_RECORD: Final = b"\x07"
"""A record of the bedrock agreement."""
ENTERED_RECORD: Final = b"\x08"
"""Where in the log an epoch begins: the digest of the hand-over that opened it."""
MARKED_RECORD: Final = b"\x09"
"""Standing: that record is in the log, or was there and was cut, and with it all that stood before it."""

SLOT_UNKNOWN: Final = 1 << 62
"""Stands for what a record is about that was found on a disk: no checkpoint covers it."""


def entered_record(link: HandOver) -> bytes:
    """The record that an epoch's entries in the log begin with."""
    return ENTERED_RECORD + digest(link.encode())
