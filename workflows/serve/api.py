"""Everything but decisions: the Open Inference Protocol, health, the contract, and the description of all of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from workflows.serve import openapi, page, protocol
from workflows.serve.contract import BadApplication
from workflows.serve.decide import Undecidable
from workflows.serve.front import DECISIONS, Refused, State, internal_error, trace_in
from workflows.serve.log import NotKept
from workflows.serve.openapi import READY, WITH_ERROR, refusals
from workflows.serve.protocol import Inference
from workflows.serve.service import Service

VERSION = "1"
MODEL = "/v2/models/{name}"
VERSIONED = f"{MODEL}/versions/{{version}}"
UNREADY: dict[int | str, dict[str, Any]] = {503: {"description": "No decision is taken; `why` says what is the matter"}}
TENSORS = (
    "Each row of the tensors is an application: `subject` (BYTES), and `features` of shape [rows, features] or a tensor a feature. "
    "`group:ATTRIBUTE` (BYTES, null where a row states none) is what `groups` is in an application; it may be left out unless the "
    "decision rule needs it."
)
INFER = (f"{MODEL}/infer", f"{VERSIONED}/infer")


def make(state: State) -> FastAPI:
    """The framework's application. Decisions are described here and answered by `front`."""
    app = FastAPI(
        title="Countersign model server",
        version=VERSION,
        description="Decisions with reasons, each in a log that can be verified.",
        docs_url=None,  # the framework's own pages load their scripts from elsewhere
        redoc_url=None,
        # The framework's own telemetry tells of queries and exceptions, which may quote an application.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _describe(app, state)
    _refusals(app)
    _health(app, state)
    _models(app, state)

    @app.get("/v1/contract", summary="What may be asked, with units and bounds", responses=refusals("503"))
    async def contract() -> dict[str, Any]:
        return dict(_service(state).report)

    return app


def _service(state: State) -> Service:
    if state.service is None:
        raise Refused(503, "not ready", "; ".join(state.problems), retry=1)
    return state.service


def _describe(app: FastAPI, state: State) -> None:
    """The framework's own description, with decisions as the contract has them; made anew, as models are loaded later."""
    own = app.openapi

    # Made once for what is served: each takes as long as many decisions.
    @lru_cache(maxsize=1)
    def described(service: Service | None) -> dict[str, Any]:
        app.openapi_schema = None
        contract = service.contract if service else None
        schema = own()
        schema["paths"] = {DECISIONS: openapi.decisions(contract), **schema["paths"]}
        release = service.release if service else None
        served = {"name": release.pipeline, "version": str(release.sequence)} if release else openapi.SERVED
        openapi.complete(schema, contract, INFER, served)
        return schema

    @lru_cache(maxsize=1)
    def shown(service: Service | None) -> str:
        return page.render(described(service))

    app.openapi = lambda: described(state.service)  # type: ignore[method-assign]  # as FastAPI's own documentation does it

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(shown(state.service))


def _refusals(app: FastAPI) -> None:
    def problem(request: Request, refused: Refused) -> Response:
        headers = {"retry-after": str(refused.retry)} if refused.retry is not None else None
        return Response(refused.body(request.scope["path"]), refused.status, headers, "application/problem+json")

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return problem(request, error)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return problem(request, Refused(error.status_code, str(error.detail), "GET /docs lists what there is"))

    @app.exception_handler(Exception)
    async def failed(request: Request, _error: Exception) -> Response:
        return problem(request, internal_error())

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [
            {"where": ".".join(map(str, e["loc"]))[:200], "what": e["msg"], "expected": "", "got": ""} for e in error.errors()[:100]
        ]
        return problem(request, Refused(422, "not a request of this protocol", "see problems", problems=problems))


def _health(app: FastAPI, state: State) -> None:
    @app.get("/v2/health/live", summary="The process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Decisions are taken; else why not", responses=UNREADY)
    async def ready() -> JSONResponse:
        why = state.problems
        return JSONResponse({"ready": not why, **({"why": why} if why else {})}, 503 if why else 200)

    @app.get("/v2", summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "countersign", "version": VERSION, "extensions": []}


def _models(app: FastAPI, state: State) -> None:
    def known(name: str, version: str | None) -> Service:
        service = _service(state)
        if name != service.release.pipeline or version not in {None, str(service.release.sequence)}:
            raise Refused(404, "no such model", f"{service.release.pipeline}, version {service.release.sequence}")
        return service

    known_ones = refusals("404", "422", "503", schema=WITH_ERROR)
    asked_ones = refusals("400", "404", "408", "413", "415", "422", "500", "503", schema=WITH_ERROR)

    # A model that is loaded and decides nothing just now is no problem of the request: its 503 is an answer of this protocol.
    said = {"application/json": {"schema": READY}}
    ready_ones = known_ones | {
        "200": {"description": "It decides", "content": said},
        "503": {"description": "It does not, just now", "content": known_ones["503"]["content"] | said},
    }

    @app.get(MODEL, summary="Tensors of a model", responses=known_ones)
    @app.get(VERSIONED, summary="Tensors of a model", responses=known_ones)
    async def model(name: str, version: str | None = None) -> dict[str, Any]:
        service = known(name, version)
        return protocol.metadata(name, [str(service.release.sequence)], service.contract)

    @app.get(f"{MODEL}/ready", summary="A model decides", responses=ready_ones)
    @app.get(f"{VERSIONED}/ready", summary="A model decides", responses=ready_ones)
    async def ready(name: str, version: str | None = None) -> JSONResponse:
        known(name, version)
        why = state.problems
        return JSONResponse({"name": name, "ready": not why}, 503 if why else 200)

    @app.post(INFER[0], summary="Decide on a row of tensors each", description=TENSORS, responses=asked_ones)
    @app.post(INFER[1], summary="Decide on a row of tensors each", description=TENSORS, responses=asked_ones)
    async def infer(request: Request, name: str, asked: Inference, version: str | None = None) -> JSONResponse:
        service = known(name, version)
        answers = await _decided(service, asked, trace_in(request.scope["headers"]))
        return JSONResponse(protocol.answered(asked, name, str(service.release.sequence), answers))


async def _decided(service: Service, asked: Inference, trace: str | None) -> list[Any]:
    """All rows, or none."""
    try:
        return await service.decide_all(protocol.applications(asked, service.contract), trace)
    except BadApplication as error:
        service.metrics.problems.labels(error.problems[0].what).inc()
        raise Refused(422, "the request cannot be decided", "see problems", problems=[p.to_json() for p in error.problems]) from None
    except NotKept:
        raise Refused(503, "not decided", "the decision log cannot be written; nothing was decided", retry=1) from None
    except Undecidable as error:
        raise Refused(500, "no decision", str(error)) from None
