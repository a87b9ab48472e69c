"""What clients submit in an `OrderingWorld`, and the bytes of it: the channel's stand-in before anything is decided.

Clients send a batch to members, and again to everybody until it is delivered. A member proposes what it was asked for
while its machine has room; where nobody leads, members share the proposing (`turns`). Bytes travel with messages
(`carry`), or are fetched: a holder is asked again and again, `Available` says that they came, and `Refused` that they
came and no client made them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import Available, Batch, OrderingInput, Propose, Refused, Waiting
from bftkit.sim.ordering.links import Links
from bftkit.sim.ordering.parts import Machines, Node
from bftkit.sim.ordering.timeline import Timeline

_FETCH_RETRY: Final = 60
_CLIENT_RETRY: Final = 150


class Batches:
    """Every batch that there is, and how members come by it."""

    def __init__(self, nodes: Mapping[str, Node], links: Links, time: Timeline, machines: Machines) -> None:
        self.proposals: Counter[Digest] = Counter()
        """How often each batch was given to a machine to propose."""
        self.open: dict[Digest, None] = {}
        """What clients submitted and no correct member has delivered."""
        self._nodes = nodes
        self._links = links
        self._time = time
        self._machines = machines
        self._authentic: dict[Digest, bool] = {}

    # -------------------------------------------------------------------------------------- clients

    def submit(self, count: int, receivers: Iterable[MemberId], *, authentic: bool) -> list[Digest]:
        """Clients make so many new batches and send them to these members. One that is not authentic is a lie."""
        chosen, made = tuple(receivers), list[Digest]()
        for _ in range(count):
            batch = digest(b"batch", self._time.random.randbytes(16))
            self._authentic[batch] = authentic
            made.append(batch)
            if authentic:
                self.open[batch] = None
            for receiver in chosen:
                for node in self._links.copies(receiver):
                    self._ask(node, batch)
        return made

    def begin(self) -> None:
        """Clients ask again now and then, for as long as the world lasts."""
        self._time.after(_CLIENT_RETRY, self._again)

    def is_authentic(self, batch: Digest) -> bool:
        """Whether a client submitted it."""
        return self._authentic.get(batch, False)

    def _again(self) -> None:
        for batch in self.open:
            for node in self._nodes.values():
                self._ask(node, batch)
        self._time.after(_CLIENT_RETRY, self._again)

    def _ask(self, node: Node, batch: Digest) -> None:
        self._time.after(self._links.delay(), partial(self._request, node, batch))

    def _request(self, node: Node, batch: Digest) -> None:
        if node.machine is None or batch in node.slots.values():
            return
        if batch in node.demand:
            if node.machine.leader is not None:
                return
            node.turns.begins = True  # its client asks again, and nobody else would begin a round
        node.demand[batch] = None
        if not node.process.paused:
            value = self.next_input(node)
            if value is not None:
                self._machines.step(node, "on_input", value)

    # -------------------------------------------------------------------------------------- proposing

    def next_input(self, node: Node) -> OrderingInput | None:
        """What the channel has to tell the machine by now: `Waiting` when it changes, `Propose` while there is room."""
        assert node.machine is not None
        waiting = any(self._authentic[batch] for batch in node.demand)
        if waiting != node.told_waiting:
            node.told_waiting = waiting
            return Waiting(waiting)
        if node.machine.room > 0:
            view = node.machine.view
            wishes = reversed(node.demand) if node.is_twin else iter(node.demand)
            if node.machine.leader is None:
                own = node.turns.propose(wishes, node.height, node.machine.highest_voted)
                if own is None:
                    return None
                if own == NO_DIGEST:
                    return Propose(Batch(NO_DIGEST, 0))
                return self._propose(node, own)
            for batch in wishes:
                if node.proposed.get(batch) != view:
                    # A batch is given again in a new view; the real channel sorts out duplicates at delivery.
                    node.proposed[batch] = view
                    return self._propose(node, batch)
        return None

    def _propose(self, node: Node, batch: Digest) -> Propose:
        self.keep(node, batch)
        self.proposals[batch] += 1
        return Propose(Batch(batch, 100))

    # -------------------------------------------------------------------------------------- bytes

    def keep(self, node: Node, batch: Digest) -> None:
        """The member holds these bytes from now on."""
        node.arrived.discard(batch)
        if batch not in node.store:
            node.store.add(batch)
            node.disk.keep_batch(batch)

    def fetch(self, node: Node, batch: Digest, slot: Slot, holders: tuple[MemberId, ...]) -> None:
        """The machine asks for bytes, which these members should have."""
        if batch == NO_DIGEST:
            self._machines.fail(f"{node.name} fetches the empty batch")
        if batch in node.store or batch in node.arrived:
            self._answer(node, batch)
            return
        known = node.wanted.get(batch, (slot, list[MemberId]()))
        node.wanted[batch] = (max(slot, known[0]), list(dict.fromkeys([*known[1], *holders])))
        if batch not in self._authentic:
            return  # an invented digest: nobody has the bytes, ever
        self._ask_holders(node, batch)

    def arrive(self, node: Node, batch: Digest) -> None:
        """Bytes came, asked for or not. A member may have made the same batch itself since it asked."""
        if batch in node.store and batch not in node.wanted:
            return
        node.arrived.add(batch)
        if node.wanted.pop(batch, None) is not None:
            self._answer(node, batch)
            if node.inputs:
                self._machines.step(node, "on_input", node.inputs.popleft())

    def _ask_holders(self, node: Node, batch: Digest) -> None:
        if batch not in node.wanted:
            return
        for holder in node.wanted[batch][1]:
            if holder != node.name:
                for target in self._links.copies(holder):
                    self._links.carry(node, target, partial(self._serve, target, node, batch))
        self._time.after(_FETCH_RETRY, node.process.bound(lambda: self._ask_holders(node, batch)))

    def _serve(self, holder: Node, asker: Node, batch: Digest) -> None:
        if batch in holder.store:
            self._links.carry(holder, asker, lambda: self.arrive(asker, batch))

    def _answer(self, node: Node, batch: Digest) -> None:
        if self._authentic[batch]:
            self.keep(node, batch)
            node.inputs.append(Available(batch))
        else:
            node.inputs.append(Refused(batch))
