"""`bftkit keygen`: secret keys, made where they are to be used.

`bftkit init` makes all keys in one place, which suits a trial. Whoever wants a member's secrets never to leave its
machine runs `bftkit keygen --kind member` there and copies what it prints into the genesis: the table of the member
to the others, and the line below `[epoch_keys]` into the one table of that name.

`--kind next` makes new epoch keys for a member that is there: they wait in its folder, and it prints the card that an
operator's command must bring (`bftkit member rotate`).
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.configuration.keyfiles import EPOCHS_DEFAULT, KeyKind, KeyPair
from bftkit.configuration.text import ConfigurationError, to_toml
from bftkit.core.wire import is_name
from bftkit.crypto.keys import EpochKeys
from bftkit.membership.card import MemberCard
from bftkit.membership.genesis import entry_table
from bftkit.membership.key_lists import KEYS_MAX, keys_text
from bftkit.membership.roster import RosterEntry, canonical_address
from bftkit.node.folders import read_member, write_file
from bftkit.node.vault import NEXT


def new_key(kind: KeyKind) -> KeyPair:
    """A fresh key, from the system's randomness."""
    return KeyPair.of(kind, secrets.token_bytes(32))


def new_epochs(count: int) -> EpochKeys:
    """Fresh keys for so many epochs."""
    return EpochKeys.generate([secrets.token_bytes(32) for _ in range(count)])


def public_entry(member: str, identity: KeyPair, epochs: EpochKeys, addresses: tuple[str, ...]) -> RosterEntry:
    """What the others know of a member with these keys, in epoch 0."""
    return RosterEntry(
        id=member,
        identity=identity.public,
        epoch_root=epochs.root,
        epoch_count=epochs.count,
        epoch_key=epochs.public(0),
        epoch_path=epochs.path(0),
        addresses=addresses,
    )


def address_argument(argument: str, address: str) -> str:
    """The address in its one spelling; `argument` is what stood on the command line, with its option if it has one."""
    try:
        return canonical_address(argument, address)
    except ConfigurationError as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


def check_epochs(count: int) -> None:
    """Whether a member may have keys for so many epochs. Raises `CommandFailed`."""
    if not 1 <= count <= KEYS_MAX:
        raise CommandFailed(ExitCode.USAGE, f"--epochs {count}: give a number between 1 and {KEYS_MAX}")


def keygen(
    path: Annotated[Path, Parameter(help="The key's new file; with --kind member, the folder for both key files.")],
    /,
    *,
    kind: Annotated[
        Literal["member", "operator", "client", "next"],
        Parameter(help="Whose key; next: new epoch keys for the member whose folder PATH is, to be given it later."),
    ] = "client",
    id: Annotated[str, Parameter(help="With --kind member: the member's id.")] = "m0",  # noqa: A002
    address: Annotated[
        tuple[str, ...], Parameter(help="With --kind member or next: its address, as host:port.", negative="")
    ] = (),
    epochs: Annotated[
        int | None,
        Parameter(
            help="With --kind member or next: for how many epochs, counted from epoch 0. Default: 256, and for next "
            "256 more than those that are over."
        ),
    ] = None,
) -> None:
    """Make a secret key (mode 0600) and print its public half. A file that exists is never overwritten."""
    out = output()
    if kind in ("operator", "client"):
        key = new_key("operator" if kind == "operator" else "client")
        write_file(path, key.to_text(), 0o600)
        out.event("key", kind=kind, public=key.public, file=str(path))
        out.plain(key.public.hex())
        return
    if not is_name(id):
        raise CommandFailed(ExitCode.USAGE, f"--id {id}: give 1 to 32 of the characters a-z, 0-9, _ - and .")
    if epochs is not None:
        check_epochs(epochs)
    if kind == "next":
        _next_keys(path, tuple(address_argument(f"--address {text}", text) for text in address), epochs)
        return
    places = tuple(address_argument(f"--address {text}", text) for text in address)
    identity, keys = new_key("identity"), new_epochs(EPOCHS_DEFAULT if epochs is None else epochs)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path / "identity.key", identity.to_text(), 0o600)
    write_file(path / "epochs.key", keys.to_bytes(), 0o600)
    entry = entry_table(public_entry(id, identity, keys, places))
    publics = keys_text(keys.publics)
    out.event("key", kind=kind, folder=str(path), **entry, epoch_keys=publics)
    out.plain(to_toml({"members": [entry], "epoch_keys": {id: publics}}).strip())


def _next_keys(path: Path, places: tuple[str, ...], epochs: int | None) -> None:
    """New epoch keys beside those of a member, which goes on with the old ones until a command names the new."""
    found = read_member(path)
    member = found.settings.id
    known = found.genesis.roster.by_id.get(member)
    if not places and known is None:
        raise CommandFailed(ExitCode.USAGE, f"{member} is not in the genesis: say with --address where it is reached")
    # Keys are counted from epoch 0: those of epochs that are over here, and erased, count for nothing.
    over = found.epochs.first
    count = min(over + EPOCHS_DEFAULT, KEYS_MAX) if epochs is None else epochs
    if count <= over:
        raise CommandFailed(
            ExitCode.USAGE,
            f"--epochs {count}: epochs are counted from 0 on, and {over} are over; give more, or nothing",
        )
    keys = new_epochs(count)
    card = MemberCard(
        member,
        found.identity.public,
        keys.root,
        places or (known.addresses if known is not None else ()),
        keys.publics,
        found.genesis.group_id,
    )
    file = found.epochs_path.with_name(found.epochs_path.name + NEXT)
    write_file(file, keys.to_bytes(), 0o600)
    out = output()
    out.event(
        "card",
        member=member,
        group=found.genesis.group_id,
        identity=card.identity,
        epoch_root=card.epoch_root,
        epoch_count=count,
        addresses=list(card.addresses),
        epoch_keys=keys_text(card.keys),
        file=str(file),
    )
    out.plain(card.to_text().strip())
    out.log(f"bftkit: an operator gives {member} these keys with: bftkit member rotate {member} --card FILE")
