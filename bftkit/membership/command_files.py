"""An operators' command as a file, to be passed from one operator to the next until enough of them have signed it.

What counts is the command itself, in base64. What stands around it is for people, and is checked against it, so that
nobody signs something else than what they read.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import attrs

from bftkit.configuration.text import ConfigurationError, parse_toml, right, structure, to_toml
from bftkit.core.wire import WireError
from bftkit.membership.commands import KINDS, SignedCommand

_HEADER: Final = """\
# A command that changes a bftkit group, to be signed by its operators. Nothing in it is secret.
#   read it:  bftkit operator show FILE
#   sign it:  bftkit operator sign FILE --operator-key KEY
#   send it:  bftkit operator send FILE
"""
_ADVICE: Final = "ask whoever made it for the whole file"


@attrs.frozen
class _CommandTable:
    group: str = attrs.field(metadata=right("a group's id as 64 hexadecimal digits"))
    epoch: int = attrs.field(metadata=right("the epoch that the command ends, as a whole number"))
    kind: str = attrs.field(metadata=right(f"one of {', '.join(KINDS.values())}"))
    protocol: str = attrs.field(metadata=right('the next protocol, or ""'))
    signed_by: tuple[str, ...] = attrs.field(metadata=right("a list of operators' public keys"))
    command: str = attrs.field(metadata=right("the command and its signatures, in base64"))


def command_to_text(signed: SignedCommand) -> str:
    """The file's content."""
    return _HEADER + to_toml({**_words(signed), "command": base64.b64encode(signed.encode()).decode("ascii")})


def command_from_text(text: str) -> SignedCommand:
    """The command in a file; its signatures are not checked. Raises `ConfigurationError`."""
    table = structure(parse_toml(text), _CommandTable)
    try:
        signed = SignedCommand.decode(base64.b64decode(table.command, validate=True))
    except (binascii.Error, ValueError, WireError) as error:
        raise ConfigurationError("command", f"it cannot be read: {error}", _ADVICE) from None
    for name, inside in _words(signed).items():
        outside: object = getattr(table, name)
        if outside != inside:
            raise ConfigurationError(name, f"the file says {outside!r}, and the command in it {inside!r}", _ADVICE)
    return signed


def _words(signed: SignedCommand) -> dict[str, str | int | tuple[str, ...]]:
    command = signed.command
    return {
        "group": command.group.hex(),
        "epoch": command.epoch,
        "kind": KINDS[command.kind],
        "protocol": command.change.protocol if command.change is not None else "",
        "signed_by": tuple(item.operator.hex() for item in signed.signatures),
    }
