"""The simulated network by itself: handles, weather, thin lines, clocks."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from bftkit.sim.links import Line, Links, Network, Slow, WallClock

FRAME = bytes(100)


def links(network: Network | None = None) -> Links:
    return Links(network or Network(1, 1), Random(1), Counter())


def test_one_cut_ends_without_the_other() -> None:
    net = links()
    split = net.partition(["a", "b", "c"], [["a"], ["b"]])
    cut = net.cut_pairs([("a", "b")])
    split.end()
    assert not net.reaches("a", "b")
    assert net.reaches("b", "a")
    split.end()  # a second end does nothing
    cut.end()
    assert net.reaches("a", "b")
    assert net.plain


def test_what_is_cut_counts_where_a_frame_is_lost() -> None:
    net = links()
    net.partition(["a", "b"], [["a"], ["b"]])
    assert net.injected == {}
    assert net.arrivals("a", "b", FRAME, 0) == []
    assert net.injected == {4: 1}
    net.uncut("a", "b")
    net.cut_pairs([("a", "b")])
    net.arrivals("a", "b", FRAME, 0)
    assert net.injected == {4: 1, 5: 1}
    net.heal()
    assert net.arrivals("a", "b", FRAME, 0) == [1000]


def test_weather_ends_in_any_order() -> None:
    net = links()
    first = net.weather(Network(loss=1.0))
    second = net.weather(Network(2, 2))
    assert net.arrivals("a", "b", FRAME, 0) == [2000]
    first.end()
    assert net.arrivals("a", "b", FRAME, 0) == [2000]
    second.end()
    assert net.arrivals("a", "b", FRAME, 0) == [1000]
    net.weather(Network(loss=1.0))
    assert net.arrivals("a", "b", FRAME, 0) == []
    net.network = Network(3, 3)
    assert net.arrivals("a", "b", FRAME, 0) == [3000]


def test_loss_and_duplicates_are_counted_from_their_line_on() -> None:
    for loss, duplication, lines in ((0.1, 0.1, set[int]()), (0.3, 0.0, {1}), (0.0, 0.5, {2})):
        net = links(Network(1, 5, loss=loss, duplication=duplication))
        copies = [len(net.arrivals("a", "b", FRAME, 0)) for _ in range(2000)]
        assert set(net.injected) == lines
        assert abs(copies.count(0) - 2000 * loss) < 100
        assert abs(copies.count(2) - 2000 * (1 - loss) * duplication) < 100


def test_a_straggler_that_is_overtaken_counts() -> None:
    net = links(Network(1, 1, straggling=0.5))
    delays = [net.arrivals("a", "b", FRAME, 0)[0] for _ in range(200)]
    assert max(delays) > 50_000
    assert net.injected[3] > 10
    alone = links(Network(1, 1, straggling=1.0))
    for at in range(0, 100_000_000, 1_000_000):
        alone.arrivals("a", "b", FRAME, at)
    assert alone.injected == {}, "nobody overtakes when everybody is late, one after the other"


def test_delays_fill_their_span_and_no_more() -> None:
    net = links(Network(2, 4))
    delays = [net.arrivals("a", "b", FRAME, 0)[0] for _ in range(3000)]
    assert 2000 <= min(delays) < 2020
    assert 3980 < max(delays) <= 4000


def test_frames_queue_before_a_thin_line() -> None:
    line = Line(8_000, 250)  # a byte a millisecond
    assert line.take(0, 100) == 100_000
    assert line.take(0, 100) == 200_000
    assert line.take(50_000, 100) == 300_000
    assert line.take(50_000, 1) is None, "250 bytes wait already"
    assert line.refused == 1
    assert line.take(1_000_000, 100) == 1_100_000, "idle in between"


def test_a_thin_line_holds_both_ways_and_for_all_peers_together() -> None:
    net = links(Network(0, 0))
    handle = net.limit("a", 8_000, 1000)
    assert net.arrivals("a", "b", FRAME, 0) == [100_000]
    assert net.arrivals("a", "c", FRAME, 0) == [200_000]
    assert net.arrivals("b", "a", FRAME, 0) == [100_000]
    assert net.arrivals("b", "c", FRAME, 0) == [0]
    assert net.injected == {6: 1}, "one frame had to wait for another"
    for _ in range(20):
        net.arrivals("a", "b", FRAME, 0)
    assert net.refused == 12
    handle.end()
    assert net.arrivals("a", "b", FRAME, 0) == [0]
    with pytest.raises(ValueError, match="at least one bit"):
        net.limit("a", 0, 1000)


def test_slow_frames_are_those_that_fit() -> None:
    net = links()
    handle = net.slow_down(Slow("a", 7, lambda frame: frame[:1] == b"x"))
    assert net.arrivals("a", "b", b"x", 0) == [8000]
    assert net.arrivals("a", "b", b"y", 0) == [1000]
    assert net.arrivals("b", "a", b"x", 0) == [1000]
    handle.end()
    assert net.arrivals("a", "b", b"x", 0) == [1000]


def test_a_clock_that_runs_fast_goes_on_from_where_it_is() -> None:
    clock = WallClock(1_000_000, offset_ms=5, drift_ppm=100)
    assert clock.read(10_000_000) == 1_010_006
    clock.set_factor(10_000_000, 10_000_000)
    assert clock.read(10_000_000) == 1_010_006
    assert clock.read(11_000_000) == 1_020_007
    clock.set_factor(11_000_000, 1_000_000)
    assert clock.read(12_000_000) == 1_021_007
    clock.offset_ms -= 10_000_000
    assert clock.read(12_000_000) == 0, "there is no time before 1970"
