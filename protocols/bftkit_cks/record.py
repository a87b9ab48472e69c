"""What the randomized protocol says of itself, and its parameters."""

from __future__ import annotations

from typing import Final

from bftkit.core.ordering import Parameter, ProtocolRecord

RECORD: Final = ProtocolRecord(
    name="cks",
    title="Randomized atomic broadcast of Cachin, Kursawe, Petzold and Shoup",
    paper=(
        "C. Cachin, K. Kursawe, F. Petzold, V. Shoup, Secure and Efficient Asynchronous Broadcast Protocols, "
        "CRYPTO 2001; C. Cachin, K. Kursawe, V. Shoup, Random Oracles in Constantinople, PODC 2000"
    ),
    byzantine=True,
    timing="asynchronous",
    steps=13,
    messages="about 13 n(n − 1) a round of n − f − c batches, some of them with (n − f − c)² signatures",
    survives=frozenset(
        {
            "loss",
            "partition",
            "follower-crash",
            "leader-crash",
            "leader-restart",
            "power-cut",
            "liar",
            "slow-leader",
        }
    ),
    when="Members may lie, and nothing at all can be said of the network's delays, or somebody may control them.",
    parameters={
        "pipeline": Parameter(1, 1, 64, "rounds above the delivered one in which this member offers batches"),
        "status_ticks": Parameter(
            200, 5, 3_600_000, "ticks between looks whether something was lost and has to be asked for; decides nothing"
        ),
    },
    coins=True,
    crash_as_lie=True,
)
