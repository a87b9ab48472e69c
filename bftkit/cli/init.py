"""`bftkit init`: found a group, as folders that can be copied to their machines.

    DIR/genesis.toml         the group, for everybody
    DIR/m0 ... m3/           one folder a member: settings, genesis, secret keys, an empty log
    DIR/client/              a client's folder
    DIR/operator/            the key that signs commands to the group; keep it off the members' machines
    DIR/admin/               tokens for the members' HTTP interfaces, with --admin-base-port

With `--join GENESIS`, DIR is the folder of one more member of that group, with its *card* (`card.toml`): what an
operator must put into the command that takes it in. Its secrets are made here and never leave the machine.

The log is made here and only here: a member that later finds none knows that it has forgotten its votes and stays
silent (SAFETY rule 16). All is built beside DIR and moved there at the end, so that a failure leaves nothing behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import attrs
from cyclopts import Parameter

from bftkit.admin.founding import FOLDER as TOKENS_FOLDER
from bftkit.admin.founding import Access
from bftkit.channel.settling import own_record
from bftkit.cli.app import CommandFailed, ExitCode, output, protocol_named
from bftkit.cli.keygen import address_argument, check_epochs, new_epochs, new_key, public_entry
from bftkit.cli.needs import NO_NEEDS, Founding, coin_record, founding_choice, tell_choice
from bftkit.configuration.keyfiles import EPOCHS_DEFAULT, CoinShare, KeyPair
from bftkit.configuration.manager import Choice
from bftkit.configuration.policy import Policy
from bftkit.configuration.settings import ClientSettings, MemberSettings
from bftkit.configuration.text import ConfigurationError, hex_bytes
from bftkit.core.plugin import load_protocol
from bftkit.core.wire import is_name
from bftkit.crypto.keys import EpochKeys
from bftkit.crypto.threshold import DEAL_SECRET_SIZE
from bftkit.membership.card import MemberCard
from bftkit.membership.founding import deal_coin, default_faults
from bftkit.membership.genesis import NONCE_SIZE, Genesis
from bftkit.membership.history_file import HISTORY_FILE, history_to_bytes
from bftkit.membership.roster import MEMBERS_MAX, Roster
from bftkit.network.addresses import parse_address
from bftkit.node.folders import (
    CARD_FILE,
    CLIENT_FILE,
    GENESIS_FILE,
    MEMBER_FILE,
    MemberFolder,
    read_genesis,
    read_history,
    read_member,
    write_file,
)
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.head import SALT_SIZE
from bftkit.storage.log import Log

DEFAULT_MEMBERS: Final = 4
DEFAULT_PROTOCOL: Final = "pbft"
DEFAULT_SERVICE: Final = "bftkit.service.keyvalue:KeyValueStore"

PORTS: Final = range(20000, 30000)
"""Where free ports are looked for: below what Linux hands to outgoing connections, so that they stay free."""


def init(
    directory: Annotated[Path, Parameter(help="The group's folder; it must be absent or empty.")],
    /,
    *,
    members: Annotated[int, Parameter(help="How many members.")] = DEFAULT_MEMBERS,
    protocol: Annotated[
        str | None,
        Parameter(help="The ordering protocol. Default: pbft, or the least costly one that gives what is needed."),
    ] = None,
    byzantine: Annotated[
        int | None,
        Parameter(help="How many members may lie. Default: as many as the group can bear, 0 for a crash protocol."),
    ] = None,
    crash: Annotated[
        int | None,
        Parameter(help="How many more may only crash. Default: 0, or as many as possible for a crash protocol."),
    ] = None,
    address: Annotated[
        tuple[str, ...],
        Parameter(
            help="Members' addresses, as m0=host:port m1=host:port ...; several for one member are tried in order. "
            "Default: on 127.0.0.1.",
            negative="",
            consume_multiple=True,
        ),
    ] = (),
    base_port: Annotated[
        int | None, Parameter(help="m0 gets this port, m1 the next, and so on. Default: ports that are free now.")
    ] = None,
    admin_base_port: Annotated[
        int | None,
        Parameter(help="m0 gets an HTTP interface for operators at this port, m1 at the next. Default: none."),
    ] = None,
    service: Annotated[
        str, Parameter(help='The state machine that the group runs, as "package.module:Class".')
    ] = DEFAULT_SERVICE,
    durability: Annotated[
        Literal["fsync", "async", "memory"],
        Parameter(help="When a record counts as durable. Only fsync survives a power cut."),
    ] = "fsync",
    clients: Annotated[
        Literal["open", "listed"], Parameter(help="Whether anybody may submit operations, or listed keys alone.")
    ] = "open",
    client_key: Annotated[
        tuple[str, ...],
        Parameter(
            help="Public key of one more client (with --clients listed); the client made here is listed anyway.",
            negative="",
        ),
    ] = (),
    operator_key: Annotated[
        tuple[str, ...],
        Parameter(
            help="Public key of an operator, in place of the one that is made here; may be repeated.", negative=""
        ),
    ] = (),
    operator_threshold: Annotated[int, Parameter(help="How many operators must sign a command.")] = 1,
    parameter: Annotated[
        tuple[str, ...], Parameter(help="A setting of the protocol, as name=number; may be repeated.", negative="")
    ] = (),
    checkpoint_interval: Annotated[int, Parameter(help="Slots from one checkpoint to the next.")] = 128,
    epochs: Annotated[
        int,
        Parameter(
            help="For how many epochs a member gets keys, counted from epoch 0: with --join, more than are over."
        ),
    ] = EPOCHS_DEFAULT,
    name: Annotated[str | None, Parameter(help="The group's name. Default: that of the folder, if it is fit.")] = None,
    join: Annotated[
        Path | None,
        Parameter(
            help="Found no group: make the folder of one more member of the group with this genesis, and its card."
        ),
    ] = None,
    id: Annotated[str | None, Parameter(help="With --join: the member's id.")] = None,  # noqa: A002
    history: Annotated[
        Path | None,
        Parameter(
            help="With --join: the group's history, as `bftkit history --save` wrote it, where the founders are gone: "
            "without it, a new member knows nobody else."
        ),
    ] = None,
    needed: Founding = NO_NEEDS,
) -> None:
    """Found a group: one folder for each member, one for a client, the operator's key. Or make a member that joins."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CommandFailed(ExitCode.FAILED, f"{directory} is there already and not empty; nothing was changed")
    check_epochs(epochs)
    if join is not None:
        founding = {
            "--members": members != DEFAULT_MEMBERS,
            "--protocol": protocol is not None,
            "--byzantine": byzantine is not None,
            "--crash": crash is not None,
            "--service": service != DEFAULT_SERVICE,
            "--durability": durability != "fsync",
            "--clients": clients != "open" or bool(client_key),
            "--operator-key": bool(operator_key) or operator_threshold != 1,
            "--parameter": bool(parameter) or checkpoint_interval != 128,
            "--name": name is not None,
            **needed.options,
        }
        for option in (option for option, given in founding.items() if given):
            raise CommandFailed(ExitCode.USAGE, f"{option} means nothing with --join: the group is as its genesis says")
        _join(directory, join, id, address, base_port, admin_base_port, epochs, history)
        return
    if id is not None:
        raise CommandFailed(ExitCode.USAGE, "--id means nothing without --join")
    if history is not None:
        raise CommandFailed(ExitCode.USAGE, "--history means nothing without --join: a new group has none")
    if not 1 <= members <= MEMBERS_MAX:
        raise CommandFailed(ExitCode.USAGE, f"--members {members}: a group has 1 to {MEMBERS_MAX} members")
    choice = None
    if needed.given:
        choice = _chosen(needed, members, protocol, byzantine, crash, None if durability == "fsync" else durability)
        members, protocol, durability = len(choice.members), choice.protocol, choice.qos.durability
    record = protocol_named(protocol or DEFAULT_PROTOCOL)
    f, c = (choice.f, choice.c) if choice is not None else default_faults(record, members, byzantine, crash)
    ids = tuple(f"m{index}" for index in range(members))
    addresses = _addresses(ids, address, base_port, _in_a_row(admin_base_port, len(ids)))
    client = new_key("client")
    operator = None if operator_key else new_key("operator")
    operators = (operator.public,) if operator else _public_keys("--operator-key", operator_key)
    listed = (client.public, *_public_keys("--client-key", client_key))
    if client_key and clients == "open":
        raise CommandFailed(ExitCode.USAGE, "--client-key means nothing without --clients listed")
    # This process is the dealer of the coin key: it keeps nothing but what it writes into the members' folders.
    tossing = coin_record(choice) if choice is not None else record
    coin, shares = deal_coin(tossing, ids, f, c, secrets.token_bytes(DEAL_SECRET_SIZE))
    keys = {member: (new_key("identity"), new_epochs(epochs)) for member in ids}
    settings = {**(choice.parameters if choice is not None else {}), **_parameters(parameter)}
    try:
        genesis = Genesis(
            name=name if name is not None else _group_name(directory),
            protocol=record.name,
            f=f,
            c=c,
            roster=Roster(tuple(public_entry(member, *keys[member], addresses[member]) for member in ids)),
            operators=operators,
            operator_threshold=operator_threshold,
            service=service,
            nonce=secrets.token_bytes(NONCE_SIZE),
            client_policy=clients,
            clients=listed if clients == "listed" else (),
            parameters=settings,
            durability=durability,
            checkpoint_interval=checkpoint_interval,
            coin=coin,
            qos=choice.qos if choice is not None else None,
            policy=_policy_of(choice, settings) if choice is not None else None,
            schedule={member: epochs.publics for member, (_, epochs) in keys.items()},
        )
        genesis.check_protocol(record)
    except ConfigurationError as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None  # all of it was typed
    access = _access(addresses, admin_base_port)
    _build(directory, genesis, keys, shares, client, operator, access)
    _report(directory, genesis, operator is not None, access)


# ------------------------------------------------------------------------------------------------- choices


def _chosen(
    needed: Founding,
    members: int,
    protocol: str | None,
    byzantine: int | None,
    crash: int | None,
    durability: str | None,
) -> Choice:
    """The configuration that gives what is needed."""
    if needed.qos is None:
        # As without needs: as many faults as so many members bear.
        record = protocol_named(protocol or DEFAULT_PROTOCOL)
        byzantine, crash = default_faults(record, members, byzantine, crash)
    qos = needed.needs(byzantine=byzantine, crash=crash, durability=durability)
    known = qos.replicas if members == DEFAULT_MEMBERS and qos.replicas else members
    choice = founding_choice(qos, tuple(f"m{index}" for index in range(known)), needed.policy, protocol)
    tell_choice(choice)
    output().plain("")
    return choice


def _policy_of(choice: Choice, settings: Mapping[str, int]) -> Policy | None:
    """The policy, with the settings that were typed in the mode that they belong to."""
    if not choice.policy.modes:
        return None
    modes = tuple(
        attrs.evolve(mode, parameters=dict(settings)) if mode.protocol == choice.protocol else mode
        for mode in choice.policy.modes
    )
    return attrs.evolve(choice.policy, modes=modes)


def _addresses(
    ids: tuple[str, ...], given: tuple[str, ...], base_port: int | None, taken: range
) -> dict[str, tuple[str, ...]]:
    """Every member's addresses: the given ones, else loopback with `base_port` and up, else free ports there.

    `taken`: the ports that the HTTP interfaces get.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        member, equals, place = text.partition("=")
        if not equals or member not in ids:
            known = "m0" if len(ids) == 1 else f"m0 to m{len(ids) - 1}"
            raise CommandFailed(ExitCode.USAGE, f"--address {text}: give member=host:port, for {known}")
        found[member] = (*found.get(member, ()), address_argument(f"--address {text}", place))
    if base_port is not None and not 1 <= base_port <= 65536 - len(ids):
        raise CommandFailed(
            ExitCode.USAGE, f"--base-port {base_port}: {len(ids)} ports from there on must be 1 to 65535"
        )
    missing = [member for member in ids if member not in found]
    if missing and base_port is None:
        base = _free_ports(len(missing), taken)
        found.update({member: (f"tcp://127.0.0.1:{base + i}",) for i, member in enumerate(missing)})
    elif base_port is not None:
        found.update({m: (f"tcp://127.0.0.1:{base_port + i}",) for i, m in enumerate(ids) if m in missing})
    return found


def _access(addresses: Mapping[str, tuple[str, ...]], base_port: int | None) -> dict[str, Access]:
    """The HTTP interfaces of members at these addresses, from `base_port` on; none without one."""
    if base_port is None:
        return {}
    if not 1 <= base_port <= 65536 - len(addresses):
        count = len(addresses)
        raise CommandFailed(
            ExitCode.USAGE, f"--admin-base-port {base_port}: {count} ports from there on must be 1 to 65535"
        )
    return {member: Access.at(places[0], base_port + i) for i, (member, places) in enumerate(addresses.items())}


def _in_a_row(base: int | None, count: int) -> range:
    """So many ports from this one on; none if it is not given."""
    return range(0) if base is None else range(base, base + count)


def _free_ports(count: int, taken: range = range(0)) -> int:
    """The first of `count` ports in a row, none of them taken, on which nobody listens now.

    Nobody can promise that it stays so.
    """
    for _ in range(200):
        base = PORTS.start + secrets.randbelow(len(PORTS) - count)
        if all(port not in taken and _is_free(port) for port in range(base, base + count)):
            return base
    raise CommandFailed(ExitCode.FAILED, f"no {count} free ports in a row were found; choose some with --base-port")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _public_keys(option: str, texts: tuple[str, ...]) -> tuple[bytes, ...]:
    try:
        return tuple(hex_bytes(option, text, 32, "a public key") for text in texts)
    except ConfigurationError as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None


def _parameters(given: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not (value.isascii() and value.isdigit()):
            raise CommandFailed(ExitCode.USAGE, f"--parameter {text}: give name=number")
        found[name] = int(value)
    return found


def _group_name(directory: Path) -> str:
    """The folder's name, with what a name cannot hold replaced."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "-" for c in directory.resolve().name.lower())
    return kept[:32].strip(".-") or "group"


# ------------------------------------------------------------------------------------------------- building


def _build(
    directory: Path,
    genesis: Genesis,
    keys: dict[str, tuple[KeyPair, EpochKeys]],
    shares: dict[str, bytes],
    client: KeyPair,
    operator: KeyPair | None,
    access: Mapping[str, Access],
) -> None:
    parent = directory.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=parent))  # mode 0700
    try:
        text = genesis.to_text()
        write_file(work / GENESIS_FILE, text)
        for member, (identity, epochs) in keys.items():
            share = shares.get(member)
            _build_member(work / member, member, genesis, text, identity, epochs, share, access.get(member))
        _folder(work / "client")
        write_file(work / "client" / GENESIS_FILE, text)
        write_file(work / "client" / CLIENT_FILE, ClientSettings().to_text())
        write_file(work / "client" / ClientSettings().key, client.to_text(), 0o600)
        if operator is not None:
            _folder(work / "operator")
            write_file(work / "operator" / "operator.key", operator.to_text(), 0o600)
        _write_tokens(work / TOKENS_FOLDER, access)
        os.rename(work, directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _build_member(
    folder: Path,
    member: str,
    genesis: Genesis,
    text: str,
    identity: KeyPair,
    epochs: EpochKeys,
    coin_share: bytes | None,
    access: Access | None,
) -> MemberFolder:
    settings = MemberSettings(
        id=member,
        service=genesis.service,
        listen=_listen(genesis.roster.entry(member).addresses),
        durability=genesis.durability,
        admin=access.settings if access is not None else None,
    )
    return _write_member(folder, settings, genesis, text, identity, epochs, coin_share, access=access)


def _write_member(
    folder: Path,
    settings: MemberSettings,
    genesis: Genesis,
    text: str,
    identity: KeyPair,
    epochs: EpochKeys,
    coin_share: bytes | None = None,
    standing: tuple[bytes, ...] = (),
    access: Access | None = None,
) -> MemberFolder:
    _folder(folder)
    write_file(folder / GENESIS_FILE, text)
    write_file(folder / MEMBER_FILE, settings.to_text())
    _folder(folder / "keys")
    write_file(folder / settings.keys.identity, identity.to_text(), 0o600)
    write_file(folder / settings.keys.epochs, epochs.to_bytes(), 0o600)
    if coin_share is not None:
        write_file(folder / settings.keys.coin, CoinShare.of(0, coin_share).to_text(), 0o600)
    if access is not None:
        access.write_digests(folder)
    _folder(folder / settings.data)
    built = read_member(folder)
    _folder(built.log)
    Log.create(
        DiskDirectory(built.log),
        group=genesis.group_id,
        identity=identity.public,
        salt=secrets.token_bytes(SALT_SIZE),
        standing=standing,
    )
    return built


def _write_tokens(folder: Path, access: Mapping[str, Access]) -> None:
    """The founder's tokens, a file each; members have digests only."""
    if access:
        _folder(folder)
        for member, one in access.items():
            one.write_tokens(folder, member)


def _join(
    directory: Path,
    genesis_path: Path,
    member: str | None,
    address: tuple[str, ...],
    base_port: int | None,
    admin_base_port: int | None,
    count: int,
    history_path: Path | None,
) -> None:
    """The folder of a member that is to join a group, and its card."""
    if member is None:
        raise CommandFailed(ExitCode.USAGE, "--join needs --id, the new member's id")
    if not is_name(member):
        raise CommandFailed(ExitCode.USAGE, f"--id {member}: give 1 to 32 of the characters a-z, 0-9, _ - and .")
    try:
        genesis = read_genesis(genesis_path)
        history = read_history(history_path, genesis) if history_path is not None else ()
    except ConfigurationError as error:
        raise CommandFailed(ExitCode.BAD_CONFIGURATION, str(error)) from None
    if genesis.schedule is None:
        raise CommandFailed(
            ExitCode.BAD_CONFIGURATION,
            f"{genesis_path}: it does not list the members' epoch keys, so this group can never be changed",
        )
    if address:
        places = tuple(address_argument(f"--address {text}", text.removeprefix(f"{member}=")) for text in address)
    else:
        places = _addresses((member,), (), base_port, _in_a_row(admin_base_port, 1))[member]
    identity, epochs = new_key("identity"), new_epochs(count)
    access = _access({member: places}, admin_base_port)
    card = MemberCard(member, identity.public, epochs.root, places, epochs.publics, genesis.group_id)
    settings = MemberSettings(
        id=member,
        service=genesis.service,
        listen=_listen(places),
        durability=genesis.durability,
        admin=access[member].settings if access else None,
        joins=True,
    )
    # In the place of one whose promises it does not know, it is silent until a roster has its keys (SAFETY rule 16).
    standing = (own_record(0, silent=True),) if member in genesis.roster.by_id else ()
    parent = directory.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=parent))  # mode 0700
    try:
        made = work / "member"
        own = access.get(member)
        _write_member(made, settings, genesis, genesis.to_text(), identity, epochs, standing=standing, access=own)
        _write_tokens(made / TOKENS_FOLDER, access)
        write_file(made / CARD_FILE, card.to_text())
        if history:
            write_file(made / HISTORY_FILE, history_to_bytes(genesis.group_id, history))
        if directory.exists():
            directory.rmdir()
        os.rename(made, directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    out = output()
    out.event(
        "card",
        directory=str(directory),
        group=genesis.group_id,
        member=member,
        identity=identity.public,
        epoch_root=epochs.root,
        epoch_count=epochs.count,
        addresses=list(places),
        card=str(directory / CARD_FILE),
    )
    if out.interactive:
        out.plain(f"The card of {member}, whose identity is {identity.public.hex()}: {directory / CARD_FILE}")
    else:
        out.plain(card.to_text().strip())
    out.log(f"bftkit: start the member with: bftkit node run {directory}")
    present = member in genesis.roster.by_id
    taken = f"rotate {member}" if present else "add"
    other = "" if present else " (or: member replace MEMBER --card ...)"
    out.log(f"bftkit: an operator takes it in with: bftkit member {taken} --card {directory / CARD_FILE}{other}")
    if access:
        out.log(f"bftkit: tokens for its HTTP interface are in {directory / TOKENS_FOLDER}; leave none of them there")


def _listen(addresses: tuple[str, ...]) -> str:
    """Where a member with these addresses listens. A name may mean another interface on its own machine: then all."""
    first = parse_address(addresses[0])
    return str(first) if first.is_numeric else str(attrs.evolve(first, host="0.0.0.0"))


def _folder(path: Path) -> None:
    path.mkdir(mode=0o700)


def _report(directory: Path, genesis: Genesis, operator: bool, access: Mapping[str, Access]) -> None:
    out = output()
    quorum = genesis.quorum
    out.event(
        "group",
        directory=str(directory),
        name=genesis.name,
        group=genesis.group_id,
        protocol=genesis.protocol,
        members=[
            {"id": entry.id, "addresses": entry.addresses, "folder": str(directory / entry.id)}
            for entry in genesis.roster.entries
        ],
        byzantine=genesis.f,
        crash=genesis.c,
        quorum=quorum.certificate,
        durability=genesis.durability,
        service=genesis.service,
        client=str(directory / "client"),
        operator=str(directory / "operator" / "operator.key") if operator else None,
    )
    out.plain(
        f"Founded {genesis.name}: {quorum.n} members run {genesis.protocol}; "
        f"{genesis.f} of them may lie, and {genesis.c} more may crash.\n"
        f"Group id {genesis.group_id.hex()}"
    )
    if genesis.f == genesis.c == 0:
        record = load_protocol(genesis.protocol).record
        least = record.members_needed(1) if record.byzantine else record.members_needed(0, 1)
        out.plain(f"Note: no fault at all is survived; {genesis.protocol} survives one with {least} members.")
    for entry in genesis.roster.entries:
        out.plain(f"  {entry.id}  {' '.join(entry.addresses)}")
    out.plain("\nStart each member, on its machine, with its folder:")
    for entry in genesis.roster.entries:
        out.plain(f"  bftkit node run {directory / entry.id}")
    if access:
        out.plain("Their HTTP interfaces:")
        for member, own in access.items():
            out.plain(f"  {member}  http://{own.settings.listen.removeprefix('tcp://')}")
        out.plain(f"Tokens for these are in {directory / TOKENS_FOLDER}; members need none of them.")
    if operator:
        out.plain(f"Keep {directory / 'operator'} off the members' machines: it can change the group.")
    if genesis.durability != "fsync":
        out.log(f"bftkit: durability {genesis.durability}: a member that restarts has forgotten, and counts as faulty")
