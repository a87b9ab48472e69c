"""`bftkit init` with needs and a policy: a group can begin with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bftkit.cli import main
from bftkit.configuration.policy import Mode, Policy
from bftkit.configuration.qos import QoS
from bftkit.core.plugin import load_protocol
from bftkit.node.folders import read_genesis, read_member
from tests.policies import all_signed


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, JSON lines and standard error of one command."""
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_a_group_is_founded_with_needs_and_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = run(
        capsys, "init", tmp_path / "shop", "--policy", "steady", "--deadline-ms", 500, "--parameter", "pipeline_depth=4"
    )
    assert code == 0
    assert [one["event"] for one in told] == ["choice", "group"]
    genesis = read_genesis(tmp_path / "shop" / "genesis.toml")
    assert genesis.qos == QoS(deadline_ms=500)
    parameters = {"pipeline_depth": 4, "view_timeout": 250}
    assert (genesis.protocol, dict(genesis.parameters)) == ("pbft", parameters)
    assert genesis.policy == all_signed(Policy("steady", (Mode("pbft", parameters), Mode("cks")), 2, 5000))
    assert genesis.policy is not None
    assert genesis.policy.mode_of(genesis.protocol, genesis.parameters) == 0
    assert genesis.coin is not None
    assert read_member(tmp_path / "shop" / "m3").genesis == genesis


def test_a_crash_group_has_the_coin_key_that_its_policy_may_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--byzantine", 0, "--crash", 1, "--policy", "steady")
    assert run(capsys, "init", tmp_path / "shop", *words)[0] == 0
    genesis = read_genesis(tmp_path / "shop" / "genesis.toml")
    assert (genesis.protocol, genesis.f, genesis.c) == ("paxos", 0, 1)
    assert genesis.policy is not None
    assert [mode.protocol for mode in genesis.policy.modes] == ["paxos", "cks"]
    assert genesis.coin is not None
    assert genesis.coin.threshold == 3
    genesis.check_protocol(load_protocol("paxos").record)


def test_needs_come_from_a_file_and_options_are_stronger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "needs.toml"
    file.write_text('[qos]\nbyzantine = 0\ncrash = 1\nreplicas = 3\ndurability = "async"\nnetwork = "asynchronous"\n')
    code, told, _ = run(capsys, "init", tmp_path / "shop", "--qos", file, "--network", "partial")
    assert (code, told[-1]["protocol"], len(told[-1]["members"])) == (0, "paxos", 3)
    genesis = read_genesis(tmp_path / "shop" / "genesis.toml")
    assert genesis.qos == QoS(byzantine=0, crash=1, replicas=3, durability="async", network="partial")
    assert (genesis.durability, genesis.policy, genesis.coin) == ("async", None, None)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--network", "asynchronous", "--protocol", "pbft"), 6, "pbft needs partial synchrony"),
        (("--policy", "steady", "--byzantine", 2), 6, "2 Byzantine faults need 7 members; 4 are known"),
        (("--policy", "stedy"), 2, "did you mean 'steady'"),
        (("--qos", "nowhere.toml"), 3, "nowhere.toml"),
        (("--policy", "steady", "--join", "genesis.toml"), 2, "--policy means nothing with --join"),
    ],
)
def test_what_cannot_be_founded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], code: int, text: str
) -> None:
    found, _, error = run(capsys, "init", tmp_path / "shop", *words)
    assert found == code
    assert text in error
    assert not (tmp_path / "shop").exists()
