"""FAULTS 35 and 36 with real processes: a second command while the first is under way, and then one by force."""

from __future__ import annotations

from bftkit.channel import frames
from bftkit.membership.command_files import command_from_text
from tests.system.conftest import PATIENCE_SECONDS, MakeGroup, RunCommand, Told, client_of


def test_of_two_switches_one_wins_and_a_forced_one_ends_both(found: MakeGroup, command: RunCommand) -> None:
    """The first waits for a slot that is far away, so that the others meet it whatever the machine does."""
    group = found("--protocol", "paxos", "--members", 3, "--checkpoint-interval", 8)
    group.start_all()
    folder = ("--client", group.directory / "client")
    patient = ("--timeout", PATIENCE_SECONDS)

    def chain(told: Told) -> list[tuple[object, ...]]:
        return [(one["epoch"], one["kind"], one["protocol"]) for one in told.events if one["event"] == "epoch"]

    assert command("put", "greeting", "hello", *folder, *patient).code == 0
    file = group.directory / "first.toml"
    assert command("switch", "coordinator", "--at", 1_000_000, "--out", file, *folder).code == 0
    with client_of(group) as client:
        states = client.order(command_from_text(file.read_text()), timeout=PATIENCE_SECONDS)
        assert any(one.state in (frames.PREPARED, frames.COMMITTED) for one in states)
    second = command("switch", "paxos", "--set", "beat=50", *folder)
    assert second.code == 6, (second.events, second.error)
    assert "superseded by epoch 1, for which coordinator is" in second.error
    assert command("put", "greeting", "still here", *folder, *patient).code == 0
    assert chain(command("history", *folder, *patient)) == [(0, "founded", "paxos")]

    forced = command("switch", "paxos", "--force", *folder)
    assert forced.code == 0, (forced.events, forced.error)
    assert chain(command("history", *folder, *patient)) == [(0, "founded", "paxos"), (1, "forced", "paxos")]
    assert command("get", "greeting", *folder, *patient).last["value"] == "still here"
