"""Adversaries by name, with options that are plain data, so that a plan of a run can say which it wants."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

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
from bftkit.sim.adversaries.equivocation import Collude, Equivocate, Liar, WrongReplies
from bftkit.sim.adversaries.honest import Honest, Maker, Together
from bftkit.sim.adversaries.mutation import Mutate
from bftkit.sim.adversaries.noise import FarFuture, Flood, Garbage, Replay
from bftkit.sim.adversaries.policies import FalseReports, FalseStalls
from bftkit.sim.adversaries.reads import ReadsBlocker, StaleReads
from bftkit.sim.adversaries.shares import BadShares
from bftkit.sim.adversaries.silence import HalfSilent, Silent, SlowLeader, UnfairLeader, Withhold
from bftkit.sim.adversaries.view_changes import BadNewLeader, FarViews, ForgetfulChange, RepeatedVotes
from bftkit.sim.adversaries.votes import BadVotes, Echo, FalseClaims, ForgeRequests, Framer, HighStable

ADVERSARIES: Final[dict[str, type[Honest]]] = {
    "bad-chunks": BadChunks,
    "bad-deals": BadDeals,
    "bad-new-leader": BadNewLeader,
    "bad-shares": BadShares,
    "bad-votes": BadVotes,
    "bedrock-silence": BedrockSilence,
    "collude": Collude,
    "echo": Echo,
    "equivocate": Equivocate,
    "false-claims": FalseClaims,
    "false-histories": FalseHistories,
    "false-holding": FalseHolding,
    "false-reports": FalseReports,
    "false-stalls": FalseStalls,
    "far-future": FarFuture,
    "far-views": FarViews,
    "few-reports": FewReports,
    "flood": Flood,
    "forge-requests": ForgeRequests,
    "forged-certificates": ForgedCertificates,
    "forged-checkpoints": ForgedCheckpoints,
    "forged-reports": ForgedReports,
    "forgetful-change": ForgetfulChange,
    "framer": Framer,
    "garbage": Garbage,
    "half-silent": HalfSilent,
    "high-stable": HighStable,
    "honest": Honest,
    "liar": Liar,
    "mutate": Mutate,
    "omit-prepared": OmitPrepared,
    "reads-blocker": ReadsBlocker,
    "ready-for-nothing": ReadyForNothing,
    "repeated-votes": RepeatedVotes,
    "replay": Replay,
    "silent": Silent,
    "slow-leader": SlowLeader,
    "stale-reads": StaleReads,
    "thin-reports": ThinReports,
    "two-endings": TwoEndings,
    "two-offers": TwoOffers,
    "two-reports": TwoReports,
    "unfair-leader": UnfairLeader,
    "withhold": Withhold,
    "wrong-digests": WrongDigests,
    "wrong-replies": WrongReplies,
}
"""The shipped adversaries."""

_PLAIN: Final = (bool, int, str)


class UnknownAdversary(ValueError):
    """There is no such adversary, or it has no such option; the text says what there is."""


def adversary_names() -> list[str]:
    """The names on the shelf."""
    return sorted(ADVERSARIES)


def adversary_class(name: str) -> type[Honest]:
    """The class of a name on the shelf, or that ``package.module:Class`` names. Raises `UnknownAdversary`."""
    if name in ADVERSARIES:
        return ADVERSARIES[name]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise UnknownAdversary(
            f"there is no adversary {name!r}; known are {', '.join(adversary_names())}, several of these with + "
            "between, and package.module:Class"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module beside where the command is run is found, as with `python -m`
    try:
        found: Any = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownAdversary(f"the adversary {name!r} cannot be loaded: {error}") from None
    if not callable(found):
        raise UnknownAdversary(f"the adversary {name!r} is no class")
    return cast("type[Honest]", found)


def load_adversary(name: str, /, **options: bool | int | str) -> Maker:
    """A maker of the adversary of this name: ``silent``, ``withhold+wrong-replies``, ``package.module:Class``.

    The options go to the class; where several are combined, to each that has an option of that name. Raises
    `UnknownAdversary` if there is no such adversary or option, or its value is of another type than the default's.
    """
    classes = [adversary_class(part.strip()) for part in name.split("+")]
    taken: set[str] = set()
    makers: list[Maker] = []
    for cls in classes:
        known = _options(cls)
        mine = {option: value for option, value in options.items() if known is None or option in known}
        taken.update(mine)
        for option, value in sorted(mine.items()):
            _check(name, option, value, None if known is None else known[option])
        make: Callable[..., Honest] = cls
        makers.append(partial(make, **mine) if mine else make)
    if unknown := sorted(set(options) - taken):
        every = sorted({option for cls in classes for option in _options(cls) or ()})
        raise UnknownAdversary(
            f"the adversary {name!r} has no option {', '.join(unknown)}; it has {', '.join(every) or 'none'}"
        )
    return makers[0] if len(makers) == 1 else Together(*makers)


def _options(cls: type[Honest]) -> dict[str, Any] | None:
    """The options of an adversary with their defaults; None if it takes any."""
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name: parameter.default for parameter in parameters}


def _check(name: str, option: str, value: object, default: object) -> None:
    if type(value) not in (*_PLAIN, float):
        raise UnknownAdversary(f"{name}: {option} is a whole number, a truth value or a text, not {value!r}")
    if type(default) in _PLAIN and type(value) is not type(default):
        raise UnknownAdversary(f"{name}: {option} is of type {type(default).__name__}, not {value!r}")
