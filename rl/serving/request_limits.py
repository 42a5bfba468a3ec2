"""Middleware before the routes: checks the key and the size of a body, and counts chat requests."""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rl.serving.connection import MOST_HEADERS
from rl.serving.errors import ApiError
from rl.serving.metrics import Metrics

CHAT = "/v1/chat/completions"
_OPEN = ("/health",)  # a load balancer has no key


class RequestLimits:
    """ASGI middleware that refuses requests before the routes see them.

    Args:
        api_key: the key that requests must carry as `Authorization: Bearer …`; None: no key.
        max_body: most bytes of a request's body.
        origins: sites whose pages may send requests; "*": any. With a key, the origin is not checked.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, max_body: int, origins: Sequence[str], metrics: Metrics):
        self._app, self._max_body, self._origins, self._metrics = app, max_body, set(origins), metrics
        self._wanted = f"Bearer {api_key}".encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        since = time.perf_counter()
        status = 0

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal.response()(scope, receive, seen)
            else:
                await self._app(scope, self._counted(receive), seen)
        finally:
            if scope["path"] == CHAT and scope["method"] == "POST":
                self._metrics.request(str(scope.get("sawtooth.status", status or 500)), time.perf_counter() - since)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:  # h11 bounds incomplete ones
            return ApiError(431, f"the headers have more than {MOST_HEADERS} bytes", code="headers_too_large")
        headers = dict(scope["headers"])
        if self._wanted and scope["path"] not in _OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):  # constant time for keys of its length
                return ApiError(401, "wrong or missing API key", code="invalid_api_key")
        origin = headers.get(b"origin", b"").decode("latin-1")  # a page's browser may reach what its site can't
        if origin and not self._wanted and scope["method"] == "POST" and not {"*", origin} & self._origins:
            return ApiError(
                403,
                f"requests from pages of {origin} are not allowed: add it to --allowed-origins",
                code="origin_not_allowed",
            )
        if {b"content-length", b"transfer-encoding"} <= headers.keys():  # proxies disagree on which counts
            return ApiError(400, "a body has a Content-Length or a Transfer-Encoding, not both", code="invalid_http")
        length = headers.get(b"content-length", b"0")
        return self._too_large() if length.isdigit() and int(length) > self._max_body else None

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._max_body} bytes", code="body_too_large")

    def _counted(self, receive: Receive) -> Receive:
        """Counts bytes as they come, for a body without a Content-Length."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:  # FastAPI passes only HTTPException through while it reads a body
                raise HTTPException(413, str(self._too_large()))
            return message

        return counted
