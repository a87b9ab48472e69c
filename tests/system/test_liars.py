"""A liar and a poison operation in a real group: clients are not fooled, honest members know who it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from bftkit.client import OperationFailed, SyncClient
from bftkit.node.evidence import FOLDER, evidence_files
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue
from tests.system.conftest import RunCommand, until

MakeGroup = Callable[..., ProcessGroup]
OpenClient = Callable[..., SyncClient]
Watch = Callable[[ProcessGroup, str, Callable[[Mapping[str, dict[str, Any]]], object]], Mapping[str, dict[str, Any]]]


POISON = ((b"raise", "poison"), (b"zero", "ZeroDivision"), (b"none", "not bytes"), (b"deep", "RecursionError"))


def _blamed_for_equivocation(status: dict[str, Any], liar: str) -> bool:
    return any(fault.startswith(f"{liar}: equivocation") for fault in status["blamed"])


def test_a_liar_is_blamed_and_fools_no_client(
    found: MakeGroup, client: OpenClient, watch: Watch, command: RunCommand
) -> None:
    group = found("--checkpoint-interval", 16)
    liar, honest = "m0", ("m1", "m2", "m3")  # it leads from the start
    for member in group.members:
        group.start(member, *(("--adversary", "bftkit.sim.adversaries:Liar") if member == liar else ()))
    for member in group.members:
        group.wait_ready(member)
    mine = client(group)
    written = 0

    def work(count: int) -> None:
        nonlocal written
        for _ in range(count):
            written += 1
            assert mine.submit(keyvalue.put(b"key", b"%d" % written), timeout=60) == b"="
            assert mine.submit(keyvalue.get(b"key"), timeout=60) == b"+%d" % written
            assert mine.read(keyvalue.get(b"key"), timeout=60) == b"+%d" % written

    work(15)

    def noticed() -> bool:
        """A quorum does not wait for the liar: when its replies come is up to the machine."""
        work(1)
        return mine.core.machine.contradictions > 0

    until(noticed, "a wrong reply, by the client")
    statuses = watch(
        group,
        "an honest member that holds proof of the equivocation, and another leader",
        lambda found: (
            len(found) == len(group.members)
            and found[liar]["adversary"]["equivocations"] > 0  # it may have answered before all others
            and any(_blamed_for_equivocation(found[m], liar) for m in honest)
            and {found[m]["leader"] for m in honest} != {liar}
        ),
    )
    lies = statuses[liar]["adversary"]
    assert lies["equivocations"] >= 1
    assert lies["wrong_replies"] >= 1
    for member in honest:
        assert statuses[member]["stopped"] is None
        accused = {fault.split(":")[0] for fault in statuses[member]["blamed"]}
        assert accused <= {liar}, statuses[member]["blamed"]
        if _blamed_for_equivocation(statuses[member], liar):
            assert statuses[member]["counters"]["evidence"] >= 1
            folder = group.directory / member / FOLDER
            until(partial(evidence_files, folder), "evidence, which a thread of its own writes")
            # What the member keeps on its disk convinces somebody who has nothing but a client's folder.
            told = command("evidence", "verify", group.directory / member, "--client", group.directory / "client")
            assert told.code == 0, told.events
            assert {(one["member"], one["proved"]) for one in told.events[:-1]} == {(liar, True)}
    work(3)


def test_a_poison_operation_stops_nobody_and_leaves_no_trace(
    found: MakeGroup, client: OpenClient, watch: Watch
) -> None:
    """SAFETY rule 10: the same error everywhere, partial changes undone; also when the log is replayed."""
    group = found("--service", "poison:Poison", "--checkpoint-interval", 8)
    group.start_all()
    mine = client(group)
    for round_number in range(1, 4):
        assert mine.submit(b"add", timeout=60) == b"%d" % round_number
        for operation, words in (
            (b"raise", "poison"),
            (b"zero", "ZeroDivision"),
            (b"none", "not bytes"),
            (b"deep", "RecursionError"),
        ):
            with pytest.raises(OperationFailed, match=words):
                mine.submit(operation, timeout=60)
    assert mine.read(b"", timeout=60) == b"3"
    group.kill_all()
    group.start_all()
    assert mine.submit(b"add", timeout=60) == b"4"
    for _ in range(8):
        mine.submit(b"add", timeout=60)
    statuses = watch(
        group,
        "one stable checkpoint everywhere",
        lambda found: (
            len(found) == 4
            and len({status["stable"] for status in found.values()}) == 1
            and all(status["stable"] >= 16 for status in found.values())
        ),
    )
    assert len({status["checkpoints"][str(status["stable"])] for status in statuses.values()}) == 1
    assert {status["stopped"] for status in statuses.values()} == {None}
