"""What members and clients of a world are given when they begin: their settings, with keys, coins and codecs.

All come from one template. In a world whose group can change, the settings of an epoch follow from a configuration, as
with real members (`bftkit.sim.epochs.WorldKeychain`); else they are the template with a member's own keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from bftkit.channel.client import ClientSettings
from bftkit.channel.frames import CONTROL_CODEC
from bftkit.channel.interface import Limits, ReplicaSettings
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Plugin
from bftkit.core.quorum import Quorum
from bftkit.crypto.keys import SigningKey, verify_signature
from bftkit.membership.chain import Place
from bftkit.sim.checkers import Recorder
from bftkit.sim.costs import Meter
from bftkit.sim.epochs import Rings, WorldKeychain, founding, schedule_of
from bftkit.sim.keyring import Notary
from bftkit.sim.links import START_MS
from bftkit.sim.memory import RememberingCodec, RememberingUnpacker


class Issuer:
    """Gives everybody its settings."""

    def __init__(
        self,
        plugin: Plugin,
        group: bytes,
        members: tuple[MemberId, ...],
        quorum: Quorum,
        parameters: Mapping[str, int] | None,
        interval: int,
        window: int,
        limits: Limits | None,
        notary: Notary,
        recorder: Recorder,
    ) -> None:
        first = members[0]
        plugin = attrs.evolve(plugin, codec=RememberingCodec(plugin.codec))
        self.template = ReplicaSettings(
            group=group,
            me=first,
            members=members,
            quorum=quorum,
            plugin=plugin,
            unpack=RememberingUnpacker(),
            control=RememberingCodec(CONTROL_CODEC),
            keyring=notary.keyring(first),
            coins=notary.coins(first, quorum.available) if plugin.record.coins else None,
            clock_key=notary.member_keys[first],
            member_keys={key.public: owner for owner, key in notary.member_keys.items()},
            parameters=dict(parameters or {}),
            checkpoint_interval=interval,
            window=window,
            limits=limits or Limits(),
        )
        """The settings of the first member in epoch 0; what the others have differs in keys only."""
        self.group = group
        self._notary = notary
        self._rings = Rings(notary, group, recorder.exempt)
        self._plugins = {plugin.record.name: plugin}

    def found(self, operators: int, threshold: int, qos: QoS | None, policy: Policy | None) -> ReplicaSettings:
        """From now on the group can change, by so many operators. Returns the settings of somebody outside."""
        some = self.template
        configuration = founding(
            some.plugin.record,
            some.members,
            some.quorum,
            some.parameters,
            some.checkpoint_interval,
            some.window,
            operators,
            threshold,
            qos,
            policy,
        )
        place = Place(configuration, self.group)
        self.template = attrs.evolve(some, place=place, schedule=schedule_of(some.members))
        keychain = self._keychain("(nobody)", Meter())
        return keychain.enter(attrs.evolve(self.template, me=keychain.me, keychain=keychain), place, None)

    def for_member(self, member: MemberId, meter: Meter) -> ReplicaSettings:
        """What a member begins with."""
        template, place, verify = self.template, self.template.place, self._notary.verifier(meter)
        if place is not None:
            keychain = self._keychain(member, meter)
            own = self.signing_key(f"disk of {member}")
            base = attrs.evolve(template, me=member, clock_key=own, verify=verify, keychain=keychain)
            return keychain.enter(base, place, None)
        tosses = template.plugin.record.coins
        return attrs.evolve(
            template,
            me=member,
            keyring=self._notary.keyring(member, meter),
            coins=self._notary.coins(member, template.quorum.available, meter) if tosses else None,
            clock_key=self._notary.member_keys[member],
            verify=verify,
        )

    def for_client(
        self, name: str, members: Sequence[MemberId], quorum: Quorum, some: ReplicaSettings, now: int
    ) -> ClientSettings:
        """What a client begins with that joins this group at tick `now`; `some` are settings of the present epoch."""
        limits = some.limits
        return ClientSettings(
            group=some.group,
            members=tuple(members),
            quorum=quorum,
            key=self.signing_key(name),
            keyring=self._notary.keyring(members[0]) if some.place is None else some.keyring,
            place=some.place,
            verifiers=some.keychain.verifier if some.keychain is not None else None,
            verify=self._notary.verifier(Meter()) if some.place is not None else verify_signature,
            started_ms=START_MS + now,
            operation_bytes_max=limits.operation_bytes,
            bundle_bytes_max=limits.bundle_bytes,
            session_window=limits.session_window,
        )

    def signing_key(self, name: str) -> SigningKey:
        """A client's key, of this world's kind; the same each time."""
        return self._notary.signing_key(digest(self.group, name.encode()))

    def _keychain(self, member: MemberId, meter: Meter) -> WorldKeychain:
        return WorldKeychain(self._rings, member, meter, self._plugins)
