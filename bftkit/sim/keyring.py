"""Signatures for simulated worlds: a keyed hash in the place of Ed25519, a hundred times as fast.

Each member's secret comes from the world's seed. Verifying recomputes the hash, so the world must be trusted not to
forge, and is: nothing signs but through a `FastKeyring`, and an adversary is handed its own member's only. The bytes
that are bound are those of `Ed25519Keyring`, so a statement that is shown in another context fails here as it would
there (SAFETY rule 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.ordering import CoinProtocol, SignerProtocol
from bftkit.crypto.keys import (
    PUBLIC_KEY_SIZE,
    SEED_SIZE,
    SIGNATURE_SIZE,
    Ed25519Keyring,
    SigningKey,
    framed_statement,
    purpose_prefix,
    signing_context,
    verify_signature,
)
from bftkit.sim.coins import coins_of
from bftkit.sim.costs import Costs, Meter, WorldCounters


class _World:
    """The members' secrets, as hash objects that already hold secret, purpose and context."""

    def __init__(
        self, seed: bytes, context: bytes, members: Iterable[MemberId], keys: Mapping[MemberId, bytes]
    ) -> None:
        self._members = frozenset(members)
        self._keys = keys
        self._seed = blake2b(seed, digest_size=64, person=b"bftkit sim keys").digest()
        self._context = context
        self._ready: dict[tuple[MemberId, str], blake2b] = {}

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def signature(self, member: MemberId, purpose: str, statement: bytes) -> bytes:
        ready = self._ready.get((member, purpose))
        if ready is None:
            name = member.encode() + self._keys.get(member, b"")
            secret = blake2b(name, digest_size=64, key=self._seed).digest()
            ready = blake2b(purpose_prefix(purpose) + self._context, digest_size=SIGNATURE_SIZE, key=secret)
            self._ready[member, purpose] = ready
        hasher = ready.copy()
        hasher.update(framed_statement(statement))
        return hasher.digest()


@attrs.frozen(eq=False)
class FastKeyring:
    """One member's keyring in one epoch of a simulated group; see `fast_keyrings`."""

    me: MemberId
    _world: _World = attrs.field(repr=False)

    def sign(self, purpose: str, statement: bytes) -> bytes:
        return self._world.signature(self.me, purpose, statement)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        return member in self._world and self._world.signature(member, purpose, statement) == signature

    def __deepcopy__(self, memo: object) -> FastKeyring:
        return self


def fast_keyrings(
    seed: bytes,
    group: bytes,
    epoch: int,
    opening: bytes,
    members: Iterable[MemberId],
    keys: Mapping[MemberId, bytes] | None = None,
) -> dict[MemberId, FastKeyring]:
    """The keyrings of all members of a simulated group, by member.

    `group` and `opening` have 32 bytes, as in `Ed25519Keyring`; the seed has any length. Where members may get new
    keys, `keys` has the public ones of the epoch: each stands for another secret. Raises ValueError for other lengths.
    """
    names = tuple(members)
    world = _World(seed, signing_context(group, epoch, opening), names, keys or {})
    return {name: FastKeyring(name, world) for name in names}


# ------------------------------------------------------------------------------------------------- a world's keys

KNOWN_MAX: Final = 1 << 16
"""So many results of checks are remembered, and as many of those before them."""


class FastSigningKey(SigningKey):
    """A client's key in a world without real signatures; its public half is any 32 bytes."""

    __slots__ = ()

    def __init__(self, seed: bytes) -> None:
        """The secret is `seed`, 32 bytes."""
        if len(seed) != SEED_SIZE:
            raise ValueError(f"the seed of a signing key has {SEED_SIZE} bytes, not {len(seed)}")
        self.public = blake2b(seed, digest_size=PUBLIC_KEY_SIZE, person=b"fast public").digest()
        self._secret = blake2b(seed, digest_size=64, person=b"fast secret").digest()

    def sign(self, message: bytes) -> bytes:
        """64 bytes that only who knows the secret can make."""
        return blake2b(message, digest_size=SIGNATURE_SIZE, key=self._secret).digest()


class Notary:
    """All signatures of one world: makes the keys, and checks each signature once.

    With ``fast`` keys, members and clients sign with keyed hashes; with ``ed25519`` with the real thing. What was
    checked is remembered by key, bytes and signature, so a broadcast costs one check however many members hear it.
    They are counted, and charged, each time.
    """

    def __init__(self, kind: str, group: bytes, members: Sequence[MemberId], costs: Costs) -> None:
        """`kind` is ``fast`` or ``ed25519``. Raises ValueError for another one."""
        if kind not in ("fast", "ed25519"):
            raise ValueError(f"keys are fast or ed25519, not {kind}")
        self.kind = kind
        self.counters = WorldCounters()
        self._group = group
        self._costs = costs
        self._coins: dict[int, Mapping[MemberId, CoinProtocol]] = {}
        self._secrets: dict[bytes, FastSigningKey] = {}
        self._known: dict[object, bool] = {}
        self._before: dict[object, bool] = {}
        self.member_keys = {name: self.signing_key(digest(group, name.encode())) for name in members}
        """The members' keys of the epoch."""
        publics = {name: key.public for name, key in self.member_keys.items()}
        self._rings: Mapping[MemberId, SignerProtocol] = (
            fast_keyrings(group, group, 0, group, members)
            if kind == "fast"
            else {name: Ed25519Keyring(group, 0, group, name, self.member_keys[name], publics) for name in members}
        )

    def signing_key(self, seed: bytes) -> SigningKey:
        """A key of this world's kind."""
        if self.kind != "fast":
            return SigningKey(seed)
        key = FastSigningKey(seed)
        self._secrets[key.public] = key
        return key

    def keyring(self, member: MemberId, meter: Meter | None = None) -> CheckedKeyring:
        """What this member signs and checks with; its work is charged to the meter."""
        return self.checked(self._rings[member], member, meter)

    def checked(
        self, ring: SignerProtocol, member: MemberId, meter: Meter | None = None, context: object = None
    ) -> CheckedKeyring:
        """The same around a ring of another epoch. `context` tells results of one epoch from those of another."""
        return CheckedKeyring(member, self, ring, meter or Meter(), self._costs, context)

    def coins(self, member: MemberId, threshold: int, meter: Meter | None = None) -> CheckedCoins:
        """What this member tosses coins of so many shares with; its work is charged to the meter."""
        dealt = self._coins.get(threshold)
        if dealt is None:
            group = self._group
            secret = digest(b"coin key", group)
            dealt = self._coins[threshold] = coins_of(self.kind, secret, group, 0, group, self.member_keys, threshold)
        return self.checked_coins(dealt[member], meter)

    def checked_coins(self, coins: CoinProtocol, meter: Meter | None = None, context: object = None) -> CheckedCoins:
        """The same around coins of another epoch."""
        return CheckedCoins(self, coins, meter or Meter(), self._costs, context)

    def genuine(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether the member made this signature: for those who watch, so it is neither counted nor remembered."""
        ring = self._rings.get(member)
        return ring is not None and ring.verify(member, purpose, statement, signature)

    def verifier(self, meter: Meter) -> Callable[[bytes, bytes, bytes], bool]:
        """Checks clients' signatures, as `crypto.keys.verify_signature`."""
        counters, cost = self.counters, self._costs.verify_ns

        def verify(public: bytes, message: bytes, signature: bytes) -> bool:
            counters.verifies += 1
            meter.ns += cost
            key = (public, message, signature)
            known = self._known.get(key)
            return known if known is not None else self.remember(key, lambda: self._check(*key))

        return verify

    def _check(self, public: bytes, message: bytes, signature: bytes) -> bool:
        fast = self._secrets.get(public)
        return fast.sign(message) == signature if fast is not None else verify_signature(public, message, signature)

    def remember(self, key: object, check: Callable[[], bool]) -> bool:
        """The result of a check that is not among the newest: looked up, or done now."""
        result = self._before.get(key)
        if result is None:
            self.counters.checked += 1
            result = check()
        if len(self._known) >= KNOWN_MAX:
            self._before, self._known = self._known, {}
        self._known[key] = result
        return result

    def known(self, key: object) -> bool | None:
        """The result of this check, if it is among the newest."""
        return self._known.get(key)


class CheckedKeyring:
    """One member's keyring in a world; see `Notary`."""

    __slots__ = ("_context", "_counters", "_meter", "_notary", "_ring", "_sign_ns", "_verify_ns", "me")

    def __init__(
        self, me: MemberId, notary: Notary, ring: SignerProtocol, meter: Meter, costs: Costs, context: object = None
    ) -> None:
        self.me = me
        self._context = context
        self._notary = notary
        self._ring = ring
        self._meter = meter
        self._counters = notary.counters
        self._sign_ns = costs.sign_ns
        self._verify_ns = costs.verify_ns

    def sign(self, purpose: str, statement: bytes) -> bytes:
        """See `Keyring.sign`."""
        self._counters.signs += 1
        self._meter.ns += self._sign_ns
        return self._ring.sign(purpose, statement)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """See `Keyring.verify`."""
        self._counters.verifies += 1
        self._meter.ns += self._verify_ns
        key = (self._context, member, purpose, statement, signature)
        known = self._notary.known(key)
        return known if known is not None else self._notary.remember(key, lambda: self._ring.verify(*key[1:]))

    def __deepcopy__(self, memo: object) -> CheckedKeyring:
        return self


class CheckedCoins:
    """One member's part in a world's coins; see `Notary`. Each share is checked once a world, and charged each time."""

    __slots__ = ("_coins", "_context", "_costs", "_counters", "_meter", "_notary")

    def __init__(self, notary: Notary, coins: CoinProtocol, meter: Meter, costs: Costs, context: object = None) -> None:
        self._context = context
        self._notary = notary
        self._coins = coins
        self._meter = meter
        self._costs = costs
        self._counters = notary.counters

    @property
    def threshold(self) -> int:
        """See `CoinProtocol.threshold`."""
        return self._coins.threshold

    def share(self, name: bytes) -> bytes:
        """See `CoinProtocol.share`."""
        self._counters.coin_shares += 1
        self._meter.ns += self._costs.coin_share_ns
        return self._coins.share(name)

    def verify(self, member: MemberId, name: bytes, share: bytes) -> bool:
        """See `CoinProtocol.verify`."""
        self._counters.coin_checks += 1
        self._meter.ns += self._costs.coin_verify_ns
        key = ("coin", self._context, self._coins.threshold, member, name, share)
        known = self._notary.known(key)
        return known if known is not None else self._notary.remember(key, lambda: self._coins.verify(*key[3:]))

    def combine(self, name: bytes, shares: Mapping[MemberId, bytes]) -> bytes:
        """See `CoinProtocol.combine`."""
        self._counters.coins += 1
        self._meter.ns += self._costs.coin_combine_ns * self._coins.threshold
        return self._coins.combine(name, shares)

    def __deepcopy__(self, memo: object) -> CheckedCoins:
        return self
