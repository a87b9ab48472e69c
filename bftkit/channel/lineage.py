"""The chain of hand-overs, as far as this member knows it: behind it, and ahead of it.

Whoever hears of a later epoch asks for the links that lead there, and checks each: the signatures of the epoch's
quorum, the operators' command, and the coin key (SAFETY rule 28). Links *behind* were crossed, and are told to whoever
is further back; links *ahead* were checked, and the state that they lead to is not here yet. Two genuine links that
end one epoch in two ways stop this member: nobody can be trusted any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bftkit.channel import frames
from bftkit.channel.frames import CHAIN_BYTES, ChainLinks, ChainRequest, CheckpointProof, pack_control
from bftkit.channel.interface import Linked, ReplicaOut
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import Digest, MemberId
from bftkit.core.wire import WireError
from bftkit.membership.chain import (
    ChainError,
    Ending,
    HandOver,
    Place,
    contradict,
    follow,
    only_verifies,
    signers_of_both,
    two_endings,
)

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica


class Lineage:
    """The part of a replica that knows the chain."""

    def __init__(self, replica: Replica, place: Place) -> None:
        self._replica = replica
        self.links: dict[int, HandOver] = {}
        """The hand-overs that this member has crossed, by the epoch that each ends. The newest is always here."""
        self.ahead: list[HandOver] = []
        """Links after those, checked; their state is not here yet."""
        self.ahead_place = place
        """Where `ahead` leads."""
        self._begun_by: dict[Digest, int] = {}
        """Commands that were carried out, and the epochs that they began."""
        self._answered: dict[MemberId, int] = {}

    # ------------------------------------------------------------------------------------------ what is known

    def known(self, epoch: int) -> HandOver | None:
        """The link that ends this epoch."""
        if epoch in self.links:
            return self.links[epoch]
        return next((link for link in self.ahead if link.ending.epoch == epoch), None)

    def begun_by(self, command: Digest) -> int | None:
        """The epoch that this command began, of those that this member was in or came past."""
        return self._begun_by.get(command)

    def made_coin(self, epoch: int) -> HandOver | None:
        """The link with which the coin key of this epoch was made, which forced changes since have kept.

        None: it was dealt at the founding, there is none, or the link is not known here.
        """
        link = self.known(epoch - 1)
        while link is not None and link.signed.command.forced:
            link = self.known(link.ending.epoch - 1)
        return link if link is not None and link.selection else None

    @property
    def coin_since(self) -> int:
        """The epoch whose beginning made the present coin key, which a forced change keeps; 0 if it is not known.

        Without a coin key it is the present epoch: shares of none are needed.
        """
        replica = self._replica
        configuration = replica.succession_part.configuration
        epoch = configuration.epoch
        while configuration.coin is not None and epoch > 0:
            if epoch == 1:
                coin = replica.founding.coin
            elif epoch - 2 in self.links:
                coin = self.links[epoch - 2].next.coin
            else:
                return 0
            if coin != configuration.coin:
                break
            epoch -= 1
        return epoch

    def _keep(self, link: HandOver) -> None:
        self.links[link.ending.epoch] = link
        self._begun_by[link.ending.command] = link.ending.epoch + 1

    def cross(self, link: HandOver, place: Place) -> None:
        """This member has crossed into the epoch that this link opens, and is at this place."""
        for one in (*self.ahead, link):
            if one.ending.epoch <= link.ending.epoch:
                self._keep(one)
        self.ahead = [one for one in self.ahead if one.ending.epoch > link.ending.epoch]
        if not self.ahead:
            self.ahead_place = place

    def restore(self, here: Place, packed: Iterable[bytes], newest: HandOver | None) -> None:
        """After a restart: what is known of the chain from this place on. Raises `WireError` if it is not a chain.

        `newest` is the one that the log begins with: the member's own word that it crossed there.
        """
        settings = self._replica.settings
        keychain = settings.keychain
        assert keychain is not None
        place = here
        try:
            for data in packed:
                link = HandOver.decode(data)
                if link.ending.epoch != place.configuration.epoch:
                    continue
                if newest is not None and link.ending.epoch == newest.ending.epoch:
                    place = Place(newest.next, newest.ending.opening)
                    continue
                place = follow(settings.group, place, link, keychain.verifier, settings.verify)
                if newest is not None and link.ending.epoch < newest.ending.epoch:
                    self._keep(link)
                else:
                    self.ahead.append(link)
        except (ChainError, ConfigurationError) as error:
            raise WireError(str(error)) from None
        if newest is not None:
            self._keep(newest)
            if place.configuration.epoch < newest.next.epoch:
                place = Place(newest.next, newest.ending.opening)
        self.ahead_place = place

    # ------------------------------------------------------------------------------------------ telling and asking

    def chain_from(self, epoch: int) -> tuple[bytes, ...]:
        """The hand-overs from the one that ends this epoch on, as many as go into one answer."""
        size = 0
        packed: list[bytes] = []
        while (link := self.links.get(epoch)) is not None:
            epoch += 1
            data = link.encode()
            size += len(data)
            if packed and size > CHAIN_BYTES:
                break
            packed.append(data)
        return tuple(packed)

    def send(self, to: MemberId, epoch: int, out: ReplicaOut) -> None:
        """Tell somebody who is in this epoch how it ended, and so on."""
        replica = self._replica
        links = self.chain_from(epoch)
        if not links or not replica.may_serve(to) or self._answered.get(to) == epoch:
            return
        self._answered[to] = epoch  # once a beat is enough
        replica.serve(to, pack_control(ChainLinks(links)), out)

    def ask(self, of: MemberId, out: ReplicaOut) -> None:
        """Ask somebody for the links after those that are known here."""
        if self._answered.get(of) != -1:
            self._answered[of] = -1
            out.send(of, pack_control(ChainRequest(self.ahead_place.configuration.epoch)))

    def on_beat(self) -> None:
        """From now on everybody may be told, and asked, again."""
        self._answered.clear()

    # ------------------------------------------------------------------------------------------ checking

    def on_links(self, packed: tuple[bytes, ...], out: ReplicaOut) -> None:
        """Links that somebody shows. Raises `WireError` for one that is not genuine."""
        known = self.ahead_place
        try:
            self._take(packed, out)
        finally:
            # Whatever comes after a genuine link: it leads to members that may be the only ones left to ask.
            if self.ahead_place is not known:
                self._replica.succession_part.tell_neighbours(out)
        self.approach(out)

    def _take(self, packed: tuple[bytes, ...], out: ReplicaOut) -> None:
        settings = self._replica.settings
        keychain = settings.keychain
        assert keychain is not None
        for data in packed:
            link = HandOver.decode(data)
            epoch = link.ending.epoch
            known = self.known(epoch)
            if known is not None:
                if contradict(known, link):
                    self._on_contradiction(known, link, out)
                    return
                continue
            if epoch != self.ahead_place.configuration.epoch:
                continue  # an answer that was overtaken; nothing here says whether it is genuine
            try:
                place = follow(settings.group, self.ahead_place, link, keychain.verifier, settings.verify)
            except ChainError as error:
                raise WireError(str(error)) from None
            self._check_sharings(link)
            self.ahead_place = place
            self.ahead.append(link)
            out.deliver(Linked(epoch, data))

    def _check_sharings(self, link: HandOver) -> None:
        """A quorum signed the coin key and not the sharings that make it: who shows the link may have put in others.

        Raises `WireError`.
        """
        state, there = self._replica.state.reconfiguring, link.next
        assert state is not None
        made = there.coin is not None and not link.signed.command.forced
        try:
            coin = state.judges.coin_of(there, link.signed.name, link.selection) if made else None
        except ValueError as error:
            raise WireError(f"the sharings in a hand-over make no coin key: {error}") from None
        if coin != (there.coin if made else None) or (link.selection and not made):
            raise WireError("the sharings in a hand-over make another coin key than its members signed")

    def _on_contradiction(self, known: HandOver, link: HandOver, out: ReplicaOut) -> None:
        """Two endings of one epoch: if the other one is genuine, nobody can be trusted any more (SAFETY rule 28)."""
        replica, settings = self._replica, self._replica.settings
        keychain = settings.keychain
        assert keychain is not None
        place = self.begin_of(link.ending.epoch)
        if place is None:
            return  # nothing here says whether it is genuine, so it is nobody's fault
        try:
            follow(settings.group, place, link, keychain.verifier, settings.verify)
        except ChainError as error:
            raise WireError(str(error)) from None
        for member in signers_of_both(known, link):
            replica.blame(member, "two hand-overs of one epoch", two_endings(known, link), out)
        replica.halt(f"epoch {link.ending.epoch} has two hand-overs: its members broke the rules", out)

    def begin_of(self, epoch: int) -> Place | None:
        """Where this epoch began, if that is known.

        What leads there was checked when it came, and is not checked again: a liar would make a member verify the whole
        chain with each forged link.
        """
        replica = self._replica
        if epoch == 0:
            return Place(replica.founding, replica.settings.group)
        link = self.known(epoch - 1)
        return Place(link.next, link.ending.opening) if link is not None else None

    # ------------------------------------------------------------------------------------------ getting there

    def on_proof(self, message: CheckpointProof, out: ReplicaOut) -> None:
        """A certified state of the epoch that the links ahead lead to: nobody may hold that epoch's first one."""
        replica, place = self._replica, self.ahead_place
        if not self.ahead or message.epoch != place.configuration.epoch:
            return
        crossing = replica.succession_part.crossing
        if crossing is not None and crossing.ending.epoch == self.ahead[-1].ending.epoch:
            return  # else it waits for what nobody may keep any more, in an epoch that is over
        body = message.certificate.body
        if Ending.is_one(body):
            return  # it is the newest link's own
        slot, root = frames.parse_checkpoint_body(body)
        keychain = replica.settings.keychain
        assert keychain is not None
        verifier = keychain.verifier(place.configuration, place.opening)
        needed = place.configuration.quorum.certificate
        if not message.certificate.valid(only_verifies(verifier), frames.CHECKPOINT_PURPOSE, needed):
            raise WireError("the checkpoint's certificate is not signed by a quorum of its epoch")
        if slot > replica.applied:
            replica.catchup.fetch(slot, root, message.certificate, out)

    def approach(self, out: ReplicaOut) -> None:
        """There are links ahead: go where they lead, by the state that is here or by fetching the newest."""
        replica = self._replica
        succession = replica.succession_part
        if not self.ahead or succession.crossing is not None:
            return
        state = replica.state.reconfiguring
        assert state is not None
        # A state that was fetched before may be of a later epoch than this member itself.
        link = next((one for one in self.ahead if one.ending.epoch >= state.configuration.epoch), None)
        if link is None:
            succession.crossing = self.ahead[-1]
            succession.try_enter(out)
            return
        slot = link.ending.slot
        if replica.applied > slot:
            replica.halt(f"epoch {link.ending.epoch} ended at slot {slot}, and this member executed more", out)
            return
        if replica.applied == slot:
            ready = replica.checkpoints.ready.get(slot)
            if replica.checkpoints.stable == slot or (ready is not None and ready[0] == link.ending.root):
                succession.cross(link, out)
            elif ready is not None:
                replica.halt(f"this member's state differs from the quorum's at slot {slot}", out)
            else:
                replica.executing.hash_now(slot)
            return
        self.fetch_newest(out)

    def fetch_newest(self, out: ReplicaOut) -> None:
        """Fetch the state that the newest link ahead leads to."""
        newest = self.ahead[-1]
        self._replica.catchup.fetch(newest.ending.slot, newest.ending.root, newest.certificate, out)
