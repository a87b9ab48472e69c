"""What work costs: the table by which a simulated member is busy as long as a real one would be.

Every round of a member is charged for itself, for each frame and byte that it takes in or lets go, for each signature
made or checked, each operation applied, each byte hashed, each sync. While it works it hears nothing; what it has to
say leaves when it is done. So simulated throughput means something, and a leader that is slow is slow for a reason.

Checks are charged each time, although a world really does each of them once only.
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Costs:
    """Nanoseconds for each kind of work, and microseconds for what the disk does."""

    round_ns: int = 0
    """A round, whatever is in it."""
    frame_ns: int = 0
    """A frame that comes in: decrypting, decoding, the protocol's own step."""
    byte_ns: int = 0
    """A byte that comes in: decrypting, decoding, hashing."""
    send_ns: int = 0
    """A frame that leaves, to one receiver."""
    send_byte_ns: int = 0
    """A byte that leaves."""
    sign_ns: int = 0
    verify_ns: int = 0
    coin_share_ns: int = 0
    """A share of a threshold coin that is made, with its proof."""
    coin_verify_ns: int = 0
    """A share that is checked."""
    coin_combine_ns: int = 0
    """For each share that goes into a coin."""
    apply_ns: int = 0
    """An operation that is executed."""
    chunk_ns: int = 0
    """A chunk of the state, at a checkpoint: few of them changed since the last one and are hashed again."""
    record_ns: int = 0
    """A record that goes to the log."""
    sync_us: int = 0
    """A sync, whatever is in it."""
    sync_kib_us: int = 0
    """Each KiB that was appended since the last sync."""

    @classmethod
    def none(cls) -> Costs:
        """Work takes no time; when rounds begin and how long syncs take is left to chance."""
        return FREE

    @classmethod
    def measured(cls) -> Costs:
        """As measured on one machine, with `python simulations/measure_costs.py`."""
        return MEASURED


FREE = Costs()
MEASURED = Costs(
    round_ns=33_000,
    frame_ns=36_000,
    byte_ns=2,
    send_ns=1_800,
    send_byte_ns=2,
    sign_ns=16_500,
    verify_ns=45_000,
    coin_share_ns=220_000,
    coin_verify_ns=300_000,
    coin_combine_ns=90_000,
    apply_ns=1_300,
    chunk_ns=1_800,
    record_ns=2_500,
    sync_us=170,
    sync_kib_us=1,
)


class Meter:
    """What one member's work has cost since its last round."""

    __slots__ = ("ns",)

    def __init__(self) -> None:
        self.ns = 0

    def take(self) -> int:
        """Whole microseconds that are due; what is left over is due with the next."""
        us, self.ns = divmod(self.ns, 1000)
        return us


@attrs.define
class WorldCounters:
    """What a world did so far."""

    messages: int = 0
    """Frames that were sent, each receiver counted."""
    bytes: int = 0
    rounds: int = 0
    signs: int = 0
    verifies: int = 0
    """Checks of signatures that were asked for."""
    checked: int = 0
    """Checks that were really done: each key, bytes and signature once, and each share of a coin."""
    coin_shares: int = 0
    """Shares of coins that were made."""
    coin_checks: int = 0
    """Checks of shares that were asked for."""
    coins: int = 0
    """Coins that were put together, by each member."""
    syncs: int = 0
    applied: int = 0
    refused: int = 0
    """Frames for which a queue had no room."""
    oversize: int = 0
    """Frames that were longer than a hub would take."""
