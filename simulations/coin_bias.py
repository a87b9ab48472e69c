"""Are the coins fair? Tosses many coins of real keys and looks for a bias, in bits and in bytes.

    python simulations/coin_bias.py [--coins 10000] [--json]

For both thresholds of a group of four, n - t = 3 and t + 1 = 2, each coin is made from real shares: shares with
their proofs by as many members as the threshold asks for, drawn anew for each coin, every share checked, combined.
Two chi-square tests against the uniform distribution are printed with their p-values: over the 256 bits of a coin
(how often is each one 1? 256 degrees of freedom) and over all bytes (how often does each value come? 255). A fair
coin gives any p-value as likely as any other; it is below 0.001 in one run of a thousand.

10,000 coins of both thresholds take about 50 s on one core. Keys and names are fixed by `--seed`, so a run can be
repeated exactly.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from random import Random

from bftkit.core.digest import digest
from bftkit.core.quorum import Quorum
from bftkit.sim.coins import real_coins

MEMBERS = ("m0", "m1", "m2", "m3")
QUORUM = Quorum(4, 1)


def upper_tail(chi_square: float, degrees: int) -> float:
    """The probability of at least so much by chance: the regularised upper incomplete gamma function Q(d/2, x/2).

    By its series below the mean and by its continued fraction above (Abramowitz and Stegun, 6.5.29 and 6.5.31).
    """
    a, x = degrees / 2, chi_square / 2
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        step = a
        while term > total * 1e-15:
            step += 1
            term *= x / step
            total += term
        return 1 - scale * total
    b = x + 1 - a
    c, d = 1e300, 1 / b
    fraction = d
    for number in range(1, 10_000):
        part = -number * (number - a)
        b += 2
        d = 1 / (part * d + b)
        c = b + part / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return scale * fraction


def toss(threshold: int, count: int, seed: int) -> tuple[Counter[int], list[int]]:
    """How often each byte came, and how often each bit was 1."""
    group, opening = digest(b"bias", seed.to_bytes(8)), digest(b"opening")
    parts = real_coins(digest(b"key", seed.to_bytes(8)), group, 0, opening, MEMBERS, threshold)
    random = Random(seed)
    values: Counter[int] = Counter()
    ones = [0] * 256
    for number in range(count):
        name = b"coin %d" % number
        some = random.sample(MEMBERS, threshold)
        shares = {member: parts[member].share(name) for member in some}
        judge = parts[some[0]]
        assert all(judge.verify(member, name, share) for member, share in shares.items())
        coin = judge.combine(name, shares)
        values.update(coin)
        bits = int.from_bytes(coin)
        for place in range(256):
            ones[place] += bits >> place & 1
    return values, ones


def examine(threshold: int, count: int, seed: int) -> dict[str, int | float]:
    """Both tests over so many coins."""
    values, ones = toss(threshold, count, seed)
    # Each bit is a cell pair (1, 0) of expected count / 2 each: (2 k - count)^2 / count.
    bits = sum((2 * k - count) ** 2 / count for k in ones)
    expected = 32 * count / 256
    octets = sum((values[value] - expected) ** 2 / expected for value in range(256))
    return {
        "threshold": threshold,
        "coins": count,
        "ones_per_million": round(1e6 * sum(ones) / (256 * count)),
        "bits_chi_square": round(bits, 1),
        "bits_p": round(upper_tail(bits, 256), 4),
        "bytes_chi_square": round(octets, 1),
        "bytes_p": round(upper_tail(octets, 255), 4),
    }


def main() -> None:
    """Toss and print."""
    parser = argparse.ArgumentParser(description="Are the coins fair?")
    parser.add_argument("--coins", type=int, default=10_000, help="how many of each threshold")
    parser.add_argument("--seed", type=int, default=0, help="of the keys and of who takes part")
    parser.add_argument("--json", action="store_true", help="one JSON object in the end")
    arguments = parser.parse_args()
    results = [examine(threshold, arguments.coins, arguments.seed) for threshold in (QUORUM.available, QUORUM.weak)]
    for result in results:
        if not arguments.json:
            print(
                f"threshold {result['threshold']}, {result['coins']:,} coins: "
                f"{result['ones_per_million']:,} ones a million bits; "
                f"bits: chi-square {result['bits_chi_square']} (256), p = {result['bits_p']}; "
                f"bytes: chi-square {result['bytes_chi_square']} (255), p = {result['bytes_p']}"
            )
    if arguments.json:
        print(json.dumps({"event": "result", "seed": arguments.seed, "thresholds": results}))


if __name__ == "__main__":
    main()
