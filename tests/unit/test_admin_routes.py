"""The routes: the published description is what they do, and nothing in a name leads anywhere else."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.admin.events import Feed
from bftkit.admin.facade import Facade
from bftkit.admin.metrics import metrics_text
from bftkit.admin.routes import create_app
from bftkit.client.errors import NoAnswer
from bftkit.client.http import Access, ApiRefused, HttpApi
from bftkit.membership.evidence import Evidence
from bftkit.membership.verifiers import founding_place
from bftkit.node.evidence import EvidenceStore
from bftkit.service.keyvalue import put

from .admin_site import check_headers, check_problem, served

PUBLISHED = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"
COMMON = {"401", "403", "413", "421", "500"}
NAMES = [
    "..",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e",
    "0-m1-aaaaaaaaaaaa%00",
    "0-m1-aaaaaaaaaaaa%0a",
    "0-m1-aaaaaaaaaaaa.toml",
    "0-../m1-aaaaaaaaaaaa",
    "<script>",
    "'; drop table",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "a" * 9000,
    "\u202e",
    "null",
    "-1",
    "1e3",
]


async def test_the_published_description_is_the_served_one() -> None:
    """Write it anew with simulations/describe_admin.py."""
    async with served(1, protocol="coordinator") as (_, sites), sites["m0"].client("read") as client:
        told = (await client.get("/v1/openapi.json")).json()
        assert told == json.loads(PUBLISHED.read_text())
        assert told["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}


async def test_every_operation_declares_its_answers_its_token_and_its_role() -> None:
    async with served(1, protocol="coordinator") as (_, sites):
        schema = sites["m0"].schema
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["security"] == [{"token": []}], where
            assert operation["x-role"] in ("read", "operate"), where
            assert set(operation["responses"]) >= COMMON, where
            for code, response in operation["responses"].items():
                if not code.startswith("2"):
                    content = response["content"]["application/json"]["schema"]
                    assert content == {"$ref": "#/components/schemas/Problem"}, (where, code)
    for name in ("CommandBytes", "CommandFile", "WishBody", "WishIn", "Needs", "PolicyTerms"):
        assert schema["components"]["schemas"][name]["additionalProperties"] is False


async def test_nothing_in_a_name_leads_anywhere() -> None:
    """FAULTS 42: paths, ids and parameters."""
    async with served(1, protocol="coordinator") as (_, sites), sites["m0"].client("operate") as client:
        for name in NAMES:
            for path in ("/v1/evidence/", "/v1/commands/", "/v1/history/"):
                answer = await client.get(path + name)
                assert answer.status_code in (404, 405, 422), (path, name)
                check_problem(answer, answer.status_code)
                assert "root:" not in answer.text
                assert "<script" not in json.dumps(answer.headers.multi_items())
            for parameter in ("first", "limit", "after"):
                for path in ("/v1/history", "/v1/events"):
                    answer = await client.get(path, params={parameter: name})
                    assert answer.status_code in (200, 422)
                    check_headers(answer)


async def test_log_lines_hold_no_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS 42: what a caller sends forges no line of the log."""
    async with served(1, protocol="coordinator") as (_, sites), sites["m0"].client("operate") as client:
        with caplog.at_level(logging.DEBUG, "bftkit"):
            for evil in ("x\r\n2026-01-01 ERROR forged", "\x1b[31m", "\x00"):
                await client.post("/v1/commands", json={"file": evil})
                await client.post("/v1/dry-run", json={"wish": {"protocol": evil, "reason": evil}})
                await client.get("/v1/events", params={"after": evil})
        for record in caplog.records:
            assert all(c.isprintable() for c in record.getMessage()), record


async def test_proofs_are_listed_and_read_by_their_own_names_only(tmp_path: Path) -> None:
    async with served(1, protocol="coordinator") as (group, sites):
        site = sites["m0"]
        store = EvidenceStore(tmp_path / "evidence", group.genesis.group_id, "m0", founding_place(group.genesis))
        site.facade.node._blames.store = store  # pyright: ignore[reportPrivateUsage]
        name = store.keep("m1", "equivocation", b"two votes")
        assert name is not None
        whole = (tmp_path / "evidence" / f"{name}.toml").read_text()
        (tmp_path / "evidence" / "0-m2-aaaaaaaaaaaa.toml").write_text(whole)
        async with site.client("read") as client:
            assert (await client.get("/v1/evidence")).json() == {
                "evidence": [{"name": name, "epoch": 0, "member": "m1"}]
            }
            proof = (await client.get(f"/v1/evidence/{name}")).json()
            check_problem(await client.get("/v1/evidence/0-m2-aaaaaaaaaaaa"), 404)
        async with site.api("read") as api:
            assert await api.evidence() == [(name, Evidence.from_text(proof["file"]))]
        evidence = Evidence.from_text(proof["file"])
        assert (evidence.member, evidence.proof, proof["fault"]) == ("m1", b"two votes", "equivocation")


async def test_what_a_member_says_of_itself() -> None:
    async with served(3, protocol="coordinator", checkpoint_interval=2) as (group, sites):
        client = await group.client()
        for number in range(8):
            await client.submit(put(b"%d" % number, b"x"), timeout=60.0)
        await group.in_step(60.0)
        node = group.node("m1")
        # One quorum's answers say neither that its other links are up nor that a checkpoint is stable here.
        await group.until(lambda: node.hub.is_up("m0") and node.hub.is_up("m2") and "m0" in node.heard, 60.0)
        await group.until(lambda: node.replica.checkpoints.stable > 0, 60.0)
        async with sites["m1"].client("read") as asking:
            status = (await asking.get("/v1/status")).json()
            log = (await asking.get("/v1/log")).json()
            metrics = (await asking.get("/v1/metrics")).json()
            members = (await asking.get("/v1/members")).json()
            text = await asking.get("/metrics")
            genesis = (await asking.get("/v1/genesis")).json()
            policy = (await asking.get("/v1/policy")).json()
        assert status["member"] == "m1"
        assert status["applied"] == log["applied"] == metrics["values"]["applied"]
        assert [one["slot"] for one in log["checkpoints"]][-1] == log["stable"] > 0
        assert [one["me"] for one in members["members"]] == [False, True, False]
        assert [one["link"] for one in members["members"]] == [True, False, True]
        assert members["members"][0]["heard_ms"] is not None
        assert members["members"][0]["addresses"] == members["members"][0]["dialled"] == ["memory://m0"]
        assert text.headers["content-type"].startswith("text/plain")
        assert genesis["group"] == group.genesis.group_id.hex()
        assert policy["policy"] is None


async def test_a_group_that_never_changes_says_so() -> None:
    async with served(1, protocol="coordinator") as (group, sites):
        node = sites["m0"].facade.node
        succession, node.replica.succession = node.replica.succession, None
        genesis = attrs.evolve(group.genesis, schedule=None)
        try:
            facade = Facade(node, genesis, Feed())
            create_app(facade, metrics_text)
            assert facade.configuration().epoch == 0
            assert (await facade.history(0, 10)).links == []
            with pytest.raises(Exception, match="never changes"):
                facade.state_of(bytes(32))
        finally:
            node.replica.succession = succession


# ------------------------------------------------------------------------------------------------- the client


@pytest.mark.parametrize("url", ["", "x", "ftp://a", "http://", "http://a/path", "http://a?b", "http://[::1", "//a"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        HttpApi(Access(url, "t"))


def test_nobody_answers_where_nobody_listens() -> None:
    with HttpApi(Access("http://127.0.0.1:1", "t")) as api, pytest.raises(NoAnswer, match="does not answer"):
        api.status()


def test_a_refusal_keeps_its_parts() -> None:
    error = ApiRefused(409, "wrong", "where", "right")
    told: dict[str, Any] = {"code": error.code, "text": str(error)}
    assert told == {"code": 409, "text": "where: wrong; right"}
