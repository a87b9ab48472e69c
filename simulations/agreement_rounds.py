"""How many rounds binary agreement takes, and whether anybody ever disagrees: under chance, liars, the worst schedule.

    python simulations/agreement_rounds.py                     # 4 members, split inputs, random schedules
    python simulations/agreement_rounds.py --lies 0.3          # f of them say all that they can justify, and junk
    python simulations/agreement_rounds.py --members 7 --lies 0.3 --form biased
    python simulations/agreement_rounds.py --scheduler worst   # see bftkit.sim.adversaries.agreement_schedule
    python simulations/agreement_rounds.py --scheduler worst --coin-threshold 2 --expect-stalls --seeds 0..99
                                                               # with a coin of t + 1 shares it never ends

A schedule delays and reorders messages, and each of them arrives in the end. The worst one sees everything but the
shares of coins that were not sent yet. "Rounds" is the round of the last decision of a correct member.

Exit code 0: all correct members decided, the same and once, in all runs; with ``--expect-stalls`` also: some never did.
1: not so. Fast keys stand in for signatures and coins (`bftkit.sim.keyring`, `bftkit.sim.coins`), which changes no
message and no count.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from random import Random
from time import process_time

import attrs

from bftkit.blocks.agreement_messages import CODEC, Decision, Message, PreVote
from bftkit.blocks.binary_agreement import BinaryAgreement, Decided, Input, Propose
from bftkit.sim.adversaries.agreement import Forger
from bftkit.sim.adversaries.agreement_schedule import EVIDENCE, WorstSchedule, is_evidence
from bftkit.sim.block_world import BlockWorld, Silent, block_setups

ID = b"rounds"
CHUNK = 100
STEPS_MAX = 100_000
ROUNDS_SHOWN = 14


@attrs.frozen
class Study:
    """What is run for each seed."""

    members: int
    form: str
    scheduler: str
    lies: float
    coin_threshold: int
    cutoff: int

    @property
    def faulty(self) -> int:
        """f, with c = 0."""
        return (self.members - 1) // 3


def run_worst(study: Study, seed: int) -> int | None:
    """The round of the decision, or None if there is none at the cut-off. Raises if two disagree."""
    setups = block_setups(4, 1, seed=seed, coin_threshold=study.coin_threshold)
    schedule = WorstSchedule(setups, plain=study.form == "plain", coin_threshold=study.coin_threshold)
    return schedule.run(study.cutoff)


def run_random(study: Study, seed: int) -> int | None:
    """The same under a random schedule."""
    setups = block_setups(study.members, study.faulty, seed=seed, coin_threshold=study.coin_threshold)
    random = Random(seed)
    liars = sorted(random.sample(sorted(setups), study.faulty if study.lies else 0))
    validated, biased = study.form != "plain", study.form == "biased"
    evidence = EVIDENCE if validated else b""
    world: BlockWorld[Input, Message, Decided] = BlockWorld(
        {
            name: BinaryAgreement.create(
                setup,
                ID,
                biased=biased,
                valid=is_evidence if validated else None,
                coin_threshold=study.coin_threshold,
            )
            for name, setup in setups.items()
        },
        seed=seed,
        liars=dict.fromkeys(liars, Silent()),
    )
    forger = Forger({name: setups[name] for name in liars}, ID, evidence, biased=biased) if liars else None
    top = 1

    def watch(_: str, message: Message) -> None:
        nonlocal top
        if isinstance(message, PreVote):
            top = max(top, message.round)

    world.observers.append(watch)
    if forger is not None:
        world.observers.append(forger.hear)
    for index, name in enumerate(world.honest):
        wish = index % 2 == seed % 2
        world.input(name, Propose(wish, evidence if wish else b""))
    for _ in range(STEPS_MAX):
        if all(world.outputs[name] for name in world.honest):
            break
        if forger is not None and random.random() < study.lies:
            liar = random.choice(liars)
            message = forger.anything(liar, max(1, top + random.randint(-1, 1)), random)
            if message is not None:
                world.inject(liar, random.choice(world.honest), message)
        if top > study.cutoff or not world.step():
            break
    outputs = [world.outputs[name] for name in world.honest]
    assert len({said.value for said in chain(*outputs)}) <= 1, f"seed {seed}: two decide differently"
    assert all(len(said) <= 1 for said in outputs), f"seed {seed}: one decides twice"
    honest = [(who, blame) for who, blame in world.blames if who in world.honest and blame.member in world.honest]
    assert not honest, f"seed {seed}: a correct member is blamed: {honest[0]}"
    if not all(outputs):
        assert top > study.cutoff, f"seed {seed}: nothing is left to deliver, and not everybody has decided"
        return None
    decisions = [CODEC.decode(said[0].proof) for said in outputs]
    return max(decision.round for decision in decisions if isinstance(decision, Decision))


def run_some(study: Study, seeds: Sequence[int]) -> tuple[Counter[int], int, list[str], float]:
    """Rounds counted, runs without a decision, what went wrong, seconds of processor time."""
    begun = process_time()
    rounds: Counter[int] = Counter()
    stalled = 0
    wrong: list[str] = []
    run = run_worst if study.scheduler == "worst" else run_random
    for seed in seeds:
        try:
            ended = run(study, seed)
        except AssertionError as error:
            wrong.append(f"seed {seed}: {error}")
            continue
        if ended is None:
            stalled += 1
        else:
            rounds[ended] += 1
    return rounds, stalled, wrong, process_time() - begun


def numbers(text: str) -> range:
    """``17`` or ``0..999``, both ends included."""
    first, dots, last = text.partition("..")
    return range(int(first), int(last if dots else first) + 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=range(10_000), help="17 or 0..9999")
    parser.add_argument("--scheduler", choices=("random", "worst"), default="random")
    parser.add_argument("--form", choices=("plain", "validated", "biased"), default="plain")
    parser.add_argument("--members", type=int, default=4, help="n; f is the most that it survives")
    parser.add_argument("--lies", type=float, default=0.0, help="a lie for each delivery with this chance; 0: no liars")
    parser.add_argument("--coin-threshold", type=int, help="shares that make a coin; n - t unless given")
    parser.add_argument("--cut-off", type=int, default=200, help="rounds after which a run counts as stalled")
    parser.add_argument("--expect-stalls", action="store_true", help="runs without an end are what is to be shown")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    if asked.scheduler == "worst" and (asked.members != 4 or asked.lies or asked.form == "biased"):
        print("the worst schedule is written for four members, plain or validated, and brings its own liar")
        return 2
    faulty = (asked.members - 1) // 3
    threshold = asked.coin_threshold or asked.members - faulty
    study = Study(asked.members, asked.form, asked.scheduler, asked.lies, threshold, asked.cut_off)
    seeds = list(asked.seeds)
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    rounds: Counter[int] = Counter()
    stalled, seconds = 0, 0.0
    wrong: list[str] = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        for counted, without, bad, spent in pool.map(partial(run_some, study), chunks):
            rounds.update(counted)
            stalled += without
            wrong += bad
            seconds += spent
    ended = sum(rounds.values())
    mean = sum(number * count for number, count in rounds.items()) / ended if ended else 0.0
    if asked.json:
        found = {
            **attrs.asdict(study),
            "runs": len(seeds),
            "decided": ended,
            "stalled": stalled,
            "wrong": wrong,
            "mean": round(mean, 3),
            "rounds": dict(sorted(rounds.items())),
            "seconds": round(seconds, 1),
        }
        print(json.dumps(found))
    else:
        tell(study, rounds, len(seeds), stalled, wrong, mean, seconds)
    return 1 if wrong or (stalled > 0) != asked.expect_stalls else 0


def tell(
    study: Study, rounds: Counter[int], runs: int, stalled: int, wrong: list[str], mean: float, seconds: float
) -> None:
    """The same for people."""
    ended = sum(rounds.values())
    print(
        f"{study.members} members, f = {study.faulty}, {study.form}, {study.scheduler} schedule, lies {study.lies}, "
        f"coins of {study.coin_threshold} shares"
    )
    print(f"{runs} runs: {ended} decided, {stalled} not within {study.cutoff} rounds, {len(wrong)} went wrong")
    for text in wrong[:3]:
        print(f"  {text}")
    if ended:
        print(f"rounds: mean {mean:.2f}, most {max(rounds)}; runs that needed more than so many rounds:")
        left = ended
        for number in range(1, min(max(rounds), ROUNDS_SHOWN) + 1):
            before, left = left, left - rounds[number]
            ratio = f"   ({left / before:.2f} of those)" if left and rounds[number] else ""
            print(f"  {number:4} {left:6}{ratio}")
    print(f"{seconds:.0f} s of processor time")


if __name__ == "__main__":
    sys.exit(main())
