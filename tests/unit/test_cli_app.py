"""The command line's frame: exit codes, JSON, and one line for whatever goes wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from bftkit.admin.serving import AdminError
from bftkit.cli import app as app_module
from bftkit.cli import main
from bftkit.cli.app import COMMANDS, CommandFailed, ExitCode, create_app, output
from bftkit.cli.client import show_status
from bftkit.cli.output import Output, use_output
from bftkit.configuration.text import ConfigurationError
from bftkit.core.plugin import UnknownProtocol
from bftkit.network.hub import HubError
from bftkit.storage.files import DiskFull, StorageBusy, StorageFailed
from bftkit.storage.log import LogMismatch, LogMissing

Command = Callable[[], object]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Command], None]:
    """Makes a function the command line's command `trial`."""

    def put(command: Command) -> None:
        original = create_app

        def create() -> Any:
            made = original()
            made.command(command, name="trial")
            return made

        monkeypatch.setattr(app_module, "create_app", create)

    return put


def failing(error: BaseException) -> Command:
    def command() -> None:
        raise error

    return command


FAILURES = [
    (CommandFailed(ExitCode.NO_ANSWER, "no member\nanswered"), 4, "no member answered"),
    (CommandFailed(ExitCode.TOO_FEW_AGREED, "2 of 4 agreed"), 5, "2 of 4 agreed"),
    (CommandFailed(ExitCode.REFUSED, "not listed"), 6, "not listed"),
    (CommandFailed(ExitCode.SAFETY_VIOLATED, "two digests"), 10, "two digests"),
    (CommandFailed(ExitCode.PROGRESS_MISSED, "no commit"), 11, "no commit"),
    (ConfigurationError("a.toml: id", "wrong", "do it right"), 3, "a.toml: id: wrong; do it right"),
    (UnknownProtocol("no protocol named 'x'"), 3, "no protocol named 'x'"),
    (LogMismatch("another group's log"), 3, "another group's log"),
    (LogMissing("no log"), 1, "no log"),
    (DiskFull("no space"), 1, "no space"),
    (StorageFailed("i/o error"), 7, "i/o error"),
    (StorageBusy("another process"), 8, "another process"),
    (HubError("cannot listen"), 8, "cannot listen"),
    (AdminError("cannot listen"), 8, "cannot listen"),
    (PermissionError(errno.EACCES, "Permission denied", "m0/data"), 1, "m0/data: Permission denied"),
]


@pytest.mark.parametrize(("error", "code", "message"), FAILURES, ids=lambda value: str(value)[:24])
def test_a_failure_is_one_line_with_its_exit_code(
    error: BaseException,
    code: int,
    message: str,
    install: Callable[[Command], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(failing(error))
    assert main(["trial"]) == code
    assert capsys.readouterr() == ("", f"bftkit: {message}\n")
    assert main(["trial", "--json"]) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"event": "error", "code": code, "message": message}
    assert captured.err == f"bftkit: {message}\n"


def test_what_a_member_said_is_shown_and_not_obeyed(
    install: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A liar's words stand in errors; a terminal would carry out what is in them."""
    install(failing(CommandFailed(ExitCode.TOO_FEW_AGREED, "m1: \x1b]0;title\x07\x9b2Jö \u202eno")))
    assert main(["trial"]) == 5
    assert capsys.readouterr().err == "bftkit: m1: \\x1b]0;title\\x07\\x9b2Jö \\u202eno\n"


def test_a_failure_out_of_a_nursery_is_told_like_any_other(
    install: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inner = ExceptionGroup("inner", [ConfigurationError("x", "y", "z")])
    install(failing(ExceptionGroup("outer", [inner, CommandFailed(ExitCode.FAILED, "later")])))
    assert main(["trial"]) == 3
    assert capsys.readouterr().err == "bftkit: x: y; z\n"


@pytest.mark.parametrize("other", [DiskFull("no space"), ConfigurationError("x", "y", "z"), AssertionError("a bug")])
def test_a_disk_that_failed_is_what_a_supervisor_hears_of(
    other: Exception, install: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A member must not be started again by itself after that, whatever else went wrong meanwhile."""
    install(failing(ExceptionGroup("", [other, StorageFailed("i/o error")])))
    assert main(["trial"]) == 7
    assert "i/o error" in capsys.readouterr().err


@pytest.mark.parametrize("together", [False, True])
def test_a_bug_of_ours_keeps_its_traceback_and_is_named_a_bug(
    together: bool, install: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    bug = AssertionError("two leaders")
    install(failing(ExceptionGroup("", [DiskFull("no space"), bug]) if together else bug))
    assert main(["trial", "--json"]) == 1
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert "this is a bug in bftkit" in json.loads(captured.out)["message"]


def test_an_interrupt_ends_quietly(install: Callable[[Command], None], capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(KeyboardInterrupt()))
    assert main(["trial"]) == 130
    install(failing(BaseExceptionGroup("", [KeyboardInterrupt()])))
    assert main(["trial"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_command_says_by_its_exit_code_what_it_has_told_already(
    install: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> ExitCode:
        output().event("trial", key=b"\x00\xff", kinds={"b", "a"}, nested={"error": ExitCode.REFUSED})
        output().plain("told")
        return ExitCode.REFUSED

    install(command)
    assert main(["trial"]) == 6
    assert capsys.readouterr() == ("told\n", "")
    assert main(["--json", "trial"]) == 6
    assert json.loads(capsys.readouterr().out) == {
        "event": "trial",
        "key": "00ff",
        "kinds": ["a", "b"],
        "nested": {"error": 6},
    }


def test_an_async_command_runs_under_trio(
    install: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    import sniffio

    async def command() -> None:
        output().plain(sniffio.current_async_library())

    install(command)
    assert main(["trial"]) == 0
    assert capsys.readouterr().out == "trio\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "nonsense"),
        (["version", "--frobnicate"], "--frobnicate"),
        (["init"], "DIRECTORY"),
        (["init", "x", "--members", "many"], "many"),
        (["init", "x", "--durability", "sometimes"], "sometimes"),
        (["config", "chekc"], "chekc"),
        (["log", "verify"], "FOLDER"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_and_names_the_word(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "--help" in captured.err
    assert captured.err.count("\n") == 1
    assert main([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == 2


@pytest.mark.parametrize(
    "arguments",
    [[], *[[name] for name, _, _ in COMMANDS], ["config", "check"], ["config", "show"], ["log", "verify"]],
    ids=lambda words: " ".join(words) or "bftkit",
)
def test_every_command_has_help_that_tells_of_json_and_exit_codes(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Usage: bftkit")
    assert "--json" in captured.out
    assert "3 bad configuration" in captured.out
    assert captured.err == ""


def test_json_after_two_dashes_is_an_argument_and_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "verify", "--", "--json"]) == 3
    assert "--json: there is no such folder" in capsys.readouterr().err


def test_the_version_names_the_protocols(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["event"] == "version"
    assert {"coordinator", "pbft"} <= set(told["protocols"])


def test_version_waits_for_no_other_command() -> None:
    """Each command's module is imported when it runs and not before."""
    program = (
        "import sys; from bftkit.cli import main; assert main(['version']) == 0; "
        "print(sorted({'trio', 'rich.console', 'nacl', 'cattrs', 'bftkit.cli.init'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_installed_command_works_as_a_process(tmp_path: Any) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import sys; from bftkit.cli import main; sys.exit(main())", "config", "check", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert (run.returncode, run.stdout) == (3, "")
    assert run.stderr == "bftkit: x: there is no such file; give the right path\n"


def test_a_reader_that_goes_away_early_gets_no_complaint() -> None:
    program = "import sys; from bftkit.cli import main; sys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)  # before it has written anything
    try:
        run = subprocess.run(
            [sys.executable, "-c", program, "version"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (1, "")


# ------------------------------------------------------------------------------------------------- exit codes


def test_the_guide_has_every_exit_code_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "operating.md").read_text("utf-8")
    text = text[text.index("## Exit codes") :]
    table = text[: text.index("\n## ")]
    assert [int(code) for code in re.findall(r"(?m)^\| (\d+) \|", table)] == sorted(ExitCode)


@pytest.mark.parametrize(
    ("mistake", "code", "commands"),
    [
        (
            "a protocol that is none", 2,
            ["init {0} --protocol pbt", "demo --protocol pbt", "bench --protocol pbt", "simulate --list --protocol pbt",
             "switch pbt --client {0}", "member add --card x --protocol pbt --client {0}"],
        ),
        (
            "a parameter that is none", 2,
            ["init {0} --parameter speed=3", "bench --parameter speed=3"],
        ),
        (
            "something where a number should be", 2,
            ["init {0} --parameter speed", "init {0} --members x", "get k --timeout x --client {0}",
             "switch paxos --set speed --client {0}"],
        ),
        (
            "a path that leads nowhere", 3,
            ["events {0}", "evidence list {0}", "evidence verify {0} --client {0}", "history --client {0}",
             "get k --client {0}", "config check {0}", "config show {0}", "log verify {0}", "node run {0}",
             "operator show {0} --client {0}", "operator send {0} --client {0}",
             "keygen {0} --kind next", "init {0} --join {0}/genesis.toml --id m4"],
        ),
        (
            "what the simulator cannot run, be it no file, no trace or no scenario", 2,
            ["replay {0}", "trace show {0}", "replay {1}", "replay {1}/file", "trace show {1}/file", "sweep {0}.py",
             "simulate {0}.py", "simulate nothing"],
        ),
        (
            "a file that is there already", 1,
            ["init {1}", "keygen {1}/file"],
        ),
    ],
)  # fmt: skip
def test_alike_mistakes_have_alike_codes(
    mistake: str, code: int, commands: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "file").write_text("something")
    for command in commands:
        words = command.format(tmp_path / "nowhere", there).split()
        found = main(words)
        error = capsys.readouterr().err
        assert (found, "Traceback" in error) == (code, False), f"{mistake}: bftkit {command}: {error}"


# ------------------------------------------------------------------------------------------------- status


def test_a_member_may_say_anything_of_itself_under_any_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One liar must not keep people from seeing how the others are."""
    lies = {
        "event": "x",
        "self": 1,
        "answered": False,
        "member": "m1",
        "round": -1,
        "what": 2,
        "about": 3,
        "time_ms": 4,
    }
    said = {"m0": {**lies, "events": [{**lies, "member": "m1"}, {"event": "\x1b[2J", "time_ms": 5}]}, "m1": {}}

    class Connection:
        refused_links: Mapping[str, tuple[int, str]] = MappingProxyType({})

        async def status(self, *, timeout: float) -> dict[str, Any]:
            return said

        def asked(self, found: Mapping[str, object]) -> tuple[str, ...]:
            return ("m0", "m1")

    @asynccontextmanager
    async def reached(folder: Path) -> AsyncGenerator[tuple[Connection, None]]:
        yield Connection(), None

    for place in ("bftkit.cli.reach.reached", "bftkit.cli.events.reached"):
        monkeypatch.setattr(place, reached)
    for words in (["status"], ["status", "--watch", "--rounds", "1"]):
        assert main([*words, "--json"]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(one["event"], one["member"], one["answered"]) for one in told] == [
            ("status", "m0", True), ("status", "m1", True),
        ]  # fmt: skip
    assert main(["events", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one.get("member"), one.get("time_ms")) for one in told] == [
        ("happened", "m0", 4), ("happened", "m0", 5), ("result", None, None),
    ]  # fmt: skip
    assert main(["events"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_a_member_says_of_itself_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    use_output(Output())
    show_status(("m0", "[/m]"), {"m0": {"protocol": "[/x]", "leader": "[red]m1[/red]"}, "[/m]": {}})
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("[/x]", "[red]m1[/red]", "[/m]"))


@pytest.mark.parametrize(("columns", "last"), [(120, "durability"), (80, "waiting"), (58, "leader")])
def test_on_a_narrow_terminal_the_last_columns_of_status_are_left_out_whole(
    columns: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    use_output(Output())
    one = {"epoch": 3, "protocol": "coordinator", "view": 12, "leader": "m0", "applied": 1234567, "stable": 1234560}
    show_status(("m0", "m1"), {"m0": {**one, "waiting": 12, "durability": "fsync"}})
    title, up, away, *more = capsys.readouterr().out.splitlines()
    assert title.split()[-1] == last
    assert up.split()[:4] == ["m0", "up", "3", "coordinator"][: len(up.split())]
    assert away.split() == ["m1", "no", "answer"]
    assert bool(more) == (columns < 120)
    assert max(map(len, (title, up))) <= columns
