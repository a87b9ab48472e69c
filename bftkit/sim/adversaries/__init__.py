"""Liars: objects that stand between a replica and the world and change what it hears and says.

The replica inside stays as it is, so a liar knows all that a broken-in member would know, its keys included, and
nothing more: it cannot sign for others. The same object works in the simulated world and, by ``bftkit node run
--adversary``, in a real process::

    world.lie("m0", load_adversary("slow-leader", ticks=300))
    world.lie("m1", Together(Withhold, WrongReplies))          # by name: "withhold+wrong-replies"

To write one, begin with `Rewriting` and override `say` (to members), `answer` (to clients) or `besides`; call
`act(line)` when a lie leaves. `shelf` has all of them by name.
"""

from __future__ import annotations

from bftkit.sim.adversaries.certificates import ForgedCertificates, OmitPrepared
from bftkit.sim.adversaries.digests import BadChunks, ForgedCheckpoints, WrongDigests
from bftkit.sim.adversaries.endings import (
    BadDeals,
    BedrockSilence,
    FalseHistories,
    FalseHolding,
    FewReports,
    ForgedReports,
    ReadyForNothing,
    ThinReports,
    TwoEndings,
    TwoOffers,
    TwoReports,
)
from bftkit.sim.adversaries.equivocation import Collude, Equivocate, Liar, LiarCounters, WrongReplies
from bftkit.sim.adversaries.honest import Honest, Maker, Postponed, Rewriting, Said, Together
from bftkit.sim.adversaries.mutation import Mutate
from bftkit.sim.adversaries.noise import FarFuture, Flood, Garbage, Replay
from bftkit.sim.adversaries.policies import FalseReports, FalseStalls
from bftkit.sim.adversaries.reads import ReadsBlocker, StaleReads
from bftkit.sim.adversaries.shares import BadShares
from bftkit.sim.adversaries.shelf import (
    ADVERSARIES,
    UnknownAdversary,
    adversary_class,
    adversary_names,
    load_adversary,
)
from bftkit.sim.adversaries.silence import HalfSilent, Silent, SlowLeader, UnfairLeader, Withhold
from bftkit.sim.adversaries.view_changes import BadNewLeader, FarViews, ForgetfulChange, RepeatedVotes
from bftkit.sim.adversaries.votes import BadVotes, Echo, FalseClaims, ForgeRequests, Framer, HighStable

__all__ = [
    "ADVERSARIES",
    "BadChunks",
    "BadDeals",
    "BadNewLeader",
    "BadShares",
    "BadVotes",
    "BedrockSilence",
    "Collude",
    "Echo",
    "Equivocate",
    "FalseClaims",
    "FalseHistories",
    "FalseHolding",
    "FalseReports",
    "FalseStalls",
    "FarFuture",
    "FarViews",
    "FewReports",
    "Flood",
    "ForgeRequests",
    "ForgedCertificates",
    "ForgedCheckpoints",
    "ForgedReports",
    "ForgetfulChange",
    "Framer",
    "Garbage",
    "HalfSilent",
    "HighStable",
    "Honest",
    "Liar",
    "LiarCounters",
    "Maker",
    "Mutate",
    "OmitPrepared",
    "Postponed",
    "ReadsBlocker",
    "ReadyForNothing",
    "RepeatedVotes",
    "Replay",
    "Rewriting",
    "Said",
    "Silent",
    "SlowLeader",
    "StaleReads",
    "ThinReports",
    "Together",
    "TwoEndings",
    "TwoOffers",
    "TwoReports",
    "UnfairLeader",
    "UnknownAdversary",
    "Withhold",
    "WrongDigests",
    "WrongReplies",
    "adversary_class",
    "adversary_names",
    "load_adversary",
]
