"""What a supervisor is told (sd_notify), and that the unit for systemd agrees with the exit codes."""

from __future__ import annotations

import configparser
import logging
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bftkit.cli.app import ExitCode
from bftkit.cli.supervision import notify

UNIT = Path(__file__).parents[2] / "contrib" / "bftkit@.service"


def test_without_a_supervisor_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


def test_a_supervisor_is_told_in_one_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        TemporaryDirectory(dir="/tmp") as folder,  # pytest's own may have a longer path than a socket's may be
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor,
    ):
        path = Path(folder) / "notify"
        supervisor.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        assert notify("READY=1", "STATUS=m0 serves")
        supervisor.setblocking(False)
        assert supervisor.recv(1024) == b"READY=1\nSTATUS=m0 serves"


def test_a_supervisor_may_have_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("")  # the kernel chooses an abstract name
        name = supervisor.getsockname()
        assert isinstance(name, bytes)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:].decode())
        assert notify("STOPPING=1")
        supervisor.setblocking(False)
        assert supervisor.recv(1024) == b"STOPPING=1"


def test_a_supervisor_that_is_gone_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        assert not notify("READY=1")
    assert "could not be told READY=1" in caplog.text


def test_the_unit_restarts_what_a_restart_may_mend_and_nothing_else() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "on-failure"
    final = (ExitCode.USAGE, ExitCode.BAD_CONFIGURATION, ExitCode.DISK_FAILED)
    assert service["RestartPreventExitStatus"].split() == [str(code) for code in final]
    assert service["ExecStart"].endswith("bftkit node run %S/bftkit/%i")
    assert service["StateDirectory"] == "bftkit/%i"
