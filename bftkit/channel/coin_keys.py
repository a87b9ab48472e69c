"""This member's shares of coin keys: made with the members of the next epoch, kept, and gone with their epoch.

Where the next epoch has a coin, its members make the key while the change is prepared (`membership.keymaking`); the
commit puts the sharings into the total order that the key is the sum of. A member enters the epoch with its share in
hand, durably; one that was away restores it from the others. A forced change keeps the key there is: a stopped protocol
cannot order sharings (SAFETY rule 26). So what it takes to restore a share is kept, and given, until the next key is
made, over as many forced changes as come before; nothing needs to be signed for that, so the signing keys of the epoch
that the key was made for are erased in their time (SAFETY rule 28).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bftkit.channel.frames import MakingMessage, pack_control
from bftkit.channel.interface import KeepSecret, Keychain, ReplicaOut
from bftkit.core.machine import Blame, Broadcast, Deliver, Digest, Draw, DrawKey, DrawSecret, MemberId, Out, Send
from bftkit.core.ordering import Setup
from bftkit.crypto.keys import Keyring
from bftkit.membership import keymaking as km
from bftkit.membership.chain import HandOver, only_verifies
from bftkit.membership.epochs import Configuration

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

DRAW: Final = "k"
"""What the draws of key making begin with."""
SHARE_NAME: Final = b"coin"
"""The name under which a share of a key is kept."""
AGAIN_BEATS: Final = 5
"""What nobody has answered in the making of a key is said again every so many beats."""


class MakingKeys(Keyring):
    """What this member signs and verifies with in the making of a key; after the selection it only verifies."""

    def __init__(self, keychain: Keychain, configuration: Configuration, command: Digest) -> None:
        self._keychain = keychain
        self._what = configuration, command
        self._keyring: Keyring | None = None
        self.may_sign = True

    def forget(self) -> None:
        """Nothing is to be signed any more, and the key is to be in nobody's memory when it is erased."""
        self._keyring = None
        self.may_sign = False

    def _ring(self) -> Keyring:
        if self._keyring is None:
            keychain = self._keychain
            signs = self.may_sign
            self._keyring = keychain.preparing(*self._what) if signs else only_verifies(keychain.verifier(*self._what))
        return self._keyring

    def sign(self, purpose: str, statement: bytes) -> bytes:
        return self._ring().sign(purpose, statement)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        return self._ring().verify(member, purpose, statement, signature)


class Making:
    """One key that is being made, or whose parts are kept for members that were away."""

    def __init__(
        self, machine: km.KeyMaking, command: Digest, configuration: Configuration, keys: MakingKeys | None = None
    ) -> None:
        self.machine = machine
        self.command = command
        self.configuration = configuration
        self.keys = keys
        self.selection: bytes | None = None
        """A selection that may be committed, once there is one."""

    @property
    def epoch(self) -> int:
        """The epoch that the key is for."""
        return self.configuration.epoch


class CoinKeys:
    """The part of a replica that makes and keeps shares of coin keys."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.shares: dict[int, bytes] = {}
        """By epoch; durable."""
        self.makings: dict[Digest, Making] = {}
        """By the name of the command: the one that is prepared, and the one that the present key was made with."""
        self._kept: dict[tuple[int, bytes], bytes] = {}
        """Parts that are durable: of what a restart found, and since. A making that is taken up again needs them."""
        self._unkept: dict[tuple[int, bytes], bytes] = {}

    def restore(self, secrets: Mapping[tuple[int, bytes], bytes]) -> None:
        """After a restart: what was kept."""
        for (epoch, name), secret in secrets.items():
            if name == SHARE_NAME:
                self.shares[epoch] = secret
            else:
                self._kept[epoch, name] = secret

    # ------------------------------------------------------------------------------------------ making

    def begin(self, configuration: Configuration, command: Digest, out: ReplicaOut) -> None:
        """A change is prepared whose epoch has a coin: deal a sharing, and take part in the others'."""
        making = self.makings.get(command) or self._make(configuration, command, None, out)
        self._step(making, partial(_input, km.Begin()), out)

    def select(self, configuration: Configuration, command: Digest, selection: bytes, out: ReplicaOut) -> None:
        """The total order chose these sharings. They were checked."""
        making = self.makings.get(command)
        if making is None:
            self._make(configuration, command, km.Selection.decode(selection), out)
        elif making.machine.selection is None:  # else the same sharings; others may show other signatures under them
            self._step(making, partial(_input, km.Selected(km.Selection.decode(selection))), out)
            if making.keys is not None:
                making.keys.forget()

    def _make(
        self, configuration: Configuration, command: Digest, selected: km.Selection | None, out: ReplicaOut
    ) -> Making:
        replica = self._replica
        keychain = replica.settings.keychain
        assert keychain is not None
        keys = MakingKeys(keychain, configuration, command)
        setup = Setup(replica.me, configuration.members, configuration.quorum, keys)
        making = Making(km.KeyMaking.create(setup, command), command, configuration, keys)
        self.makings[command] = making
        prefix = _prefix(command)
        found = {
            name[len(prefix) :].decode(): secret
            for (epoch, name), secret in self._kept.items()
            if epoch == making.epoch and name.startswith(prefix)
        }
        if selected is not None:
            keys.forget()
        if found or selected is not None:
            self._step(making, lambda machine, inner: machine.restore(found, inner, selected), out)
        return making

    def selection_for(self, command: Digest) -> bytes | None:
        """Sharings that make a key; None: there are not enough yet."""
        making = self.makings.get(command)
        return making.selection if making is not None else None

    def on_message(self, sender: MemberId, message: MakingMessage, out: ReplicaOut) -> None:
        """A message of the making of a key. One that nobody here knows of is said again."""
        making = self.makings.get(message.command)
        if making is None or sender not in making.configuration.members:
            return
        decoded = km.CODEC.decode(message.message)
        self._step(making, lambda machine, inner: machine.on_message(sender, decoded, inner), out)

    def on_draw(self, key: DrawKey, value: int, out: ReplicaOut) -> None:
        """A secret that a making asked for."""
        command = key[1]
        making = self.makings.get(command) if isinstance(command, bytes) else None
        if making is not None:
            self._step(making, lambda machine, inner: machine.on_draw(key[2:], value, inner), out)

    def on_kept(self, name: bytes, out: ReplicaOut) -> None:
        """A secret is durable."""
        for epoch, unkept in list(self._unkept):
            if unkept != name:
                continue
            secret = self._unkept.pop((epoch, unkept))
            if name == SHARE_NAME:
                self.shares[epoch] = secret
            else:
                self._kept[epoch, name] = secret
                self._on_part_kept(name, out)

    def _on_part_kept(self, name: bytes, out: ReplicaOut) -> None:
        for making in list(self.makings.values()):
            prefix = _prefix(making.command)
            if name.startswith(prefix):
                kept = km.SecretKept(name[len(prefix) :].decode())
                self._step(making, partial(_input, kept), out)

    def _keep(self, epoch: int, name: bytes, secret: bytes, out: ReplicaOut) -> None:
        if self.shares.get(epoch) == secret and name == SHARE_NAME:
            return
        self._unkept[epoch, name] = secret
        out.deliver(KeepSecret(epoch, name, secret))

    def _step(self, making: Making, call: Callable[[km.KeyMaking, Out[Any, Any]], None], out: ReplicaOut) -> None:
        replica, command = self._replica, making.command
        inner: Out[km.Message, km.Output] = Out()
        call(making.machine, inner)
        others = tuple(member for member in making.configuration.members if member != replica.me)
        for effect in inner.effects:
            match effect:
                case Broadcast(message):
                    out.send(others, pack_control(MakingMessage(command, km.CODEC.encode(message))))
                case Send(to, message):
                    out.send(to, pack_control(MakingMessage(command, km.CODEC.encode(message))))
                case Deliver(km.KeepSecret(name, data)):
                    self._keep(making.epoch, _prefix(command) + name.encode(), data, out)
                case Deliver(km.Completed(selection)):
                    making.selection = selection.encode()
                case Deliver(km.Ready(_, share)):
                    if share.value not in self.shares.values():  # as it may be under an epoch that kept the key
                        self._keep(making.epoch, SHARE_NAME, share.value, out)
                case Draw(key, choices):
                    out.draw((DRAW, command, *key), choices)
                case DrawSecret(key):
                    out.draw_secret((DRAW, command, *key))
                case Blame(member, fault, proof):
                    replica.blame(member, fault, proof, out)
                case _:
                    raise AssertionError(f"key making has no use for {type(effect).__name__}")

    # ------------------------------------------------------------------------------------------ entering

    def has_share(self, link: HandOver, out: ReplicaOut) -> bool:
        """Whether this member holds what it needs of the coin key of the epoch that this opens; else it is fetched."""
        replica = self._replica
        there = link.next
        if there.coin is None or replica.me not in there.members:
            return True
        if link.signed.command.forced:
            return self._has_same_share(link, out)
        return self._share_of(link, out) is not None

    def _share_of(self, made: HandOver, out: ReplicaOut) -> bytes | None:
        """This member's share of the key that was made with this link; None: it is being restored."""
        there = made.next
        if there.epoch not in self.shares and made.selection and (there.epoch, SHARE_NAME) not in self._unkept:
            self.select(there, made.signed.name, made.selection, out)
        return self.shares.get(there.epoch)

    def _has_same_share(self, link: HandOver, out: ReplicaOut) -> bool:
        """A forced change keeps the key. A planned one that was committed before may have made another one in vain.

        One that never got its share of the key waits for it here as it would have before: the group that it has come
        back to may need the coins of all members that are left.
        """
        replica, there = self._replica, link.next
        self.makings = {name: making for name, making in self.makings.items() if making.epoch != there.epoch}
        here = replica.succession_part.configuration
        share = replica.settings.coin_share if here.coin == there.coin else None
        if share is None:
            made = replica.succession_part.lineage.made_coin(link.ending.epoch)
            if made is None:
                self.shares.pop(there.epoch, None)
                return True  # it lost what it was dealt, and takes part without
            share = self._share_of(made, out)
            if share is None:
                return False
        if self.shares.get(there.epoch) == share:
            return True
        if self._unkept.get((there.epoch, SHARE_NAME)) != share:
            self._keep(there.epoch, SHARE_NAME, share, out)
        return False

    def enter(self, epoch: int, made: HandOver | None) -> None:
        """In a new epoch, the key of which was made with this link: what belongs to keys before is over.

        So is a key that another command wanted for this epoch: a forced change came first.
        """
        since = made.next.epoch if made is not None else epoch
        command = made.signed.name if made is not None else b""
        self.shares = {number: share for number, share in self.shares.items() if number >= since}
        self.makings = {
            name: making for name, making in self.makings.items() if making.epoch > epoch or name == command
        }
        self._kept = {
            (number, name): secret
            for (number, name), secret in self._kept.items()
            if number > epoch or (number == since and made is not None and name.startswith(_prefix(command)))
        }
        self._unkept = {place: secret for place, secret in self._unkept.items() if place[0] >= since}

    def vain(self, secrets: Iterable[tuple[int, bytes]]) -> frozenset[tuple[int, bytes]]:
        """Which of these secrets are parts of keys that came to nothing: cancelled, or beaten by a forced change."""
        replica = self._replica
        here, lineage = replica.settings.epoch, replica.succession_part.lineage
        made = lineage.made_coin(here)
        if made is None and not all(epoch in lineage.links for epoch in range(here)):
            return frozenset()  # nothing here says which key is the present one
        since, prefix = (made.next.epoch, _prefix(made.signed.name)) if made is not None else (here, SHARE_NAME)
        return frozenset(
            (epoch, name)
            for epoch, name in secrets
            if epoch <= here and name != SHARE_NAME and not (epoch == since and name.startswith(prefix))
        )

    def drop(self, command: Digest) -> None:
        """The command is cancelled."""
        self.makings.pop(command, None)

    def on_beat(self, out: ReplicaOut) -> None:
        """Say again what nobody has answered."""
        if self._replica.beat % AGAIN_BEATS:
            return
        for making in list(self.makings.values()):
            if not making.machine.ready:
                self._step(making, partial(_input, km.Again()), out)


def _input(value: km.Input, machine: km.KeyMaking, inner: Out[Any, Any]) -> None:
    machine.on_input(value, inner)


def _prefix(command: Digest) -> bytes:
    return b"making-" + command.hex()[:16].encode() + b"-"
