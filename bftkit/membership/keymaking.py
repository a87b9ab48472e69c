"""Members of a new roster make their coin key themselves: no dealer knows it, and no timing is assumed.

Every member deals a sharing of a secret of its own (`bftkit.crypto.dkg`); the key is the sum of f + 1 of them, so
that at least one is of a member that does not lie, and nobody knows the sum. n, f, c and t = f + c are those of the
*new* roster.

1. *Dealing.* `Begin`: a member draws a seed, has it kept, and sends each other member its part, signed (`Deal`).
2. *Holding.* A member that got a part that fits the commitment has it kept, and then says so to the dealer (`Held`):
   of each dealer's commitments to one only, for ever. With n - t such votes, its own among them, the dealer tells all
   (`Complete`).
3. *Selecting.* Whoever knows f + 1 complete sharings says `Completed(selection)`. The host proposes it to a total
   order, which chooses one, and gives that back to everybody as `Selected`. From there on the key's public part is
   fixed (`check_selection`).
4. *Restoring.* A member that lacks its part of a selected sharing asks those who voted that they hold theirs
   (`AskPoint`); f + 1 points that fit the commitment give its share (`Point`). With its share of each selected
   sharing it says `Ready`.

*Liveness.* At least n - t members are correct and stay up. Each of them deals parts that fit to all, and all of them
vote; so each one's sharing is completed, and that are n - t > f sharings. Of the n - t members that voted for a
selected sharing, n - 2t >= f + 1 are correct and stay up (n >= 3f + 2c + 1), and each answers whoever asks with a
point that fits. So every correct member gets its share of each, whatever the dealers do from then on. Nothing waits
for a clock.

*Consistency.* Two selections are never both ordered. Two complete sharings of one dealer have one commitment, since
the votes for both have a correct member in common, which votes for one only. f + 1 correct voters have columns that
fit, so the commitment is to one polynomial, and restored shares are those that the dealer owed.

*Secrecy.* f liars have f rows and columns of each correct dealer's sharing: of S(x, 0) these say f points and nothing
else. A point goes only to the owner of its row, which so gets nothing that it should not have. So the sum, too, can
be any key with these f shares, whichever f others were dealt: a liar cannot subtract another's secret, since it could
deal nothing that fits. Liars may choose among complete sharings, and so among some keys of which they know none: that
hurts the uniformity of the key a little, and the unpredictability of coins not at all.

Where f = 0 nobody lies; the key is one member's sharing, and every member's column is all of it.

*Secrets* never pass the log (SAFETY rule 20): `KeepSecret` hands them to the host, which keeps them where they can be
overwritten and answers `SecretKept`; only then what rests on them is said (SAFETY rule 5). After a restart they come
back by `restore`. A member that lost them stays silent in this key making: it counts as faulty (SAFETY rule 16). The
host keeps machine and secrets until all members have their shares, at most for as long as the key is in use, and then
overwrites them: f + 1 members' columns are the whole key, while of shares alone it takes k. Once there is a selection a
member signs nothing any more, so its signing key may be erased before.

Source: Cachin, Kursawe, Lysyanskaya, Strobl, "Asynchronous Verifiable Secret Sharing and Proactive Cryptosystems"
(CCS 2002), sections 3 and 4, with certificates in the place of echoes and readys, and the total order in the place of
its agreement. docs/adr/0015 has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from bftkit.blocks.certificates import SignatureLists
from bftkit.core.machine import DrawKey, Machine, MemberId, Out, Transition
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import WireError
from bftkit.crypto.dkg import Dealing, evaluate, point_fits, restored_share, row_points, row_share, summed_share
from bftkit.crypto.threshold import CoinPublics, public_point
from bftkit.membership.keymaking_face import (
    PART,
    PHASES,
    SEED,
    Again,
    Begin,
    Completed,
    Holding,
    Input,
    KeepSecret,
    Output,
    Ready,
    Recovery,
    Secret,
    SecretKept,
    Selected,
)
from bftkit.membership.keymaking_messages import (
    CODEC,
    COMMITMENT_PURPOSE,
    EVIDENCE,
    HELD_PURPOSE,
    PART_PURPOSE,
    AskPoint,
    BadPart,
    Complete,
    Deal,
    Held,
    Judge,
    Message,
    Point,
    Selection,
    Sharing,
    TwoCommitments,
    check_evidence,
    check_selection,
)

__all__ = ["CODEC", "Again", "Begin", "Completed", "Input", "KeepSecret", "KeyMaking", "Message", "Output"]
__all__ += ["Ready", "Secret", "SecretKept", "Selected", "Selection", "check_evidence", "check_selection"]


@attrs.define
class KeyMaking(Forkable, Machine[Input, Message, Output]):
    """One member's part in the making of one key; see `create`. At most one part is kept of each dealer."""

    setup: Setup = attrs.field(metadata=SHARED)
    judge: Judge = attrs.field(metadata=SHARED)
    certifier: SignatureLists = attrs.field(metadata=SHARED)

    begun: bool = False
    dealing: Dealing | None = None
    """This member's own polynomial. Nothing of it is said before its seed is kept, and `holdings` has this member."""
    holdings: dict[MemberId, Holding] = attrs.field(factory=dict[MemberId, Holding])
    """This member's parts, by dealer: the first that fitted of each; once there is a selection, of selected ones."""
    votes: dict[MemberId, bytes] = attrs.field(factory=dict[MemberId, bytes])
    """Of who holds its part of this member's sharing."""
    complete: dict[MemberId, Complete] = attrs.field(factory=dict[MemberId, Complete])
    """The complete sharings that are known, by dealer."""
    refused: set[MemberId] = attrs.field(factory=set[MemberId])
    """Who sent something that was signed badly or did not fit. It costs no second check."""
    convicted: set[MemberId] = attrs.field(factory=set[MemberId])
    """Of whom two commitments were shown."""
    completed: bool = False
    selection: Selection | None = None
    publics: CoinPublics | None = None
    recoveries: dict[MemberId, Recovery] = attrs.field(factory=dict[MemberId, Recovery])
    """The selected sharings of which this member has no part, by dealer."""
    ready: bool = False

    phases: ClassVar[tuple[Transition, ...]] = PHASES

    @classmethod
    def create(cls, setup: Setup, name: bytes) -> KeyMaking:
        """The key making with the id `name`, 32 bytes, among the members of `setup`: the new roster's.

        A name is used once: with a second seed under one name, this member would contradict itself. Raises
        `ValueError` for a name of another length, or a roster that is too large.
        """
        judge = Judge.of(setup.keyring, setup.quorum, setup.members, name, setup.memo)
        return cls(setup, judge, SignatureLists.of(setup, HELD_PURPOSE, setup.quorum.available))

    @property
    def me(self) -> MemberId:
        """This member."""
        return self.setup.me

    # ------------------------------------------------------------------------------------------- inputs

    def on_input(self, value: Input, out: Out[Message, Output]) -> None:
        """Raises `ValueError` for a secret that was not given to keep, and for a selection that makes no key."""
        match value:
            case Begin():
                self._on_begin(out)
            case SecretKept(name):
                self._on_kept(name, out)
            case Selected(selection):
                self._on_selected(selection, out)
            case Again():
                self._say_again(out)

    def _on_begin(self, out: Out[Message, Output]) -> None:
        if not self.begun and self.selection is None:
            self.begun = True
            out.draw_secret((SEED,))

    def on_draw(self, key: DrawKey, value: int, out: Out[Message, Output]) -> None:
        """The seed of this member's sharing. It is kept before anything that follows from it leaves."""
        if key == (SEED,) and self.dealing is None:
            seed = value.to_bytes(32, "big")
            self.dealing = self._dealing(seed)
            out.deliver(KeepSecret(SEED, seed))

    def _on_kept(self, name: str, out: Out[Message, Output]) -> None:
        if name == SEED and self.dealing is not None:
            if self.me not in self.holdings and self.selection is None:
                self._announce()
                self._send_deals(out)
                self._combine(out)
            return
        for dealer, holding in self.holdings.items():
            if name == self._part_name(dealer) and dealer != self.me:
                if not holding.kept:
                    self.holdings[dealer] = attrs.evolve(holding, kept=True)
                    self._vote(dealer, out)
                    self.recoveries.pop(dealer, None)
                    self._finish(out)
                return
        # The parts that were not selected were forgotten here, and may still come to be kept there.
        if self.selection is None or name not in (SEED, *map(self._part_name, self.setup.members)):
            raise ValueError(f"{self.me} gave no secret {name!r:.40} to keep")

    def restore(
        self, secrets: Mapping[str, bytes], out: Out[Message, Output], selected: Selection | None = None
    ) -> None:
        """After a restart, before `on_start`, in the place of `on_restore`: the secrets that were kept, by name.

        `selected`: what the total order chose, if that is known already. Then nothing is signed any more: this member's
        key may be erased by now. Raises `ValueError` if the secrets are none of this key making; the text shows nothing
        of them.
        """
        known = {self._part_name(member): member for member in self.setup.members if member != self.me}
        for name in sorted(secrets):
            if name == SEED:
                self.begun = True
                self.dealing = self._dealing(secrets[name])
                if selected is None:
                    self._announce()
                else:
                    commitment, piece = self.dealing.commitment, self.dealing.piece(self.judge.place(self.me))
                    self.holdings[self.me] = self._holding(Deal(commitment, b"", *piece, b""), kept=True)
            elif name in known:
                self.holdings[known[name]] = self._restored(known[name], secrets[name])
            else:
                raise ValueError(f"there is no secret {name!r:.40} in the making of a coin key")
        if selected is not None:
            self._on_selected(selected, out)
            return
        self._combine(out)
        self._say_again(out)

    def _restored(self, dealer: MemberId, data: bytes) -> Holding:
        try:
            deal = CODEC.decode(data)
        except WireError:
            deal = None
        if not isinstance(deal, Deal) or not self.judge.signed_part(dealer, self.me, deal):
            raise ValueError(f"what was kept is no part of a sharing that {dealer} dealt to {self.me}")
        return self._holding(deal, kept=True)

    # ------------------------------------------------------------------------------------------- dealing

    def _dealing(self, seed: bytes) -> Dealing:
        return Dealing.of(self.judge.shape, seed, self.judge.name + self.me.encode())

    def _deal(self, receiver: MemberId) -> Deal:
        """What the receiver gets; the same each time."""
        assert self.dealing is not None
        judge, keyring = self.judge, self.setup.keyring
        commitment = self.dealing.commitment
        digest = judge.shape.commitment_digest(commitment)
        place = judge.place(receiver)
        row, column = self.dealing.piece(place)
        promise = keyring.sign(COMMITMENT_PURPOSE, judge.about(self.me, digest))
        signature = keyring.sign(PART_PURPOSE, judge.about_part(self.me, digest, place, row, column))
        return Deal(commitment, promise, row, column, signature)

    def _announce(self) -> None:
        """The seed is kept: from here on this member stands by its sharing, and holds its own part of it."""
        holding = self._holding(self._deal(self.me), kept=True)
        self.holdings[self.me] = holding
        self.votes[self.me] = self.certifier.sign(self.judge.about(self.me, holding.digest))

    def _send_deals(self, out: Out[Message, Output]) -> None:
        """Each member its part, and to nobody else's eyes; not to those who have it."""
        for member in self.setup.members:
            if member not in self.votes and member not in self.refused:
                out.send(member, self._deal(member))

    def _combine(self, out: Out[Message, Output]) -> None:
        if self.me in self.complete or len(self.votes) < self.certifier.size:
            return
        assert self.dealing is not None
        holding = self.holdings[self.me]
        public, rest = self.judge.shape.split(holding.commitment)
        certificate = self.certifier.combine(self.judge.about(self.me, holding.digest), self.votes)
        complete = Complete(Sharing(self.me, public, rest, certificate), holding.promise)
        out.broadcast(complete)
        self._add(complete, out)

    # ------------------------------------------------------------------------------------------- messages

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, Output]) -> None:
        """See `Machine.on_message`. A `Deal` and a `Point` must have come over an encrypted link."""
        if sender not in self.setup.members or sender == self.me:
            return
        match message:
            case Deal():
                self.on_deal(sender, message, out)
            case Held():
                self.on_held(sender, message, out)
            case Complete():
                self.on_complete(sender, message, out)
            case AskPoint():
                self.on_ask_point(sender, message, out)
            case Point():
                self.on_point(sender, message, out)

    def on_deal(self, sender: MemberId, message: Deal, out: Out[Message, Output]) -> None:
        """The first part that fits is kept; the same again gets the same vote; another commitment is evidence."""
        digest = self.judge.shape.commitment_digest(message.commitment)
        holding = self.holdings.get(sender)
        if holding is not None and holding.digest == digest:
            if holding.kept:
                self._vote(sender, out)
            return
        if sender in self.refused:
            return
        if not self.judge.promised(sender, digest, message.promise):
            self._refuse(sender, "sent a dealing that it did not sign", out)
            return
        self._compare(sender, digest, message.promise, out)
        if holding is not None or sender in self.convicted:
            return
        if self.selection is not None and self._selected_digest(sender) != digest:
            return
        if not self.judge.signed_part(sender, self.me, message):
            self._refuse(sender, "sent a dealing that it did not sign", out)
        elif not self.judge.fits(self.me, message):
            proof = EVIDENCE.encode(BadPart(self.me, message))
            self._refuse(sender, "dealt a part that contradicts its commitment", out, proof)
        else:
            self.holdings[sender] = self._holding(message, kept=False)
            out.deliver(KeepSecret(self._part_name(sender), CODEC.encode(message)))

    def on_held(self, sender: MemberId, message: Held, out: Out[Message, Output]) -> None:
        """The dealer collects n - t votes, and tells who votes again what came of it."""
        own = self.holdings.get(self.me)
        if own is None or self.selection is not None or sender in self.refused:
            return
        if sender not in self.votes:
            if not self.judge.held(sender, self.me, own.digest, message.vote):
                self._refuse(sender, "sent a bad vote for a sharing", out)
                return
            self.votes[sender] = message.vote
            self._combine(out)
        elif self.me in self.complete:
            # It has not heard that the sharing is complete.
            out.send(sender, self.complete[self.me])

    def on_complete(self, sender: MemberId, message: Complete, out: Out[Message, Output]) -> None:
        """Whoever passes it on, n - t good votes count. A second commitment is evidence against its dealer."""
        if self.selection is not None or sender in self.refused:
            return
        sharing = message.sharing
        dealer = sharing.dealer
        known = self.complete.get(dealer)
        digest = self.judge.commitment_of(sharing)
        if known is not None and self.judge.commitment_of(known.sharing) == digest:
            return
        try:
            self.judge.check_sharing(sharing)
        except ValueError as error:
            self._refuse(sender, f"passed on what is no complete sharing: {error!s:.160}", out)
            return
        if not self.judge.promised(dealer, digest, message.promise):
            self._refuse(sender, "passed on a promise that its dealer did not sign", out)
            return
        self._compare(dealer, digest, message.promise, out)
        if known is None:
            self._add(message, out)

    def on_ask_point(self, sender: MemberId, message: AskPoint, out: Out[Message, Output]) -> None:
        """Everybody gets the points of its own row, and of no other."""
        holding = self.holdings.get(message.dealer)
        if holding is not None and holding.kept and holding.digest == message.digest:
            value = evaluate(holding.column, self.judge.place(sender))
            out.send(sender, Point(message.dealer, value, holding.commitment if message.commitment_too else None))

    def on_point(self, sender: MemberId, message: Point, out: Out[Message, Output]) -> None:
        """f + 1 points that fit give this member's share."""
        recovery = self.recoveries.get(message.dealer)
        if recovery is None or recovery.share is not None or sender in recovery.points or sender in recovery.liars:
            return
        shape = self.judge.shape
        if not recovery.row:
            if message.commitment is None:
                return
            if shape.commitment_digest(message.commitment) != recovery.digest:
                recovery.liars.add(sender)
                out.blame(sender, "sent another commitment than it was asked for")
                return
            try:
                recovery.row = row_points(shape, message.commitment, self.judge.place(self.me))
            except ValueError:
                # Of those who certified this commitment none checked it, so more than f members lie.
                out.blame(message.dealer, "dealt by a commitment that is none")
                return
        if not point_fits(recovery.row, self.judge.place(sender), message.value):
            recovery.liars.add(sender)
            out.blame(sender, "sent a point that contradicts the commitment")
            return
        recovery.points[sender] = Secret(message.value)
        if len(recovery.points) == shape.restoring:
            points = {self.judge.place(member): point.value for member, point in recovery.points.items()}
            recovery.share = Secret(restored_share(points))
            recovery.points.clear()
            self._finish(out)

    # ------------------------------------------------------------------------------------------- selecting

    def _on_selected(self, selection: Selection, out: Out[Message, Output]) -> None:
        if self.selection is not None:
            if selection != self.selection:
                raise ValueError("another selection was given for this key before")
            return
        self.publics = self.judge.check_selection(selection)
        self.selection = selection
        for sharing in selection.sharings:
            digest = self.judge.commitment_of(sharing)
            holding = self.holdings.get(sharing.dealer)
            if holding is None or holding.digest != digest:
                others = tuple(member for member in self.judge.holders(sharing) if member != self.me)
                self.recoveries[sharing.dealer] = Recovery(digest, others)
        self.holdings = {
            dealer: holding
            for dealer, holding in self.holdings.items()
            if holding.digest == self._selected_digest(dealer)
        }
        self.votes.clear()
        self.complete.clear()
        self._ask(out)
        self._finish(out)

    def _selected_digest(self, dealer: MemberId) -> bytes | None:
        """The digest of the dealer's selected commitment; None if its sharing was not selected."""
        for sharing in self.selection.sharings if self.selection is not None else ():
            if sharing.dealer == dealer:
                return self.judge.commitment_of(sharing)
        return None

    def _finish(self, out: Out[Message, Output]) -> None:
        """Ready, once there is a durable or restored share of each selected sharing."""
        if self.ready or self.selection is None or self.publics is None:
            return
        shares: list[bytes] = []
        for sharing in self.selection.sharings:
            holding, recovery = self.holdings.get(sharing.dealer), self.recoveries.get(sharing.dealer)
            if holding is not None and holding.kept:
                shares.append(row_share(holding.row))
            elif recovery is not None and recovery.share is not None:
                shares.append(recovery.share.value)
            else:
                return
        share = summed_share(shares)
        # All was checked against the commitments, of which the public points are made.
        assert public_point(share) == self.publics.points[self.judge.place(self.me) - 1]
        self.ready = True
        out.deliver(Ready(self.publics, Secret(share)))

    # ------------------------------------------------------------------------------------------- saying it again

    def _say_again(self, out: Out[Message, Output]) -> None:
        if self.selection is not None:
            self._ask(out)
            return
        if self.me in self.holdings:
            self._send_deals(out)
        # A vote is answered by what came of it, until this member knows.
        for dealer in self.setup.members:
            if dealer != self.me and dealer in self.holdings and dealer not in self.complete:
                self._vote(dealer, out)

    def _vote(self, dealer: MemberId, out: Out[Message, Output]) -> None:
        """Tell the dealer that its part is durable here, if it is (SAFETY rule 5) and may still be selected."""
        holding = self.holdings[dealer]
        if holding.kept and self.selection is None:
            out.send(dealer, Held(self.certifier.sign(self.judge.about(dealer, holding.digest))))

    def _ask(self, out: Out[Message, Output]) -> None:
        for dealer in self.setup.members:
            recovery = self.recoveries.get(dealer)
            if recovery is not None and recovery.share is None:
                told = recovery.points.keys() | recovery.liars
                asked = [member for member in recovery.holders if member not in told]
                out.send(asked, AskPoint(dealer, recovery.digest, not recovery.row))

    # ------------------------------------------------------------------------------------------- parts

    def _part_name(self, dealer: MemberId) -> str:
        return f"{PART}{self.judge.place(dealer)}"

    def _holding(self, deal: Deal, *, kept: bool) -> Holding:
        digest = self.judge.shape.commitment_digest(deal.commitment)
        return Holding(digest, deal.commitment, deal.promise, deal.row, deal.column, kept)

    def _add(self, complete: Complete, out: Out[Message, Output]) -> None:
        """One more sharing is complete; with f + 1 of them a key can be selected."""
        self.complete[complete.sharing.dealer] = complete
        if not self.completed and len(self.complete) >= self.setup.quorum.weak:
            self.completed = True
            known = [self.complete[member].sharing for member in self.setup.members if member in self.complete]
            out.deliver(Completed(Selection(tuple(known[: self.setup.quorum.weak]))))

    def _refuse(self, sender: MemberId, fault: str, out: Out[Message, Output], proof: bytes = b"") -> None:
        self.refused.add(sender)
        out.blame(sender, fault, proof)

    def _compare(self, dealer: MemberId, digest: bytes, promise: bytes, out: Out[Message, Output]) -> None:
        """Blame the dealer if it promised another commitment before; both promises were checked."""
        holding, complete = self.holdings.get(dealer), self.complete.get(dealer)
        known = [(holding.digest, holding.promise)] if holding is not None else []
        known += [(self.judge.commitment_of(complete.sharing), complete.promise)] if complete is not None else []
        for other, other_promise in known:
            if other != digest and dealer not in self.convicted:
                self.convicted.add(dealer)
                (a, first), (b, second) = sorted(((digest, promise), (other, other_promise)))
                proof = EVIDENCE.encode(TwoCommitments(a, first, b, second))
                out.blame(dealer, "dealt two sharings in the making of one key", proof)
