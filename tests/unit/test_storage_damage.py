"""Damage to the log: what had been synced and is bad is found; what was torn is cut (FAULTS lines 13 and 14)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from bftkit.storage.head import Head
from bftkit.storage.log import Entry, Log, LogCorrupt, Recovered, verify
from bftkit.storage.memory_files import MemoryDirectory
from bftkit.storage.records import OVERHEAD, Codec, Kind

GROUP, MEMBER, SALT = b"group", b"member", bytes(range(16))
FIRST, SECOND, THIRD = (f"log-{number:010d}.seg" for number in (1, 2, 3))


def reopen(directory: MemoryDirectory) -> tuple[Log, Recovered]:
    return Log.open(directory, group=GROUP, identity=MEMBER)


def begin() -> tuple[MemoryDirectory, Log]:
    directory = MemoryDirectory()
    Log.create(directory, group=GROUP, identity=MEMBER, salt=SALT)
    return directory, reopen(directory)[0]


def contents(directory: MemoryDirectory) -> dict[str, bytes]:
    return {name: directory.read(name) for name in directory.names()}


def assert_corrupt(directory: MemoryDirectory, where: str) -> None:
    """Found by `verify` and by `open`, and nothing was touched."""
    before = contents(directory)
    assert verify(directory).problem is not None, where
    with pytest.raises(LogCorrupt):
        reopen(directory)
    assert contents(directory) == before, where


def sealed_log() -> MemoryDirectory:
    """Three segments with all kinds of records, cleanly closed."""
    directory, log = begin()
    log.append(b"first", 1)
    log.sync()
    log.append(b"", 2)
    log.append(b"view 1", 0)
    log.sync()
    log.rotate([b"view 1", b""])
    log.append(b"second", 3)
    log.sync()
    log.seal()
    log.append(b"third", 4)
    log.rotate([b"view 2"])
    log.append(b"fourth", 5)
    log.append(b"fifth", 6)
    log.close()
    return directory


def test_a_flip_of_any_bit_of_a_sealed_log_is_found() -> None:
    intact = sealed_log()
    records = reopen(intact.copy())[1].records
    end_of_data = len(intact.read(THIRD)) - OVERHEAD  # the last record is the final seal
    flips = torn = 0
    for name, data in sorted(contents(intact).items()):
        for bit in range(len(data) * 8):
            directory = intact.copy()
            directory.flip(name, bit)
            flips += 1
            if name == THIRD and bit >= end_of_data * 8:
                report = verify(directory)
                assert (report.problem, report.torn_bytes) == (None, OVERHEAD)
                assert reopen(directory)[1].records == records
                torn += 1
            else:
                assert verify(directory).problem is not None, f"bit {bit} of {name}"
                with pytest.raises(LogCorrupt):
                    reopen(directory)
                assert directory.read(name) != data, "opening a corrupt log has changed it"
    assert flips == intact.bytes_used * 8
    assert torn == OVERHEAD * 8


def test_a_flip_of_any_bit_is_found_after_a_crash_too_once_a_later_record_was_written() -> None:
    """The proof is a header of a later sync, even if the payload behind it was torn away."""
    directory, log = begin()
    log.append(b"acknowledged", 1)
    log.append(b"this too", 2)
    log.sync()
    end = len(directory.read(FIRST))
    log.append(b"torn" * 50, 3)
    log.flush()
    data = directory.read(FIRST)[: end + OVERHEAD + 10]
    directory.write(FIRST, data)
    assert [entry.slot for entry in reopen(directory.copy())[1].records] == [1, 2]
    for bit in range(end * 8):
        copy = directory.copy()
        copy.flip(FIRST, bit)
        with pytest.raises(LogCorrupt):
            reopen(copy)


@pytest.mark.parametrize("seed", range(3))
def test_random_flips_in_a_larger_log_are_found(seed: int) -> None:
    chance = random.Random(seed)
    directory, log = begin()
    for slot in range(1, 400):
        log.append(chance.randbytes(chance.choice([0, 10, 500, 5000])), slot)
        if chance.random() < 0.3:
            log.sync()
        if chance.random() < 0.02:
            log.rotate([chance.randbytes(100)])
    log.close()
    newest = directory.names()[-2]
    assert newest > FIRST
    sizes = [(name, len(data)) for name, data in sorted(contents(directory).items())]
    for _ in range(150):
        ((name, size),) = chance.choices(sizes, weights=[size for _, size in sizes])
        bit = chance.randrange(size * 8)
        directory.flip(name, bit)
        if name == newest and bit >= (size - OVERHEAD) * 8:
            assert verify(directory).problem is None
        else:
            assert verify(directory).problem is not None, f"bit {bit} of {name}"
        directory.flip(name, bit)
    assert verify(directory).problem is None


def test_a_burst_that_wipes_the_middle_is_found_even_if_all_markers_near_it_are_gone() -> None:
    directory, log = begin()
    for slot in range(1, 30):
        log.append(b"x" * 100, slot)
        log.sync()
    log.close()
    data = directory.read(FIRST)
    for start in range(0, len(data) - OVERHEAD, 97):
        for filler in (b"\0", b"\xff"):
            for length in (1, 50, 512, 1500):
                burst = data[start : min(start + length, len(data) - OVERHEAD)]
                if set(burst) <= set(filler):
                    continue
                directory.write(FIRST, data[:start] + filler * len(burst) + data[start + len(burst) :])
                assert verify(directory).problem is not None


# --- torn tails ----------------------------------------------------------------------------------------------------


def test_a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() -> None:
    directory, log = begin()
    log.append(b"synced", 1)
    log.sync()
    log.seal()
    start = len(directory.read(FIRST))
    ends = [start]
    for slot, size in ((2, 40), (3, 0), (4, 300)):
        log.append(b"t" * size, slot)
        ends.append(log.bytes_on_disk)
    log.flush()
    data = directory.read(FIRST)
    assert ends[-1] == len(data)
    for length in range(start - OVERHEAD, len(data) + 1):  # the seal before them may be torn as well
        torn = directory.copy()
        torn.write(FIRST, data[:length])
        log, recovered = reopen(torn)
        whole = [end for end in ends if end <= length]
        expected = [1, 2, 3, 4][: max(1, len(whole))]
        assert [entry.slot for entry in recovered.records] == expected
        assert recovered.torn_bytes == length - (whole[-1] if whole else start - OVERHEAD)
        log.append(b"after", 9)
        log.sync()
        torn.crash()
        _, recovered = reopen(torn)
        assert [entry.slot for entry in recovered.records] == [*expected, 9]


def every_choice(run: Callable[[Callable[[int], int]], None]) -> int:
    """Run once for each way in which all the choices can go; gives the number of runs."""
    script: list[list[int]] = [[]]
    runs = 0
    while script:
        prefix = script.pop()
        taken: list[int] = []

        def choose(options: int, prefix: list[int] = prefix, taken: list[int] = taken) -> int:
            at = len(taken)
            answer = prefix[at] if at < len(prefix) else 0
            if at >= len(prefix):
                script.extend([*taken, other] for other in range(1, options))
            taken.append(answer)
            return answer

        run(choose)
        runs += 1
    return runs


def test_any_subset_of_unsynced_pages_is_a_torn_tail_and_never_corruption() -> None:
    """Two flushed groups over seven pages, no sync: a crash may keep any of the pages, or any prefix."""

    def run(choose: Callable[[int], int]) -> None:
        directory, log = begin()
        log.append(b"synced" * 30, 1)
        log.sync()
        for slot in (2, 3, 4, 5):
            log.append(b"%d" % slot * 600, slot)
            if slot == 3:
                log.flush()
        log.flush()
        directory.crash(choose)
        _, recovered = reopen(directory)
        slots = [entry.slot for entry in recovered.records]
        assert slots == list(range(1, len(slots) + 1))
        assert len(slots) >= 1
        outcomes.add(len(slots))

    outcomes: set[int] = set()
    assert every_choice(run) > 100
    assert outcomes == {1, 2, 3, 4, 5}


def test_a_tail_that_contains_forged_or_copied_records_is_still_torn() -> None:
    """A client may send bytes that look like records; without the log's secret they prove nothing."""
    other = MemoryDirectory()
    Log.create(other, group=GROUP, identity=MEMBER, salt=b"another secret!!")
    log, _ = reopen(other)
    for slot in range(1, 20):
        log.append(b"x" * 20, slot)
        log.sync()
    forged = other.read(FIRST)
    for length in range(0, 200, 3):
        directory, log = begin()
        log.append(b"synced", 1)
        log.sync()
        start = len(directory.read(FIRST))
        log.append(forged[start + OVERHEAD :] + forged, 2)
        log.flush()
        data = bytearray(directory.read(FIRST))
        del data[-length - 1 :]
        directory.write(FIRST, bytes(data))
        _, recovered = reopen(directory)
        assert recovered.records == (Entry(1, b"synced"),)


def test_a_damaged_segment_full_of_markers_is_judged_rightly() -> None:
    """Markers by the thousand, with headers behind them that are wrong in one bit each."""
    directory, log = begin()
    log.append(b"synced", 1)
    log.sync()
    codec = Codec(Head.decode(directory.read("log.head")).key())
    start = len(directory.read(FIRST)) + OVERHEAD
    false_headers: list[bytes] = []
    for index in range(600):
        at = start + 2 * len(codec.marker) + index * (OVERHEAD + 4)
        header = bytearray(codec.encode(Kind.ENTRY, 9, 1, at, at, bytes(16), b"")[0])
        header[4 + index % (OVERHEAD - 20)] ^= 1 << index % 8
        false_headers.append(codec.marker + bytes(header))
    log.append(codec.marker * 2 + b"".join(false_headers) + codec.marker * 10_000, 2)
    log.flush()
    end = len(directory.read(FIRST))
    torn = directory.copy()
    torn.write(FIRST, directory.read(FIRST)[:-1])
    assert reopen(torn)[1].records == (Entry(1, b"synced"),)
    log.sync()
    log.seal()
    for at in (start - OVERHEAD + 7, start + 5, end - 1):  # length field, payload, last byte
        corrupt = directory.copy()
        corrupt.flip(FIRST, at * 8)
        assert_corrupt(corrupt, f"byte {at}")


# --- whole records and files moved, dropped, doubled ---------------------------------------------------------------


def pieces(directory: MemoryDirectory, name: str) -> list[bytes]:
    """The records of a segment, as bytes."""
    data = directory.read(name)
    found: list[bytes] = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at + 5 : at + 9], "little")
        found.append(data[at : at + OVERHEAD + length])
        at += OVERHEAD + length
    return found


def rearrangements(records: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    for left in range(len(records)):
        for right in range(left + 1, len(records)):
            swapped = list(records)
            swapped[left], swapped[right] = swapped[right], swapped[left]
            yield f"{left} and {right} swapped", swapped
    for index in range(len(records) - 1):
        yield f"{index} dropped", records[:index] + records[index + 1 :]
    for index in range(len(records)):
        yield f"{index} doubled", records[: index + 1] + records[index:]
        yield f"{index} again at the end", [*records, records[index]]


@pytest.mark.parametrize("name", [FIRST, SECOND, THIRD])
def test_swapped_dropped_and_doubled_records_are_found(name: str) -> None:
    directory, log = begin()
    for segment in range(3):
        for slot in range(5):
            log.append(b"same size", segment * 5 + slot + 1)
            log.sync()
        if segment < 2:
            log.rotate([b"same size", b"same size"])
    log.close()
    for what, records in rearrangements(pieces(directory, name)):
        copy = directory.copy()
        copy.write(name, b"".join(records))
        assert_corrupt(copy, what)


def test_records_of_another_log_with_the_same_secret_do_not_fit() -> None:
    logs: list[MemoryDirectory] = []
    for text in (b"one", b"two"):
        directory, log = begin()
        for slot in range(1, 6):
            log.append(text if slot == 2 else b"same", slot)
            log.sync()
        log.close()
        logs.append(directory)
    one, two = (pieces(directory, FIRST) for directory in logs)
    for index in range(1, len(one) - 1):
        copy = logs[0].copy()
        copy.write(FIRST, b"".join([*one[:index], two[index], *one[index + 1 :]]))
        if one[index] != two[index]:
            assert_corrupt(copy, f"record {index} replaced")


def test_missing_swapped_and_shortened_segments_are_found() -> None:
    intact = sealed_log()
    for name in (FIRST, SECOND, THIRD, "log.head"):
        copy = intact.copy()
        copy.remove(name)
        assert_corrupt(copy, f"{name} is missing")
        copy = intact.copy()
        copy.write(name, b"")
        assert_corrupt(copy, f"{name} is empty")
    for left, right in ((FIRST, SECOND), (SECOND, THIRD), (FIRST, THIRD)):
        copy = intact.copy()
        copy.write(left, intact.read(right))
        copy.write(right, intact.read(left))
        assert_corrupt(copy, f"{left} and {right} swapped")
    for name in (FIRST, SECOND):
        for length in range(len(intact.read(name))):
            copy = intact.copy()
            copy.write(name, intact.read(name)[:length])
            assert_corrupt(copy, f"{name} cut to {length} bytes")


def test_a_segment_lost_from_the_front_after_a_cut_is_found() -> None:
    directory, log = begin()
    for slot in range(1, 5):
        log.append(b"x", slot)
        log.rotate([b"s"])
    log.cut(1)
    log.close()
    directory.remove(SECOND)
    assert_corrupt(directory, "the oldest kept segment is missing")


def test_a_newest_segment_cut_below_its_standing_records_is_found() -> None:
    directory, log = begin()
    log.append(b"x", 1)
    log.rotate([b"promise", b"another"])
    size = len(directory.read(SECOND))
    for length in range(size):
        copy = directory.copy()
        copy.write(SECOND, directory.read(SECOND)[:length])
        assert_corrupt(copy, f"cut to {length} bytes")
    assert reopen(directory)[1].standing == (b"promise", b"another")


def test_a_head_older_than_the_segments_is_found_and_an_interrupted_rotation_is_not() -> None:
    directory, log = begin()
    log.append(b"x", 1)
    log.sync()
    head = directory.read("log.head")
    log.rotate([b"s"])
    directory.write("log.head", head)
    copy = directory.copy()
    assert reopen(copy)[1].records == (Entry(1, b"x"),)
    assert copy.names() == [FIRST, "log.head"]
    log.append(b"acknowledged", 2)
    log.sync()
    assert_corrupt(directory, "the head went back")


def test_the_exception_says_where_and_why() -> None:
    directory = sealed_log()
    at = len(pieces(directory, SECOND)[0]) + 3
    directory.flip(SECOND, at * 8)
    with pytest.raises(LogCorrupt, match=r"segment 2, byte \d+") as caught:
        reopen(directory)
    assert caught.value.segment == 2
    assert caught.value.offset == len(pieces(directory, SECOND)[0])
    assert "synced" in caught.value.reason
