"""FAULTS 40 and 41 at a real member's socket: every route of the description, without credentials and from abroad."""

from __future__ import annotations

import httpx

from tests.system.conftest import PATIENCE_SECONDS, MakeGroup, ports


def test_every_route_of_a_real_member_is_closed_to_whoever_has_no_business_there(found: MakeGroup) -> None:
    with ports() as base:
        group = found("--protocol", "coordinator", "--members", 1, "--admin-base-port", base)
        group.start_all()
        tokens = {role: (group.directory / "admin" / f"m0.{role}").read_text().strip() for role in ("read", "operate")}
        url = f"http://127.0.0.1:{base}"
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client:

            def ask(method: str, path: str, role: str | None, **headers: str) -> int:
                if role is not None:
                    headers["Authorization"] = f"Bearer {tokens[role]}"
                answer = client.request(method, path, headers=headers, json={} if method == "POST" else None)
                assert "Traceback" not in answer.text
                return answer.status_code

            assert ask("GET", "/v1/status", "read") == 200
            described = client.get("/v1/openapi.json", headers={"Authorization": f"Bearer {tokens['read']}"}).json()
            routes = [
                (method.upper(), path.replace("{epoch}", "1").replace("{name}", "a" * 64), operation["x-role"])
                for path, methods in described["paths"].items()
                for method, operation in methods.items()
            ]
            assert len(routes) >= 19
            for method, path, role in routes:
                assert ask(method, path, None) == 401, path
                assert ask(method, path, None, Authorization="Bearer " + "a" * 43) == 401, path
                if role == "operate":
                    assert ask(method, path, "read") == 403, path
                assert ask(method, path, "operate", Host="evil.example") == 421, path
                assert ask(method, path, "operate", Origin="http://evil.example") == 403, path
            assert [path for _, path, role in routes if role == "operate"] == ["/v1/commands"]
