"""Evidence: what one member keeps of another one's lie, in a form that convinces anybody who trusts the genesis.

A machine that sees a member break its protocol blames it, and where signatures show the lie, a *proof* comes with the
blame: what exactly, each plug-in knows (`Plugin.convicts`). The rest of what a third party needs is added here: the
group, the epoch, and the opening that stands in front of everything that was signed in it. Whose keys are whose, the
chain of hand-overs says (`chain`), so that a proof from an epoch that is long over is still one. Whoever made up the
keys as well convinces nobody: the configuration must be the one in the chain.

For a signature under a *bad batch*, one with a request that its client did not sign, a protocol shows one half, whose
signature it is, and the channel adds the batch (`bftkit.channel.batches`). Two kinds are not of a protocol: two
hand-overs that end one epoch in two ways convict all that signed both, and a dealing that does not fit its commitment,
or two commitments, convict a dealer of the next coin key (`keymaking`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

import attrs

from bftkit.blocks import agreement_messages, consistent_broadcast
from bftkit.channel.batches import BadBatchShown, read_bad_batch
from bftkit.configuration.text import ConfigurationError, hex_bytes, parse_toml, right, structure, to_toml
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId
from bftkit.core.ordering import Plugin, Setup
from bftkit.core.wire import WireError
from bftkit.membership.chain import (
    HANDOVER_PURPOSE,
    HandOver,
    Place,
    TwoEndings,
    Verifier,
    Verifiers,
    contradict,
    only_verifies,
    read_two_endings,
    signers_of_both,
)
from bftkit.membership.keymaking_messages import check_evidence

FORMAT: Final = "bftkit evidence 1"
_HEADER: Final = """\
# Evidence that a member of a bftkit group lied. Nothing in it is secret.
#   check it:  bftkit evidence verify FILE --client CLIENT_FOLDER
"""
_ADVICE: Final = "ask whoever has it for the whole file"


@attrs.frozen
class Evidence:
    """A blame with a proof, and what it takes to check it."""

    group: bytes
    epoch: int
    opening: Digest
    """What opened the epoch; everything that members signed in it begins with it (SAFETY rule 2)."""
    protocol: str
    member: MemberId
    """Who is said to have lied."""
    fault: str
    proof: bytes = attrs.field(repr=False)
    seen_by: MemberId = ""
    seen_ms: int = 0
    """When the member that keeps it saw it, by its own clock, in milliseconds since 1970."""

    @property
    def name(self) -> str:
        """The same for the same proof, whoever keeps it."""
        whole = digest(b"bftkit evidence", self.opening, self.member.encode(), self.proof).hex()[:12]
        return f"{self.epoch}-{self.member}-{whole}"

    def to_text(self) -> str:
        """The evidence as a file's content."""
        return _HEADER + to_toml(
            {
                "format": FORMAT,
                "group": self.group.hex(),
                "epoch": self.epoch,
                "opening": self.opening.hex(),
                "protocol": self.protocol,
                "member": self.member,
                "fault": self.fault,
                "seen_by": self.seen_by,
                "seen_ms": self.seen_ms,
                "proof": base64.b64encode(self.proof).decode("ascii"),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Evidence:
        """The evidence in a file, unchecked. Raises `ConfigurationError`."""
        table = structure(parse_toml(text), _EvidenceTable)
        if table.format != FORMAT:
            raise ConfigurationError("format", f"{table.format!r} is not known", f"give a file of format {FORMAT!r}")
        try:
            proof = base64.b64decode(table.proof, validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError("proof", "it is not base64", _ADVICE) from None
        return cls(
            hex_bytes("group", table.group, 32, "a group's id"),
            table.epoch,
            hex_bytes("opening", table.opening, 32, "an opening"),
            table.protocol,
            table.member,
            table.fault,
            proof,
            table.seen_by,
            table.seen_ms,
        )


@attrs.frozen
class _EvidenceTable:
    format: str = attrs.field(metadata=right(f'"{FORMAT}"'))
    group: str = attrs.field(metadata=right("a group's id as 64 hexadecimal digits"))
    epoch: int = attrs.field(metadata=right("a whole number"))
    opening: str = attrs.field(metadata=right("a digest as 64 hexadecimal digits"))
    protocol: str = attrs.field(metadata=right('a protocol, such as "pbft"'))
    member: str = attrs.field(metadata=right('a member\'s id, such as "m0"'))
    fault: str = attrs.field(metadata=right("what it did, in words"))
    seen_by: str = attrs.field(metadata=right("a member's id"))
    seen_ms: int = attrs.field(metadata=right("milliseconds since 1970"))
    proof: str = attrs.field(metadata=right("the proof, in base64"))


def why_not_proved(
    evidence: Evidence,
    place: Place,
    plugin: Plugin,
    verifier: Verifier,
    is_bad: Callable[[bytes], bool] = lambda batch: False,
) -> str | None:
    """Why this evidence convicts nobody; None if it proves that its member lied.

    `place` is that of its epoch in a chain that was verified, `verifier` checks that epoch's signatures, and `plugin`
    is the epoch's protocol. `is_bad` judges a batch's bytes as the group's members do in that epoch
    (`bftkit.channel.batches.judge_batch`); by default none is bad. Nothing that the evidence says of itself is
    believed.
    """
    here = place.configuration
    if evidence.epoch != here.epoch or evidence.opening != place.opening:
        return f"it is not of epoch {here.epoch} as the group's history knows it"
    if evidence.member not in here.members:
        return f"{evidence.member} was no member in epoch {here.epoch}"
    both = read_two_endings(evidence.proof)
    if both is not None:
        return _why_not_two_endings(evidence, place, both, verifier)
    shown = read_bad_batch(evidence.proof)
    setup = Setup(
        me=here.members[0],
        members=here.members,
        quorum=here.quorum,
        keyring=only_verifies(verifier),
        window=here.window,
        parameters=dict(here.parameters),
    )
    try:
        if shown is not None:
            return _why_not_bad_batch(evidence, shown, setup, plugin, is_bad)
        if plugin.convicts is not None and plugin.convicts(setup, evidence.member, evidence.proof):
            return None
        # The agreement by which a group leaves a protocol is no plug-in's, and blames by the same proofs.
        if consistent_broadcast.convicts(setup, evidence.member, evidence.proof):
            return None
        if agreement_messages.check_proof(setup, evidence.proof) == evidence.member:
            return None
    except (WireError, ValueError) as error:
        return f"the proof cannot be read: {error}"
    return "the signatures in it do not show that, to one who has nothing but the members' keys"


def _why_not_bad_batch(
    evidence: Evidence, shown: BadBatchShown, setup: Setup, plugin: Plugin, is_bad: Callable[[bytes], bool]
) -> str | None:
    name = plugin.signed_for(setup, evidence.member, shown.proof) if plugin.signed_for is not None else None
    if name is None:
        return f"it does not show that {evidence.member} signed for a batch"
    if digest(shown.batch) != name:
        return f"the batch in it is another one than {evidence.member} signed for"
    return None if is_bad(shown.batch) else "the batch in it is a good one"


def proves_false_dealing(evidence: Evidence, link: HandOver, verifiers: Verifiers) -> bool:
    """Whether it shows that its member dealt falsely when the coin key of the epoch that `link` opens was made.

    What is said in that is signed with the keys of that epoch, under the name of the command that wants it. `link` is
    one of a chain that was verified.
    """
    there, command = link.next, link.ending.command
    if evidence.epoch not in (there.epoch - 1, there.epoch):
        return False  # it is seen while the key is made, or soon after
    verifier = verifiers(there, command)
    return check_evidence(verifier, there.quorum, there.members, command, evidence.member, evidence.proof)


def _why_not_two_endings(evidence: Evidence, place: Place, both: TwoEndings, verifier: Verifier) -> str | None:
    here = place.configuration
    first, second = both.first, both.second
    try:
        if not contradict(first, second) or first.ending.epoch != here.epoch:
            return f"these are not two endings of epoch {here.epoch}"
    except WireError as error:
        return f"the proof cannot be read: {error}"
    keyring = only_verifies(verifier)
    for link in (first, second):
        if not link.certificate.valid(keyring, HANDOVER_PURPOSE, here.quorum.certificate):
            return f"one of the hand-overs is not signed by {here.quorum.certificate} members of epoch {here.epoch}"
    return None if evidence.member in signers_of_both(first, second) else f"{evidence.member} did not sign both"
