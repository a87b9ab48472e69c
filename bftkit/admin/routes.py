"""The routes of the HTTP interface, and their published description.

All of it is under ``/v1/``, but for ``/metrics``, whose place monitoring expects. Every route needs a token: there is
no page and no probe without one. All routes are coroutines in the node's own loop; nothing runs in a pool of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, cast

from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import StringConstraints
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bftkit.admin import dry_run
from bftkit.admin.events import EventStream
from bftkit.admin.facade import Facade, read_command
from bftkit.admin.guard import role_for
from bftkit.admin.models import (
    CommandBody,
    CommandBytes,
    CommandFile,
    CommandIn,
    DryRunBody,
    DryRunIn,
    EventsBody,
    EvidenceList,
    FullLink,
    GenesisBody,
    History,
    LogBody,
    MembersBody,
    MetricsBody,
    PolicyBody,
    PresentConfiguration,
    Problem,
    Proof,
    QosBody,
    Status,
    WishBody,
)
from bftkit.admin.refusals import BUG, Refused
from bftkit.membership.commands import SignedCommand

MetricsText = Callable[[Facade, str], tuple[bytes, str]]
"""All metrics of a member, for a caller that accepts this; with their content type."""

_COMMON: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "No token of this member was shown."},
    403: {"model": Problem, "description": "The token's role is too small, or a foreign web page asked."},
    413: {"model": Problem, "description": "The body is too large."},
    421: {"model": Problem, "description": "The Host header names somebody else."},
    500: {"model": Problem, "description": "A bug in this member."},
}
_POST: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "The body was cut off."},
    408: {"model": Problem, "description": "The body did not come in time."},
    409: {"model": Problem, "description": "The members would refuse it, for this reason."},
    415: {"model": Problem, "description": "The body is not JSON."},
    422: {"model": Problem, "description": "The request is not of the right form."},
}
_FORM: Final[dict[int | str, dict[str, Any]]] = {422: _POST[422]}
_MISSING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Problem, "description": "There is no such thing here."},
    **_FORM,
}

EventId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,16}-[0-9]{1,6}$")]
ProofName = Annotated[str, Path(pattern=r"^[0-9]{1,20}-[a-z0-9][a-z0-9_.-]{0,31}-[0-9a-f]{12}$", max_length=72)]
CommandName = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The command's name.")]
EpochNumber = Annotated[int, Path(ge=1, lt=1 << 53)]


def create_app(facade: Facade, metrics_text: MetricsText) -> FastAPI:
    """The application, without its guard."""
    app = FastAPI(
        title="bftkit member",
        version="1",
        description="One member of a bftkit group. Every request needs `Authorization: Bearer TOKEN`; x-role says "
        "which role. What a member says of itself it may lie about; hand-overs and proofs can be verified.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses=_COMMON,
    )
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    _add_asking(app, facade)
    _add_records(app, facade)
    _add_commands(app, facade)

    text = {"schema": {"type": "string"}}
    forms = {"text/plain": text, "application/openmetrics-text": text}

    @app.get("/metrics", response_class=Response, responses={200: {"content": forms}})
    async def prometheus(request: Request) -> Response:
        """All metrics, as Prometheus reads them."""
        told, kind = metrics_text(facade, request.headers.get("accept", ""))
        return Response(told, headers={"content-type": kind})

    @app.get("/v1/openapi.json", response_class=JSONResponse)
    async def openapi() -> dict[str, Any]:
        """This description."""
        return describe(app)

    return app


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the tokens and roles that the guard asks for."""
    if app.openapi_schema is None:
        schema = app.openapi()
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["components"]["schemas"].pop("HTTPValidationError", None)
        schema["components"]["schemas"].pop("ValidationError", None)
        for path, methods in schema["paths"].items():
            for method, operation in methods.items():
                operation["security"] = [{"token": []}]
                operation["x-role"] = role_for(method.upper(), path)
        app.openapi_schema = schema
    return app.openapi_schema


def _add_asking(app: FastAPI, facade: Facade) -> None:
    @app.get("/v1/status")
    async def status() -> Status:
        """How this member is."""
        return facade.status()

    @app.get("/v1/configuration")
    async def configuration() -> PresentConfiguration:
        """What is in force now, and the change that is under way."""
        return facade.configuration()

    @app.get("/v1/genesis")
    async def genesis() -> GenesisBody:
        """The group's genesis."""
        return facade.genesis_body()

    @app.get("/v1/members")
    async def members() -> MembersBody:
        """The members of the present epoch."""
        return facade.members()

    @app.get("/v1/metrics")
    async def metrics() -> MetricsBody:
        """All numbers of this member at this moment."""
        return facade.metrics()

    @app.get("/v1/log")
    async def log() -> LogBody:
        """The log and the checkpoints."""
        return facade.log()

    @app.get("/v1/qos")
    async def qos() -> QosBody:
        """What is needed of the group, and how that is met."""
        return facade.qos()

    @app.get("/v1/policy")
    async def policy() -> PolicyBody:
        """By what the group changes itself, and what it sees now."""
        return facade.policy()


def _add_records(app: FastAPI, facade: Facade) -> None:
    @app.get("/v1/history", responses=_FORM)
    async def history(
        first: Annotated[int, Query(ge=0, lt=1 << 53, description="From this epoch on.")] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
    ) -> History:
        """The chain of hand-overs: how each epoch began."""
        return await facade.history(first, limit)

    @app.get("/v1/history/{epoch}", responses=_MISSING, operation_id="handover")
    async def handover(epoch: EpochNumber) -> FullLink:
        """The hand-over that began this epoch, with its bytes."""
        return await facade.handover(epoch)

    @app.get("/v1/evidence")
    async def evidence() -> EvidenceList:
        """The proofs of lies that this member keeps."""
        return facade.evidence()

    @app.get("/v1/evidence/{name}", responses=_MISSING, operation_id="proof")
    async def proof(name: ProofName) -> Proof:
        """One proof."""
        return await facade.proof(name)

    @app.get("/v1/events", responses=_FORM)
    async def events(
        after: Annotated[EventId | None, Query(description="Only what came after the event with this id.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> EventsBody:
        """What happened, the oldest first."""
        return facade.events(after, limit)

    @app.get(
        "/v1/events/stream",
        response_class=Response,
        responses={
            200: {
                "content": {"text/event-stream": {}},
                "description": "Events as they happen; it ends with the member.",
            },
            **_FORM,
            503: {"model": Problem, "description": "There are too many streams."},
        },
    )
    async def stream(
        after: Annotated[EventId | None, Query(description="Begin after the event with this id.")] = None,
        last_event_id: Annotated[EventId | None, Header(description="The same, as browsers say it.")] = None,
    ) -> Response:
        """Events as they happen, from now on, or from after an event that is known."""
        last = last_event_id if last_event_id is not None else after
        number = facade.feed.place_of(last) if last is not None else facade.feed.newest
        return EventStream(facade.feed, number)


def _add_commands(app: FastAPI, facade: Facade) -> None:
    @app.post(
        "/v1/commands",
        status_code=202,
        responses={200: {"model": CommandBody, "description": "This member knew the command already."}, **_POST},
        openapi_extra={"responses": {code: {"links": _LINKS} for code in ("200", "202")}},
    )
    async def commands(body: CommandIn, response: Response) -> CommandBody:
        """Hand in a command that operators signed. Any member takes it; the same command twice is one command."""
        response.status_code, told = await facade.take(_signed(body))
        return told

    @app.get("/v1/commands/{name}", responses={409: _POST[409], **_FORM}, operation_id="command")
    async def command(name: CommandName) -> CommandBody:
        """What this member knows of a command."""
        return facade.state_of(bytes.fromhex(name))

    @app.post("/v1/dry-run", responses=_POST)
    async def try_out(body: DryRunIn) -> DryRunBody:
        """What a wish or a command would do. Nothing is signed, and nothing is handed in."""
        if isinstance(body, (CommandBytes, CommandFile)):
            return dry_run.of_command(facade, _signed(body))
        return dry_run.of_wish(facade, body.wish.to_wish(facade.group))


_KINDS: Final = frozenset(kind.__name__ for kind in (CommandBytes, CommandFile, WishBody))
_LINKS: Final = {"state": {"operationId": "command", "parameters": {"name": "$response.body#/name"}}}


def _signed(body: CommandIn) -> SignedCommand:
    return read_command(command=body.command) if isinstance(body, CommandBytes) else read_command(file=body.file)


# ------------------------------------------------------------------------------------------------- saying no


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return Response(error.body(), error.code, dict(_text(error.headers)), "application/json")


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Of a body that may be one of several, the kind that it came nearest to is the one that was meant.
    first = max(cast("list[dict[str, Any]]", error.errors()), key=lambda one: len(one.get("loc", ())))
    where = ".".join(str(part) for part in first.get("loc", ()) if str(part) not in _KINDS)[:200]
    refused = Refused(422, "the request is not of the right form", where, str(first.get("msg", ""))[:200])
    return await _on_refused(request, refused)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is no such thing here", 405: "that cannot be done here"}.get(error.status_code, "refused")
    answer = await _on_refused(request, Refused(error.status_code, words, "", "see /v1/openapi.json"))
    answer.headers.update(dict(error.headers or {}))
    return answer


async def _on_bug(request: Request, error: Exception) -> Response:
    return await _on_refused(request, BUG)  # it is raised once more after that, and logged by the guard


def _text(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


__all__ = ["MetricsText", "create_app", "describe"]
