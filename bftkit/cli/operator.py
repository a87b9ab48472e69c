"""`bftkit operator`: who may change the group, and commands that several of them must sign.

An operator's key never leaves its file: a command is signed where the key is. If the group asks for more signatures
than one person can give, the command travels as a file from one to the next (`show`, `sign`), and whoever has it last
sends it. Each sees what it says before signing it, and whose signatures in it are good: the file says who signed, but
whoever had it may have written anything there. One that is forged, or of somebody who is no operator now, is told and
left out. It does not count, and members refuse a command that carries it, however many good ones it has besides.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.cli.change import (
    How,
    Known,
    ask,
    carry_out,
    change_group,
    connected,
    prospect_of,
    read_operator_keys,
    require_enough,
    send,
    tell,
    tell_written,
)
from bftkit.cli.client import DEFAULT_FOLDER, FolderOption, TimeoutOption
from bftkit.cli.switch import NOW, AtOption
from bftkit.configuration.text import ConfigurationError, hex_bytes
from bftkit.crypto.keys import verify_signature
from bftkit.membership.command_files import command_from_text, command_to_text
from bftkit.membership.commands import OperatorSignature, SignedCommand, statement
from bftkit.membership.wishes import Wish, cancelling
from bftkit.node.folders import read_key

app = App(name="operator", help="See and change who may change the group; sign commands together.")

KeyArgument = Annotated[str, Parameter(help="An operator's public key, as 64 hexadecimal digits, or its key file.")]
ThresholdOption = Annotated[int | None, Parameter(help="How many operators must sign a command from then on.")]
FileArgument = Annotated[Path, Parameter(help="A command, as --out wrote it.")]


@app.command(name="list")
async def list_(*, client: FolderOption = DEFAULT_FOLDER, timeout: TimeoutOption = 10.0) -> None:
    """The operators of the present epoch, and how many of them must sign."""
    async with connected(client, timeout) as (_, known):
        here = known.here
    for key in here.operators:
        output().event("operator", public=key, epoch=here.epoch)
        output().plain(key.hex())
    output().event("operators", epoch=here.epoch, count=len(here.operators), threshold=here.operator_threshold)
    output().plain(f"{here.operator_threshold} of {len(here.operators)} must sign a command in epoch {here.epoch}.")


@app.command
async def add(
    key: KeyArgument, /, *more: KeyArgument, threshold: ThresholdOption = None, at: AtOption = 0, how: How = NOW
) -> ExitCode:
    """Make somebody an operator, from the next epoch on."""
    keys = tuple(public_key(text) for text in (key, *more))
    return await change_group(lambda known: Wish(add_operators=keys, operator_threshold=threshold, at=at), how)


@app.command
async def remove(
    key: KeyArgument, /, *more: KeyArgument, threshold: ThresholdOption = None, at: AtOption = 0, how: How = NOW
) -> ExitCode:
    """Let an operator go, from the next epoch on."""
    texts = (key, *more)

    def make(known: Known) -> Wish:
        keys = tuple(_known_key(text, known) for text in texts)
        for text, key in zip(texts, keys, strict=True):
            if key not in known.here.operators and text in map(str, how.operator_key):
                raise CommandFailed(
                    ExitCode.REFUSED,
                    f"{text} holds no operator's key in epoch {known.here.epoch}, and is there twice: as KEY, the one "
                    "to let go, and after --operator-key, the one that is to sign",
                )
        return Wish(remove_operators=keys, operator_threshold=threshold, at=at)

    return await change_group(make, how)


@app.command
async def cancel(*, how: How = NOW) -> ExitCode:
    """Take back a change that is prepared and not committed yet."""
    async with connected(how.client, how.timeout) as (client, known):
        command = cancelling(known.here, group=known.group, nonce=secrets.token_bytes(16))
        return await carry_out(client, known, prospect_of(known, command), how)


# ------------------------------------------------------------------------------------------------- commands in files


@app.command
async def show(file: FileArgument, /, *, client: FolderOption = DEFAULT_FOLDER, timeout: TimeoutOption = 10.0) -> None:
    """What a command in a file would do to the group as it is now, and who has signed it. Nothing is sent."""
    signed = read_command(file)
    async with connected(client, timeout) as (connection, known):
        if _tell_done(signed, known):
            return
        await tell(connection, known, prospect_of(known, signed.command), dry_run=False)
    _tell_signatures(*judged(signed, known), known)


@app.command
async def sign(file: FileArgument, /, *, how: How = NOW) -> ExitCode:
    """See what a command in a file would do and who has signed it, and put your signature into the file.

    Signatures in it that are not good are told and left out.
    """
    if how.out is not None:
        raise CommandFailed(ExitCode.USAGE, "--out: the signature goes into the file itself")
    if not how.operator_key:
        raise CommandFailed(ExitCode.USAGE, "--operator-key is missing: whose signature is it to be?")
    signed = read_command(file)
    async with connected(how.client, how.timeout) as (client, known):
        await tell(client, known, prospect_of(known, signed.command), dry_run=how.dry_run)
        keys = read_operator_keys(how.operator_key, known.here)
    signed, refused = judged(signed, known)
    _tell_signatures(signed, refused, known)
    if how.dry_run:
        return ExitCode.OK
    ask(how)
    for key in keys:
        signed = signed.signed_by(key.signing_key)
    _replace(file, command_to_text(signed))
    tell_written(file, signed, max(0, known.here.operator_threshold - len(signed.signatures)))
    return ExitCode.OK


@app.command(name="send")
async def send_(file: FileArgument, /, *, how: How = NOW) -> ExitCode:
    """Send a command that enough operators have signed, and follow it. Sending it twice does no harm."""
    signed = read_command(file)
    async with connected(how.client, how.timeout) as (client, known):
        if _tell_done(signed, known):
            return ExitCode.OK
        await tell(client, known, prospect_of(known, signed.command), dry_run=how.dry_run)
        signed, refused = judged(signed, known)
        _tell_signatures(signed, refused, known)
        if how.dry_run:
            return ExitCode.OK
        require_enough(known, signed)
        ask(how)
        return await send(client, known, signed, how.timeout)


def read_command(file: Path) -> SignedCommand:
    """The command in a file. Raises `ConfigurationError`."""
    try:
        return command_from_text(file.read_text("utf-8"))
    except ConfigurationError as error:
        raise error.inside(str(file)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(str(file), "the file is not UTF-8 text", "give the path of the right file") from None


def public_key(text: str) -> bytes:
    """The public key that an argument names, as digits or by its key file. Raises `CommandFailed`."""
    path = Path(text)
    if path.is_file():
        return read_key(path, "operator").public
    try:
        return hex_bytes("KEY", text, 32, "a public key")
    except ConfigurationError as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


def _known_key(text: str, known: Known) -> bytes:
    """An operator's key, of which the first digits are enough."""
    fits = [key for key in known.here.operators if len(text) >= 8 and key.hex().startswith(text.lower())]
    return fits[0] if len(fits) == 1 else public_key(text)


def _tell_done(signed: SignedCommand, known: Known) -> bool:
    """Whether the verified history has this command, carried out; then that is said, and there is nothing to do."""
    epoch = next((link.next.epoch for link in known.links if link.ending.command == signed.name), None)
    if epoch is None:
        return False
    output().event("result", command=signed.name, epoch=epoch)
    output().plain(f"It was carried out already: epoch {epoch} began by it. Nothing was sent.")
    return True


def judged(signed: SignedCommand, known: Known) -> tuple[SignedCommand, tuple[tuple[bytes, str], ...]]:
    """The command with the good signatures of present operators alone; and whose else stood there, with the reason."""
    said = statement(known.group, signed.body)
    good: dict[bytes, OperatorSignature] = {}
    refused: list[tuple[bytes, str]] = []
    for item in signed.signatures:
        if item.operator not in known.here.operators:
            refused.append((item.operator, f"no operator in epoch {known.here.epoch}"))
        elif not verify_signature(item.operator, said, item.signature):
            refused.append((item.operator, "not made with this key under this command"))
        else:
            good[item.operator] = item
    return attrs.evolve(signed, signatures=tuple(good[key] for key in sorted(good))), tuple(refused)


def _tell_signatures(signed: SignedCommand, refused: tuple[tuple[bytes, str], ...], known: Known) -> None:
    signers = [item.operator.hex() for item in signed.signatures]
    output().event(
        "signatures",
        command=signed.name,
        signed_by=signers,
        refused=[{"operator": key.hex(), "reason": reason} for key, reason in refused],
        threshold=known.here.operator_threshold,
    )
    names = ", ".join(signer[:16] for signer in signers) or "nobody"
    output().plain(f"\nSigned by {names}; {known.here.operator_threshold} must sign.")
    for key, reason in refused:
        output().show(f"[red]A signature that is none:[/red] {key.hex()[:16]}, {reason}. It is left out.")


def _replace(path: Path, text: str) -> None:
    """Write a file anew, whole or not at all."""
    work = path.with_name(f".{path.name}.new")
    work.write_text(text, "utf-8")
    os.replace(work, path)
