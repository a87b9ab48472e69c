"""Operators' commands through the HTTP interface: any member takes one, none can forge, alter or swallow one."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import attrs
import httpx
import pytest
import trio

from bftkit.channel.client import CommandState
from bftkit.client import http_group
from bftkit.client.errors import ClientError, NoAnswer, TooFewAgreed
from bftkit.client.http import Access, ApiRefused, AsyncHttpApi, HttpApi
from bftkit.client.http_group import ApiConnection
from bftkit.client.local import LocalGroup
from bftkit.crypto.keys import SigningKey
from bftkit.membership.command_files import command_to_text
from bftkit.membership.commands import FORCED, PLANNED, POLICY, Command, SignedCommand, sign_command
from bftkit.membership.genesis import Genesis
from bftkit.membership.wishes import cancelling

from .admin_site import Site, as_body, check_problem, served

TIMEOUT = 60.0


async def _done(group: LocalGroup, site: Site, signed: SignedCommand) -> dict[str, Any]:
    """What this member says of a command once it knows that it was carried out."""
    await group.until(lambda: site.facade.state_of(signed.name).state == "done", TIMEOUT)
    async with site.client("read") as client:
        told: dict[str, Any] = (await client.get(f"/v1/commands/{signed.name.hex()}")).json()
    assert told["state"] == "done"
    return told


async def test_any_member_takes_a_command_and_the_same_twice_is_one() -> None:
    """FAULTS 43: replayed while it is under way, and when it is done, at the same member and at others."""
    async with served(3, protocol="coordinator", checkpoint_interval=2) as (group, sites):
        signed = group.command(group.change("paxos"))
        async with sites["m2"].client("operate") as client:
            first = await client.post("/v1/commands", json=as_body(signed))
            again = await client.post("/v1/commands", json={"file": command_to_text(signed)})
        assert (first.status_code, first.json()["name"]) == (202, signed.name.hex())
        assert again.status_code in (200, 202)
        told = await _done(group, sites["m2"], signed)
        assert told["text"] == "epoch 1"
        for member in ("m0", "m1", "m2"):
            await _done(group, sites[member], signed)
            async with sites[member].client("operate") as client:
                answer = await client.post("/v1/commands", json=as_body(signed))
                assert (answer.status_code, answer.json()["state"]) == (200, "done")
                link = (await client.get("/v1/history/1")).json()
                assert link["verified"]
                assert link["command"] == signed.name.hex()
                assert (await client.get("/v1/history")).json()["links"][0].items() <= link.items()
                assert (await client.get("/v1/configuration")).json()["epoch"] == 1
        async with sites["m0"].api() as api:
            links = await api.history(group.genesis)
            assert [one.next.protocol for one in links] == ["paxos"]
            assert await api.history(group.genesis, links) == links
        await _old_epochs(group, sites["m1"])


async def _old_epochs(group: LocalGroup, site: Site) -> None:
    """FAULTS 43: a command of an epoch that is over means nothing any more."""
    change = group.change("coordinator")
    for epoch in (0, 2, 1 << 40):
        command = Command(group.genesis.group_id, epoch, PLANNED, 0, False, change, secrets.token_bytes(16))
        async with site.client("operate") as client:
            answer = await client.post("/v1/commands", json=as_body(sign_command(command, group.operator)))
            assert f"for epoch {epoch}; this is epoch 1" in check_problem(answer, 409)["error"]
    assert group.configuration.epoch == 1


def _stranger(group: LocalGroup) -> SignedCommand:
    return sign_command(group.command(group.change("paxos")).command, SigningKey(secrets.token_bytes(32)))


def _unsigned(group: LocalGroup) -> SignedCommand:
    return SignedCommand(group.command(group.change("paxos")).body, ())


def _altered(group: LocalGroup) -> SignedCommand:
    good, other = group.command(group.change("paxos")), group.command(group.change("coordinator"))
    return SignedCommand(other.body, good.signatures)


def _other_signature(group: LocalGroup) -> SignedCommand:
    good = group.command(group.change("paxos"))
    (one,) = good.signatures
    flipped = bytes((one.signature[0] ^ 1,)) + one.signature[1:]
    return SignedCommand(good.body, (attrs.evolve(one, signature=flipped),))


def _foreign(group: LocalGroup) -> SignedCommand:
    command = attrs.evolve(group.command(group.change("paxos")).command, group=bytes(32))
    return sign_command(command, group.operator)


def _by_policy(group: LocalGroup) -> SignedCommand:
    command = attrs.evolve(group.command(group.change("paxos")).command, kind=POLICY)
    return sign_command(command, group.operator)


def _impossible(group: LocalGroup) -> SignedCommand:
    return group.command(attrs.evolve(group.change("paxos"), f=1, coin=True))


def _forced_without_need(group: LocalGroup) -> SignedCommand:
    return group.command(attrs.evolve(group.change("paxos"), c=0), kind=FORCED)


BAD: list[Callable[[LocalGroup], SignedCommand]] = [
    _stranger,
    _unsigned,
    _altered,
    _other_signature,
    _foreign,
    _by_policy,
    _impossible,
    _forced_without_need,
]


async def test_no_member_forges_or_alters_a_command() -> None:
    """FAULTS 44: each is refused with its reason, and nothing happens."""
    async with served(3, protocol="coordinator", checkpoint_interval=2) as (group, sites):
        reasons: set[str] = set()
        for make in BAD:
            signed = make(group)
            async with sites["m0"].client("operate") as client:
                told = check_problem(await client.post("/v1/commands", json=as_body(signed)), 409)
                state = (await client.get(f"/v1/commands/{signed.name.hex()}")).json()
                assert (state["state"], state["text"]) == ("refused", told["error"])
            reasons.add(told["error"])
        assert len(reasons) >= 7
        async with sites["m0"].client("operate") as client:
            assert (await client.get("/v1/configuration")).json()["pending"] is None
        assert group.configuration.epoch == 0


NO_COMMANDS: list[Any] = [
    {},
    [],
    {"command": ""},
    {"command": "AAAA"},
    {"command": "!!"},
    {"command": 1},
    {"command": "AAAA", "file": "x"},
    {"file": ""},
    {"file": "group = 1"},
    {"command": None},
    {"command": base64.b64encode(bytes(1 << 16)).decode()},
]
NO_JSON = [b"", b"{", b"[" * 100_000, b'{"file": "\\ud800\\u0000"}', b"\xff", b'{"file": ' + b"9" * 5000 + b"}", b"nan"]


async def test_what_is_no_command_is_told_so() -> None:
    async with served(1, protocol="coordinator") as (_, sites), sites["m0"].client("operate") as client:
        for path in ("/v1/commands", "/v1/dry-run"):
            for body in NO_COMMANDS:
                check_problem(await client.post(path, json=body), 422)
            for raw in NO_JSON:
                answer = await client.post(path, content=raw, headers={"Content-Type": "application/json"})
                assert check_problem(answer, answer.status_code)
                assert answer.status_code in (400, 422), raw[:20]


async def _states(connection: ApiConnection, signed: SignedCommand, timeout: float = TIMEOUT) -> list[CommandState]:
    return [state async for state in connection.order(signed, timeout=timeout)]


class Swallows:
    """A member that hears no operator."""

    def incoming(self, sender: str, frame: bytes) -> bytes | None:
        return frame

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        return None

    def outgoing(self, replica: Any, out: Any) -> Any:
        return out

    def postponed(self) -> list[tuple[int, tuple[str, ...], bytes]]:
        return []

    def status(self) -> dict[str, Any]:
        return {}


async def test_a_member_that_swallows_a_command_is_passed_by() -> None:
    """FAULTS 44: alone it keeps the command from having any effect; with another member beside it, it keeps nothing."""
    async with served(3, protocol="coordinator", checkpoint_interval=2) as (group, sites):
        group.node("m1").corrupt(Swallows())
        signed = group.command(group.change("paxos"))
        async with sites["m1"].api() as alone:
            connection = ApiConnection([alone], group.genesis)
            with pytest.raises(TooFewAgreed, match="not carried out"):
                await _states(connection, signed, 0.5)
        assert group.configuration.epoch == 0
        async with sites["m1"].api() as swallows, sites["m2"].api() as takes:
            connection = ApiConnection([swallows, takes], group.genesis)
            states = await _states(connection, signed)
        assert states[-1].final
        assert states[-1].text == "epoch 1"
        assert connection.configuration.protocol == "paxos"


async def test_a_member_whose_genesis_is_none_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 44: the next one is asked, and who asks that member alone is told."""

    async def rubbish(*_: object) -> dict[str, Any]:
        return {"text": "[group"}

    async with (
        served(3, protocol="coordinator") as (group, sites),
        sites["m1"].api() as wrong,
        sites["m2"].api() as right,
    ):
        monkeypatch.setattr(wrong, "get", rubbish)
        assert await http_group.first_genesis([wrong, right]) == group.genesis
        with pytest.raises(ClientError, match="shows a genesis that is none"):
            await http_group.first_genesis([wrong])


async def test_a_member_that_answers_without_end_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 44: whoever never ends an answer is passed by like one that gives none, whatever it is asked."""
    monkeypatch.setattr(http_group, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(http_group, "TIMEOUT_SECONDS", 0.5)

    async def trickle(*_: object) -> Any:
        await trio.sleep_forever()

    endless = cast(
        "AsyncHttpApi",
        SimpleNamespace(
            access=Access("http://m1", "token"), submit=trickle, command=trickle, history=trickle, genesis=trickle
        ),
    )
    async with served(3, protocol="coordinator", checkpoint_interval=2) as (group, sites), sites["m2"].api() as takes:
        connection = ApiConnection([endless, takes], group.genesis)
        assert await connection.history(timeout=0.5) == ()
        signed = group.command(group.change("paxos"))
        with trio.fail_after(TIMEOUT):
            states = await _states(connection, signed)
            assert await http_group.first_genesis([endless, takes]) == group.genesis
        assert states[-1].text == "epoch 1"
        with trio.fail_after(TIMEOUT), pytest.raises(NoAnswer, match=r"http://m1 does not answer within 0\.5 s"):
            await _states(ApiConnection([endless], group.genesis), signed, 0.2)


async def test_a_refusal_is_final_when_all_that_answer_refuse() -> None:
    async with (
        served(3, protocol="coordinator") as (group, sites),
        sites["m0"].api() as one,
        sites["m1"].api() as other,
    ):
        connection = ApiConnection([one, other], group.genesis)
        states = await _states(connection, _stranger(group))
        assert "no operator" in states[-1].text
        assert states[-1].final
        statuses = await connection.status(timeout=TIMEOUT)
        assert sorted(statuses) == ["m0", "m1"]


async def test_a_member_that_refuses_or_talks_without_end_does_not_hide_the_others() -> None:
    refused, endless = ApiRefused(500, "no", "", ""), ClientError("an answer without end")

    def api(name: str, *said: ClientError) -> AsyncHttpApi:
        async def status() -> dict[str, Any]:
            for error in said:
                raise error
            return {"member": name}

        return cast("AsyncHttpApi", SimpleNamespace(access=Access(f"http://{name}", "token"), status=status))

    genesis = cast("Genesis", None)
    connection = ApiConnection([api("m0", refused), api("m1"), api("m2", endless)], genesis)
    found = await connection.status(timeout=TIMEOUT)
    assert sorted(found) == ["m1"]
    assert connection.asked(found) == ("m1", "http://m0", "http://m2")
    with pytest.raises(ApiRefused):
        await ApiConnection([api("m0", refused), api("m2", endless)], genesis).status(timeout=TIMEOUT)
    connection = ApiConnection([api("m2", endless)], genesis)
    assert await connection.status(timeout=TIMEOUT) == {}
    assert "an answer without end" in str(connection.unanswered())


def test_an_answer_that_cannot_be_decoded_is_none() -> None:
    """A liar may say that its answer is compressed."""

    def garbage(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))

    client = httpx.Client(base_url="http://m0", transport=httpx.MockTransport(garbage))
    with HttpApi(Access("http://m0", "token"), client=client) as api, pytest.raises(NoAnswer, match="does not answer"):
        api.status()


async def test_a_history_that_does_not_hold_is_not_believed() -> None:
    async with served(1, protocol="coordinator", checkpoint_interval=2) as (group, sites):
        await group.switch("paxos", timeout=TIMEOUT)
        links = sites["m0"].facade.node.replica.succession_part.links
        forged = attrs.evolve(links[0].certificate, votes=())
        links[0] = attrs.evolve(links[0], certificate=forged)
        async with sites["m0"].api() as api:
            with pytest.raises(ClientError, match="does not hold"):
                await api.history(group.genesis)
            connection = ApiConnection([api], group.genesis)
            for times in ("a hand-over that does not hold: ", "2 hand-overs that do not hold, the last: "):
                with pytest.raises(TooFewAgreed, match=f"no member shows a history that holds; .* showed {times}"):
                    await connection.history()
            assert len(connection.refused_links) == 1
            with pytest.raises(TooFewAgreed, match=r"is not carried out yet; .* showed"):
                await _states(connection, group.command(group.change("coordinator")), 0.2)
        async with sites["m0"].client("read") as client:
            assert not (await client.get("/v1/history")).json()["links"][0]["verified"]


# ------------------------------------------------------------------------------------------------- dry runs


async def test_a_dry_run_says_what_would_be_and_does_nothing() -> None:
    async with served(4, protocol="pbft") as (group, sites), sites["m0"].client("read") as client:
        wish = {"protocol": "paxos", "qos": {"byzantine": 0, "crash": 1}, "reason": "quiet nights"}
        told = (await client.post("/v1/dry-run", json={"wish": wish})).json()
        assert told["quorum_before"] == {"n": 4, "byzantine": 1, "crash": 0, "certificate": 3, "available": 3}
        assert told["quorum_after"] == {"n": 4, "byzantine": 0, "crash": 1, "certificate": 3, "available": 3}
        assert {"what": "protocol", "before": "pbft", "after": "paxos"} in told["rows"]
        assert any("not protected against members that lie" in one for one in told["warnings"])
        assert any("pauses" in one for one in told["meanwhile"])
        assert told["signatures"] is None
        unsigned = SignedCommand(group.command(group.change("cks")).body, ())
        told = (await client.post("/v1/dry-run", json=as_body(unsigned))).json()
        assert told["signatures"] == {
            "signed_by": [],
            "needed": 1,
            "good": False,
            "text": "0 operators signed, and 1 must",
        }
        signed = unsigned.signed_by(group.operator)
        told = (await client.post("/v1/dry-run", json={"file": command_to_text(signed)})).json()
        assert told["signatures"]["good"]
        cancel = sign_command(cancelling(group.configuration, group=group.genesis.group_id, nonce=bytes(16)))
        told = (await client.post("/v1/dry-run", json=as_body(cancel))).json()
        assert (told["kind"], told["quorum_after"]) == ("cancel", told["quorum_before"])
        state = (await client.get(f"/v1/commands/{signed.name.hex()}")).json()
        assert state["state"] == "unknown"
        assert (await client.get("/v1/configuration")).json()["pending"] is None


WISHES: list[tuple[dict[str, Any], int, str]] = [
    ({"byzantine": 2}, 409, "need 7 members"),
    ({"protocol": "nothing"}, 409, "nothing"),
    ({"protocol": "../../etc/passwd"}, 422, "pattern"),
    ({"protocol": "pbft", "settings": {"view_timeout": 0}}, 409, "view_timeout"),
    ({"settings": {"no_such": 1}}, 409, "no_such"),
    ({"remove": ["m9"]}, 409, "no member"),
    ({"remove": ["m0", "m1"]}, 409, "need 4 members"),
    ({"operator_threshold": 9}, 409, "9 operators"),
    ({"add": ["not a card"]}, 422, "TOML"),
    ({"addresses": {"m0": ["nowhere://x"]}}, 409, "nowhere"),
    ({"forced": True, "qos": {}}, 409, "forced"),
    ({"settings": {"window": 1 << 61}}, 409, "window"),
    ({"at": -1}, 422, "greater"),
    ({"at": True}, 422, "integer"),
    ({"unheard": 1}, 422, "xtra"),
    ({"reason": "x" * 501}, 422, "500"),
]


async def test_a_dry_run_refuses_what_the_members_would() -> None:
    async with served(4, protocol="pbft") as (_, sites), sites["m0"].client("read") as client:
        for wish, code, wrong in WISHES:
            answer = await client.post("/v1/dry-run", json={"wish": wish})
            told = check_problem(answer, code)
            assert wrong in told["error"] + told["right"], told
            if code == 422 and "add" not in wish:
                assert told["where"].startswith("body.wish."), told


async def test_a_dry_run_says_which_needs_are_not_met() -> None:
    async with served(4, protocol="pbft") as (_, sites), sites["m0"].client("read") as client:
        for qos, wrong in (({"order": "fifo"}, "order"), ({"network": "asynchronous"}, "network"), ({}, "")):
            told = (await client.post("/v1/dry-run", json={"wish": {"qos": qos}})).json()
            found = [one for one in told["warnings"] if "needs are not met" in one]
            assert len(found) == (1 if wrong else 0), told
            assert all(wrong in one for one in found)
        explained = (await client.get("/v1/qos")).json()["explanation"]
        assert any(one.startswith("pbft on 4 members") for one in explained)
