"""Evidence: genuine proofs of every kind convict their member, to anybody; nothing else convicts anybody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.blocks import agreement_messages, consistent_broadcast
from bftkit.blocks.certificates import SignatureLists
from bftkit.channel.batches import BAD_BATCHES, BadBatchShown
from bftkit.channel.bundles import CLOCK, REQUESTS, make_batch, make_bundle
from bftkit.cli import main
from bftkit.cli.evidence import check
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import digest
from bftkit.core.ordering import Setup
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import Ed25519Keyring, SigningKey
from bftkit.membership import keymaking_messages as keymaking
from bftkit.membership.chain import HandOver, Place, read_two_endings, two_endings
from bftkit.membership.commands import Change
from bftkit.membership.evidence import Evidence, proves_false_dealing, why_not_proved
from bftkit.membership.verifiers import founding_place, roster_verifier
from bftkit.node.evidence import EvidenceStore, read_all
from bftkit.node.folders import read_client, read_genesis, read_member
from bftkit_coordinator import messages as coordinator
from bftkit_paxos import messages as paxos
from bftkit_pbft import messages as pbft
from tests.chains import Group

A, B = digest(b"one batch"), digest(b"another batch")

Proof = Callable[[Callable[[str], Ed25519Keyring], Setup], bytes]
"""A proof against m1, made with the members' keyrings."""


def setup_of(place: Place, keyring: Ed25519Keyring) -> Setup:
    here = place.configuration
    return Setup(here.members[0], here.members, here.quorum, keyring, parameters=dict(here.parameters))


def pbft_votes(keyring: Callable[[str], Ed25519Keyring], setup: Setup) -> bytes:
    signed = [
        (statement, keyring("m1").sign(pbft.VOTE, statement))
        for statement in (pbft.vote_statement(3, 7, A), pbft.vote_statement(3, 7, B))
    ]
    return pbft.equivocation("m1", signed[0], signed[1])


def paxos_proposals(keyring: Callable[[str], Ed25519Keyring], setup: Setup) -> bytes:
    one, other = (
        paxos.Entry(1, 9, value, keyring("m1").sign(paxos.ACCEPT_PURPOSE, paxos.proposal_statement(1, 9, value)))
        for value in (A, B)
    )
    return paxos.CONFLICTS.encode(paxos.Conflict(one, other))


def coordinator_entries(keyring: Callable[[str], Ed25519Keyring], setup: Setup) -> bytes:
    purpose, statement = coordinator.APPEND_PURPOSE, coordinator.entry_statement
    one, other = (coordinator.Entry(9, value, keyring("m1").sign(purpose, statement(9, value))) for value in (A, B))
    return coordinator.CONFLICTS.encode(coordinator.Conflict(one, other))


def cks_votes(keyring: Callable[[str], Ed25519Keyring], setup: Setup) -> bytes:
    pre = agreement_messages.PRE_VOTE
    first, second = (
        (value, keyring("m1").sign(pre, agreement_messages.pre_statement(b"id", 4, value))) for value in (0, 1)
    )
    return agreement_messages.equivocation("m1", b"id", 1, 4, first, second)


def cks_echoes(keyring: Callable[[str], Ed25519Keyring], setup: Setup) -> bytes:
    def final(value: bytes, names: tuple[str, ...]) -> consistent_broadcast.Final:
        statement = consistent_broadcast.statement(b"id", "m0", value)
        lists = SignatureLists.of(setup, consistent_broadcast.PURPOSE, setup.quorum.available)
        votes = {name: keyring(name).sign(consistent_broadcast.PURPOSE, statement) for name in names}
        return consistent_broadcast.Final(value, lists.combine(statement, votes))

    first, second = final(b"a", ("m0", "m1", "m2")), final(b"b", ("m0", "m1", "m3"))
    twice = consistent_broadcast.EchoedTwice(b"id", "m0", first, second)
    return consistent_broadcast.PROOFS.encode(twice)


KINDS: dict[str, tuple[str, Proof]] = {
    "pbft": ("pbft", pbft_votes),
    "paxos": ("paxos", paxos_proposals),
    "coordinator": ("coordinator", coordinator_entries),
    "cks votes": ("cks", cks_votes),
    "cks echoes": ("cks", cks_echoes),
    "the bedrock's votes": ("pbft", cks_votes),
}


def wish(protocol: str) -> Callable[[Change], Change]:
    """Another protocol; under the coordinator it is m1 that orders."""
    parameters = {"coordinator": 1} if protocol == "coordinator" else {}

    def changed(change: Change) -> Change:
        return attrs.evolve(change, protocol=protocol, parameters=parameters, coin=change.f > 0)

    return changed


@attrs.frozen
class Case:
    """A proof of one kind, in the second epoch of a group."""

    group: Group
    evidence: Evidence
    plugin: str

    def why_not(self, **changes: Any) -> str | None:
        evidence = attrs.evolve(self.evidence, **changes)
        place = self.group.places[1]
        verifier = roster_verifier(self.group.group)(place.configuration, place.opening)
        return why_not_proved(evidence, place, load_protocol(self.plugin), verifier)


@pytest.fixture(params=sorted(KINDS))
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def case_of(kind: str) -> Case:
    protocol, make = KINDS[kind]
    group = Group(f=0 if protocol in ("paxos", "coordinator") else 1)
    group.go(wish(protocol))
    place = group.place
    proof = make(lambda member: group.keyring(member), setup_of(place, group.keyring("m0")))
    return Case(group, Evidence(group.group, 1, place.opening, protocol, "m1", "lied", proof, "m0", 7), protocol)


def test_a_genuine_proof_convicts_its_member(case: Case) -> None:
    assert case.why_not() is None


def test_it_convicts_nobody_else(case: Case) -> None:
    assert case.why_not(member="m3") is not None
    assert "m9 was no member in epoch 1" in str(case.why_not(member="m9"))


def test_a_proof_is_of_its_epoch_and_of_its_opening(case: Case) -> None:
    assert "it is not of epoch 1" in str(case.why_not(epoch=0))
    assert "it is not of epoch 1" in str(case.why_not(opening=case.group.group))


def test_the_same_statements_signed_in_another_epoch_convict_nobody(case: Case) -> None:
    """Signatures of epoch 0 shown as if they were of epoch 1: purpose, group, epoch and opening are in front."""
    group = case.group
    make = KINDS[next(name for name, (protocol, _) in KINDS.items() if protocol == case.plugin)][1]
    old = make(lambda member: group.keyring(member, 0), setup_of(group.places[0], group.keyring("m0", 0)))
    assert case.why_not(proof=old) is not None


def test_one_changed_byte_anywhere_convicts_nobody(case: Case) -> None:
    proof = case.evidence.proof
    for index in range(0, len(proof), 7):
        changed = proof[:index] + bytes([proof[index] ^ 1]) + proof[index + 1 :]
        assert case.why_not(proof=changed) is not None, f"byte {index} of {len(proof)}"


def test_one_statement_twice_is_no_lie() -> None:
    """Each proof is made of two signed things that contradict each other; twice the same one shows nothing."""
    for protocol, codec in (("paxos", paxos.CONFLICTS), ("coordinator", coordinator.CONFLICTS), ("pbft", pbft.PROOFS)):
        case = case_of(protocol)
        found: Any = codec.decode(case.evidence.proof)
        more = {"second_signature": found.first_signature} if protocol == "pbft" else {}
        twice: Any = attrs.evolve(found, second=found.first, **more)
        encode: Any = codec.encode
        assert case.why_not(proof=encode(twice)) is not None
    case = case_of("cks echoes")
    echoes = consistent_broadcast.PROOFS.decode(case.evidence.proof)
    same = consistent_broadcast.PROOFS.encode(attrs.evolve(echoes, second=echoes.first))
    assert case.why_not(proof=same) is not None


def test_bytes_that_are_no_proof_convict_nobody(case: Case) -> None:
    for proof in (b"", b"x", os.urandom(200)):
        assert case.why_not(proof=proof) is not None


def bad_batch(keyring: Callable[[str], Ed25519Keyring], group: bytes, signer: str = "m0") -> tuple[bytes, bytes]:
    """A leader's signed header over a batch with a request that its client signed for another group; that batch."""
    batch = make_batch(5, [make_bundle(SigningKey(bytes(32)), digest(group), REQUESTS, 1, 1, 1, [b"operation"])])
    header = pbft.vote_statement(0, 3, digest(batch))
    return pbft.PROOFS.encode(pbft.BadBatch(signer, header, keyring(signer).sign(pbft.VOTE, header))), batch


def test_a_bad_batch_convicts_whoever_signed_for_it_once_the_batch_is_shown() -> None:
    group = Group()
    half, batch = bad_batch(group.keyring, group.group)
    place = group.place
    verifier = roster_verifier(group.group)(place.configuration, place.opening)

    def why_not(proof: bytes, member: str = "m0", *, bad: bool = True) -> str | None:
        evidence = Evidence(group.group, 0, place.opening, "pbft", member, "a bad batch", proof)
        return why_not_proved(evidence, place, load_protocol("pbft"), verifier, lambda raw: bad and raw == batch)

    whole = BAD_BATCHES.encode(BadBatchShown(half, batch))
    assert why_not(whole) is None
    assert "do not show that" in str(why_not(half)), "without the batch"
    assert why_not(whole, bad=False) == "the batch in it is a good one"
    assert why_not(whole, "m1") == "it does not show that m1 signed for a batch"
    other = BAD_BATCHES.encode(BadBatchShown(half, batch + b"x"))
    assert why_not(other) == "the batch in it is another one than m0 signed for"
    unsigned = pbft.BadBatch("m0", pbft.vote_statement(0, 3, digest(batch)), bytes(64))
    forged = BAD_BATCHES.encode(BadBatchShown(pbft.PROOFS.encode(unsigned), batch))
    assert why_not(forged) == "it does not show that m0 signed for a batch"


def test_the_command_judges_a_bad_batch_by_the_rules_of_the_members(tmp_path: Path) -> None:
    directory = tmp_path / "shop"
    assert main(["init", str(directory), "--members", "4", "--json"]) == 0
    folder = read_client(directory / "client")
    genesis, group = folder.genesis, folder.genesis.group_id
    place = founding_place(genesis)

    def keyring(member: str) -> Ed25519Keyring:
        key = read_member(directory / member).epochs.signing_key(0)
        return Ed25519Keyring(group, 0, group, member, key, {one.id: one.epoch_key for one in genesis.roster.entries})

    def verdict(batch: bytes) -> str | None:
        header = pbft.vote_statement(0, 3, digest(batch))
        half = pbft.PROOFS.encode(pbft.BadBatch("m0", header, keyring("m0").sign(pbft.VOTE, header)))
        proof = BAD_BATCHES.encode(BadBatchShown(half, batch))
        return check(Evidence(group, 0, place.opening, "pbft", "m0", "a bad batch", proof), folder, ())

    client, member = SigningKey(bytes(32)), read_member(directory / "m1").epochs.signing_key(0)
    good = "the batch in it is a good one"
    assert verdict(bad_batch(keyring, group)[1]) is None
    assert verdict(make_batch(5, [make_bundle(client, group, REQUESTS, 1, 1, 1, [b"operation"])])) == good
    assert verdict(make_batch(5, [make_bundle(member, group, CLOCK, 1, 5, 0, [])])) == good
    assert verdict(make_batch(5, [make_bundle(client, group, CLOCK, 1, 5, 0, [])])) is None, "of no member"
    assert verdict(make_batch(5, []) + b"x") is None, "no batch at all"
    long = bytes(genesis.limits.operation_bytes_max + 1)
    assert verdict(make_batch(5, [make_bundle(client, group, REQUESTS, 1, 1, 1, [long])])) is None, "too long"


# ------------------------------------------------------------------------------------------------- two endings


def test_two_endings_of_one_epoch_convict_all_who_signed_both() -> None:
    group = Group()
    other = group.copy()
    genuine, forged = group.go(wish("pbft")), other.go(wish("cks"), nonce=1)
    place = group.places[0]
    proof = two_endings(genuine, forged)
    assert proof == two_endings(forged, genuine)
    verifier = roster_verifier(group.group)(place.configuration, place.opening)

    def why_not(member: str, proof: bytes) -> str | None:
        evidence = Evidence(group.group, 0, place.opening, "pbft", member, "two hand-overs of one epoch", proof)
        return why_not_proved(evidence, place, load_protocol("pbft"), verifier)

    assert [why_not(member, proof) for member in ("m0", "m1", "m2")] == [None, None, None]
    assert why_not("m3", proof) == "m3 did not sign both"
    assert "not two endings" in str(why_not("m0", two_endings(genuine, genuine)))
    few = attrs.evolve(forged, certificate=attrs.evolve(forged.certificate, votes=forged.certificate.votes[:2]))
    assert "is not signed by 3 members" in str(why_not("m0", two_endings(genuine, few)))
    assert read_two_endings(b"nothing") is None


# ------------------------------------------------------------------------------------------------- coin keys


def test_a_dealer_that_made_two_commitments_is_convicted_by_who_knows_the_command() -> None:
    group = Group()
    link = group.go(wish("cks"))
    there, command = link.next, link.ending.command
    publics = {entry.id: entry.epoch_key for entry in there.roster.entries}
    dealer = Ed25519Keyring(group.group, 1, command, "m1", group.people["m1"].epochs.signing_key(1), publics)
    judge = keymaking.Judge.of(dealer, there.quorum, there.members, command)
    promises = [dealer.sign(keymaking.COMMITMENT_PURPOSE, judge.about("m1", commitment)) for commitment in (A, B)]
    proof = keymaking.EVIDENCE.encode(keymaking.TwoCommitments(A, promises[0], B, promises[1]))
    verifiers = roster_verifier(group.group)

    def proved(link: HandOver = link, **changes: Any) -> bool:
        opening = group.places[0].opening
        evidence = Evidence(group.group, 0, opening, "pbft", "m1", "dealt two sharings", proof)
        return proves_false_dealing(attrs.evolve(evidence, **changes), link, verifiers)

    assert proved()
    assert proved(epoch=1), "it may be seen when the new epoch has begun"
    assert not proved(epoch=2)
    assert not proved(member="m2")
    once = keymaking.EVIDENCE.encode(keymaking.TwoCommitments(A, promises[0], A, promises[0]))
    assert not proved(proof=once)
    other = Group()
    assert not proved(other.go(wish("cks"), nonce=1)), "another command"


# ------------------------------------------------------------------------------------------------- files


def test_evidence_as_a_file(case: Case) -> None:
    assert Evidence.from_text(case.evidence.to_text()) == case.evidence


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("evidence 1", "evidence 9", "is not known"),
        ('proof = "', 'proof = "!', "not base64"),
        ('group = "', 'group = "zz', "a group's id"),
        ('member = "m1"', "member = 1", "member"),
    ],
)
def test_a_damaged_file_is_refused(old: str, new: str, text: str) -> None:
    evidence = Evidence(bytes(32), 1, bytes(32), "pbft", "m1", "lied", b"proof")
    with pytest.raises(ConfigurationError, match=text):
        Evidence.from_text(evidence.to_text().replace(old, new, 1))


def test_a_store_keeps_each_proof_once_over_restarts_and_only_so_many(tmp_path: Path) -> None:
    group = Group()

    def open_store() -> EvidenceStore:
        return EvidenceStore(tmp_path / "evidence", group.group, "m0", group.place, wall_clock=lambda: 1.5, files_max=3)

    store = open_store()
    assert not (tmp_path / "evidence").exists()
    name = store.keep("m1", "equivocation", b"one")
    assert name is not None
    assert store.keep("m1", "equivocation", b"one") is None
    again = open_store()
    assert again.count == 1
    assert again.keep("m1", "equivocation", b"one") is None
    kept = [again.keep("m2", "equivocation", b"%d" % number) is not None for number in range(5)]
    assert kept == [True, True, False, False, False]
    found = [evidence for _, evidence in read_all(tmp_path / "evidence")]
    assert [(one.member, one.epoch, one.seen_by, one.seen_ms) for one in found] == [
        ("m1", 0, "m0", 1500), ("m2", 0, "m0", 1500), ("m2", 0, "m0", 1500),
    ]  # fmt: skip


def test_a_disk_without_room_costs_the_evidence_and_nothing_else(tmp_path: Path) -> None:
    group = Group()
    (tmp_path / "evidence").write_text("a file where the folder should be")
    store = EvidenceStore(tmp_path / "evidence", group.group, "m0", group.place)
    assert store.keep("m1", "equivocation", b"one") is None


# ------------------------------------------------------------------------------------------------- commands


def test_the_commands_list_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "shop"
    assert main(["init", str(directory), "--members", "4", "--json"]) == 0
    genesis = read_genesis(directory / "genesis.toml")
    place = founding_place(genesis)
    publics = {entry.id: entry.epoch_key for entry in genesis.roster.entries}

    def keyring(member: str) -> Ed25519Keyring:
        key = read_member(directory / member).epochs.signing_key(0)
        return Ed25519Keyring(genesis.group_id, 0, genesis.group_id, member, key, publics)

    store = EvidenceStore(directory / "m0" / "evidence", genesis.group_id, "m0", place)
    assert store.keep("m1", "equivocation", pbft_votes(keyring, setup_of(place, keyring("m0"))))
    assert store.keep("m2", "equivocation", pbft_votes(keyring, setup_of(place, keyring("m0"))))  # it was m1
    capsys.readouterr()

    def run(*words: object) -> tuple[int, list[dict[str, Any]]]:
        code = main([*map(str, words), "--json"])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    code, told = run("evidence", "list", directory / "m0")
    assert (code, [one["member"] for one in told if one["event"] == "evidence"]) == (0, ["m1", "m2"])
    code, told = run("evidence", "verify", directory / "m0", "--client", directory / "client", "--timeout", 0.2)
    assert (code, [one["proved"] for one in told if one["event"] == "evidence"]) == (1, [True, False])
    genuine = next((directory / "m0" / "evidence").glob("0-m1-*.toml"))
    code, told = run("evidence", "verify", genuine, "--client", directory / "client")
    assert (code, told[-1]) == (0, {"event": "result", "count": 1, "proved": 1})
    assert main(["init", str(tmp_path / "other"), "--members", "4", "--json"]) == 0
    code, told = run("evidence", "verify", genuine, "--client", tmp_path / "other" / "client", "--timeout", 0.2)
    assert (code, told[-2]["reason"]) == (1, "it is about another group")
