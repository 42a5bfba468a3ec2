"""The HTTP side of `sawtooth serve`: OpenAI's chat completions, health, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from rl.serving import errors
from rl.serving.reply import ChatReply
from rl.serving.request_limits import CHAT, RequestLimits
from rl.serving.schema import ChatCompletion, ChatRequest, ErrorBody, ModelList
from rl.serving.service import Service

_ERRORS = {
    400: "Invalid request: see the message and `param`",
    401: "Wrong or missing API key",
    403: "The request comes from a page of a site that is not allowed",
    404: "No such model",
    413: "The body is too large",
    429: "The queue is full: see Retry-After",
    502: "The engine failed",
    503: "The server is starting or shutting down",
    504: "Timeout",
}


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": _ERRORS[status]} for status in statuses}


def make_app(service: Service, api_key: str | None = None, origins: Sequence[str] = ()) -> FastAPI:
    """Makes the endpoint over `service`; with a key, all but /health requires it.

    Args:
        origins: sites whose pages may send requests from a browser; "*": any.
    """
    about = "Chat completions by a model that reasons in rounds"
    app = FastAPI(title="Sawtooth", description=about, docs_url=None, redoc_url=None)
    app.add_middleware(
        RequestLimits, api_key=api_key, max_body=service.limits.body, origins=origins, metrics=service.metrics
    )
    if origins:  # outermost: a browser's preflight request carries no key
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    errors.install(app)

    @app.post(CHAT, response_model=ChatCompletion, responses=_responses(*_ERRORS) | _streamed())
    async def chat(request: ChatRequest) -> Any:
        """One answer, or `n`, each after as many rounds as the model takes."""
        ticket = service.enter(request)  # before the work: a request that a full queue rejects costs nothing
        try:
            episodes = await service.episodes(request)
        except BaseException:
            ticket.leave()
            raise
        return ChatReply(service, request, episodes, ticket)

    @app.get("/v1/models", response_model=ModelList, responses=_responses(401))
    async def models() -> Any:
        card = {"id": service.model.name, "object": "model", "created": service.started, "owned_by": "sawtooth"}
        return {"object": "list", "data": [card | {"max_model_len": service.backend.max_model_len}]}

    @app.get("/health", responses={503: {"description": "Starting, shutting down, or the engine does not respond"}})
    async def health() -> JSONResponse:
        """Whether requests are accepted and the engine responds."""
        ready = await service.ready()
        status = service.phase if ready or service.phase != "ready" else "engine_silent"
        return JSONResponse({"status": status}, 200 if ready else 503)

    @app.get("/metrics", response_class=Response, responses=_responses(401) | {200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    _describe(app)
    return app


def _streamed() -> dict[int | str, dict[str, Any]]:
    """Describes each event of a stream."""
    data = {"type": "string", "description": "A chat.completion.chunk or an error, as JSON; the last is [DONE]"}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {200: {"content": {"text/event-stream": {"schema": event}}}}


def _describe(app: FastAPI) -> None:
    """Removes FastAPI's own 422 for wrong bodies from the description: here they are 400."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        return schema

    app.openapi = openapi
