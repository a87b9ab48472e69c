"""The command line's frame: its commands, its exit codes, and how what goes wrong becomes one clear line.

To add a command, write a function (or an `App` of its own, for a family) in a file of this folder and add one line to
`COMMANDS`. The module is imported when the command runs or its own help is asked for, not before. Inside:

- `output()` is where to write (see `output.py`); `--json` is taken care of here, for every command;
- return nothing or `ExitCode.OK` for success, another `ExitCode` when the answer is already told;
- raise `CommandFailed(code, message)` for a failure that only this command knows;
- let the exceptions of `FAILURES` fly: they become one line without a traceback. A new kind is one line there.

A function may be `async`; it then runs under trio.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cyclopts import App, CycloptsError

from bftkit.cli.ending import ended_as_by_control_c
from bftkit.cli.output import Output, output, use_output
from bftkit.cli.way import Way, WayError, take_way, use_way

if TYPE_CHECKING:
    from bftkit.core.ordering import ProtocolRecord

__all__ = [
    "COMMANDS",
    "FAILURES",
    "CommandFailed",
    "ExitCode",
    "Output",
    "create_app",
    "output",
    "protocol_named",
    "run",
]


class ExitCode(enum.IntEnum):
    """What a command's exit code says: whose turn it is to mend what, not which module noticed."""

    OK = 0
    FAILED = 1
    """It was tried, and the answer is no, or this machine could not: no such key, a proof that proves nothing, a file
    in the way, a full disk, a bug of ours. A member that ended so may be started again."""
    USAGE = 2
    """What was typed cannot be, whatever group and files there are: an unknown command, option or name (of a protocol,
    a parameter, a scenario, an adversary), a value that none can have, or a trace that the simulator cannot run."""
    BAD_CONFIGURATION = 3
    """A file or folder that was named is not there, cannot be read, is not of the right kind, or belongs to another
    group."""
    NO_ANSWER = 4
    """No member answered."""
    TOO_FEW_AGREED = 5
    """Members answered, but too few agreed."""
    REFUSED = 6
    """The members refused, or the group as it is now would: its rules, its roster, its operators, its limits."""
    DISK_FAILED = 7
    """The disk refused to read, write or sync. Nobody should start this again before somebody has seen to the disk:
    what was written last may be there or not, and the next start may be told that it is."""
    IN_USE = 8
    """Another process has what this one needs: it listens at the same place, or works in the same folder. That passes
    if it is an earlier one of ours that has yet to end; so this may be started again, with a pause."""
    SAFETY_VIOLATED = 10
    """Something is not as the group promises."""
    PROGRESS_MISSED = 11
    """A campaign or a demo was not served, although everything had healed."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


class CommandFailed(Exception):
    """The command could not do what it was asked to; the message says why, in one line."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


STARTING: Final = (["demo"], ["bench"], ["sweep"])
"""Commands that start processes, and must not leave them behind."""

TAKING_KEYS: Final = (["operator", "add"], ["operator", "remove"])
"""Commands in which a word that belongs to no option is an operator's key as well."""

COMMANDS: Final[tuple[tuple[str, str, str], ...]] = (
    # (name, where the function or App lies, one line of help)
    (
        "init",
        "bftkit.cli.init:init",
        "Found a group: a folder for each member and for a client, the operator's key.",
    ),
    ("keygen", "bftkit.cli.keygen:keygen", "Make a secret key for a member, an operator or a client."),
    ("config", "bftkit.cli.config:app", "Check or show the configuration in a folder or a genesis."),
    ("log", "bftkit.cli.log:app", "Examine a member's log."),
    ("node", "bftkit.cli.node:app", "Run a member."),
    ("put", "bftkit.cli.client:put", "Store a value under a key."),
    ("get", "bftkit.cli.client:get", "Read the value under a key."),
    ("submit", "bftkit.cli.client:submit", "Submit an operation as it is."),
    ("status", "bftkit.cli.client:status", "Ask every member how it is; needs no quorum."),
    (
        "switch",
        "bftkit.cli.switch:switch",
        "Change the group's protocol or its settings while the service runs.",
    ),
    ("qos", "bftkit.cli.qos:app", "Say what is needed of the group, see what it leads to, change it."),
    ("policy", "bftkit.cli.policy:app", "See and change by what the members change their protocol themselves."),
    ("member", "bftkit.cli.member:app", "See who is in the group, and change that."),
    ("operator", "bftkit.cli.operator:app", "See and change who may change the group; sign commands together."),
    ("history", "bftkit.cli.history:history", "Verify and show the chain of the group's configurations."),
    ("events", "bftkit.cli.events:events", "Show what happened to the group's configuration, and what went wrong."),
    ("evidence", "bftkit.cli.evidence:app", "See and check what members can prove of each other's lies."),
    ("demo", "bftkit.cli.demo:demo", "See a group survive crashes, a liar and a power cut."),
    ("bench", "bftkit.cli.bench:bench", "Measure a group on this machine."),
    ("simulate", "bftkit.cli.simulate:simulate", "Run one seed of a scenario in the simulated world, or list them."),
    ("sweep", "bftkit.cli.sweep:sweep", "Run many seeds of a scenario, on all cores."),
    ("replay", "bftkit.cli.replay:replay", "Run a failing seed or trace again, make it smaller, tell its story."),
    ("trace", "bftkit.cli.trace:app", "Look at a failing run: its plan, its story, its messages."),
    ("version", "bftkit.cli.version:version", "Say which bftkit this is, and which protocols are installed."),
)

FAILURES: Final[tuple[tuple[str, ExitCode], ...]] = (
    # The first line that fits counts. By name, so that nothing is imported for errors that cannot have happened.
    ("bftkit.configuration.text:ConfigurationError", ExitCode.BAD_CONFIGURATION),
    ("bftkit.core.plugin:UnknownProtocol", ExitCode.BAD_CONFIGURATION),
    ("bftkit.core.plugin:BrokenProtocol", ExitCode.FAILED),
    ("bftkit.configuration.shelf:UnknownPolicy", ExitCode.BAD_CONFIGURATION),
    ("bftkit.configuration.shelf:BrokenPolicy", ExitCode.FAILED),
    ("bftkit.storage.recovery:LogMismatch", ExitCode.BAD_CONFIGURATION),
    ("bftkit.storage.files:StorageFailed", ExitCode.DISK_FAILED),
    ("bftkit.storage.files:StorageBusy", ExitCode.IN_USE),
    ("bftkit.storage.files:StorageError", ExitCode.FAILED),
    ("bftkit.network.hub:HubError", ExitCode.IN_USE),
    ("bftkit.admin.serving:AdminError", ExitCode.IN_USE),
    ("bftkit.client.errors:NoAnswer", ExitCode.NO_ANSWER),
    ("bftkit.client.errors:OutcomeUnknown", ExitCode.TOO_FEW_AGREED),
    ("bftkit.client.errors:Refused", ExitCode.REFUSED),
    ("bftkit.client.errors:OperationFailed", ExitCode.FAILED),
    ("bftkit.client.errors:Contradicted", ExitCode.SAFETY_VIOLATED),
    # A path that was given and leads nowhere, as it is for a configuration's folder.
    ("builtins:FileNotFoundError", ExitCode.BAD_CONFIGURATION),
    ("builtins:NotADirectoryError", ExitCode.BAD_CONFIGURATION),
    ("builtins:IsADirectoryError", ExitCode.BAD_CONFIGURATION),
    ("builtins:OSError", ExitCode.FAILED),
)

_EPILOGUE: Final = """\
With --json, every command writes one JSON object a line to standard output, and its logs to standard error.

With --api URL --token-file FILE (and --ca FILE), what asks or changes a group does so through a member's HTTP \
interface; both may be repeated, for more members. No client's folder is needed then.

Exit codes: 0 ok, 1 failed, 2 usage, 3 bad configuration, 4 no member answered, 5 members answered but too few \
agreed, 6 refused, 7 the disk failed, 8 a port or folder is in use, 10 safety violated, 11 progress missed, \
130 Ctrl-C."""


def _version() -> str:
    from importlib.metadata import version

    return f"bftkit {version('bftkit')}"


def create_app() -> App:
    """The command line, with every command registered and none imported."""
    app = App(
        name="bftkit",
        help="Run a service on several machines so that it stays correct when some of them crash or lie.",
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        version=_version,
        backend="trio",
        suppress_keyboard_interrupt=False,
    )
    for name, place, text in COMMANDS:
        app.command(place, name=name, help=text)
    return app


def protocol_named(name: str) -> ProtocolRecord:
    """What a protocol says of itself that was named on the command line. Raises `CommandFailed` if there is none."""
    from bftkit.core.plugin import UnknownProtocol, load_protocol

    try:
        return load_protocol(name).record
    except UnknownProtocol as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Whatever the input, nobody sees a traceback, unless we have a bug."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    json = _take_json(words)
    use_output(Output(json))
    try:
        use_way(_take_way(words))
        app = create_app()
        # Ours, because cyclopts would import every command to suggest one.
        if words and not words[0].startswith("-") and words[0] not in app:
            near = difflib.get_close_matches(words[0], [name for name, _, _ in COMMANDS], 1)
            raise CommandFailed(
                ExitCode.USAGE,
                f"there is no command {words[0]!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + " (see: bftkit --help)",
            )
        if words[:2] in TAKING_KEYS and (told := _second_key(words)):
            raise CommandFailed(ExitCode.USAGE, told)
        with ended_as_by_control_c() if words[:1] in STARTING else nullcontext():
            result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return int(result) if isinstance(result, int) else ExitCode.OK
    except CycloptsError as error:
        told = "; ".join(filter(None, (_one_line(str(error)), _second_key(words))))
        output().error(ExitCode.USAGE, f"{told} (see: bftkit {_command_of(words)}--help)")
        return ExitCode.USAGE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our results has enough. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except BaseExceptionGroup as group:
        return _tell(list(_leaves(group)), group)
    except Exception as error:
        return _tell([error], error)


def _tell(causes: Sequence[BaseException], error: BaseException) -> int:
    """Say what went wrong: in one line if all of it is known, with a traceback if any of it is our own bug."""
    told = [explained for explained in map(_explain, causes) if explained is not None]
    # Whatever else went wrong with it: a supervisor must not start this member again.
    disk = next((one for one in told if one[0] is ExitCode.DISK_FAILED), None)
    if len(told) == len(causes):
        code, message = disk or told[0]
        if message:
            output().error(code, message)
        return code
    traceback.print_exception(error)
    code = ExitCode.FAILED if disk is None else ExitCode.DISK_FAILED
    output().error(code, f"this is a bug in bftkit: {type(error).__name__}: {_one_line(str(error))}")
    return code


def _explain(error: BaseException) -> tuple[ExitCode, str] | None:
    """Exit code and message of an error that is no bug of ours; None for any other."""
    if isinstance(error, CommandFailed):
        return error.code, _one_line(error.message)
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED, ""
    for place, code in FAILURES:
        module, _, name = place.partition(":")
        if module not in sys.modules:
            continue  # what was never imported cannot have been raised
        if isinstance(error, getattr(importlib.import_module(module), name)):
            # A mistake in a configuration that stands on the command line is one of usage.
            typed = str(getattr(error, "where", "")).startswith("--")
            return ExitCode.USAGE if typed else code, _one_line(_words(error))
    return None


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _take_json(words: list[str]) -> bool:
    """Take `--json` out of the arguments, wherever it stands before a bare ``--``; whether it was there."""
    end = words.index("--") if "--" in words else len(words)
    found = "--json" in words[:end]
    words[:end] = [word for word in words[:end] if word != "--json"]
    return found


def _take_way(words: list[str]) -> Way | None:
    try:
        return take_way(words)
    except WayError as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


def _second_key(words: Sequence[str]) -> str:
    """What to say of a file that stands after ``--operator-key FILE`` like one more of them; nothing, if none does.

    The commands of `TAKING_KEYS` would take it for one of the operators to add or remove. If these have no other, it
    may be meant so.
    """
    end = words.index("--") if "--" in words else len(words)
    begin = 2 if words[:2] in TAKING_KEYS else len(words)
    named = begin < end and not words[begin].startswith("-")
    for place in range(end):
        option, equals, value = words[place].partition("=")
        after = place + (1 if equals else 2)
        if option != "--operator-key" or after >= end or words[after].startswith("-"):
            continue
        if (begin < end and not named) or not Path(words[after]).is_file():
            continue
        value = value or words[place + 1]
        advice = f"--operator-key {value} --operator-key {words[after]}"
        return f"{words[after]} stands after --operator-key {value}: each file needs the option, as in {advice}" + (
            f"; if {words[after]} is meant to {words[1]}, put it before the options" if begin < end else ""
        )
    return ""


def _command_of(words: Sequence[str]) -> str:
    names = {name for name, _, _ in COMMANDS}
    return f"{words[0]} " if words and words[0] in names else ""
