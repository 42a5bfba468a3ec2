"""Errors in the form of OpenAI's API: {"error": {message, type, param, code}}."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rl.serving.schema import HARMLESS_ONLY

_KIND = re.compile(r"(str|list|constrained-str)\b")  # pydantic names the branches of a union among the fields
_MOST_SAID = 500  # characters: a message may quote a client's long input
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error response to a client.

    Args:
        param: field of the request that is wrong.
        code: OpenAI's short name for it.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message if len(message) <= _MOST_SAID else message[:_MOST_SAID] + " …")
        self.status, self.code, self.retry_after = status, code, retry_after
        self.param = param and param[:_MOST_SAID]

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.code == "invalid_http":  # later bytes on the connection may belong to this request
            headers["Connection"] = "close"
        return Response(to_json(self.body()), self.status, headers, media_type="application/json")


def to_json(content: Any) -> bytes:
    """Encodes as UTF-8. Half a surrogate pair (which a request can contain) becomes a question mark."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def install(app: FastAPI) -> None:
    """Makes `app` return every error in this form, including unexpected ones, whose traceback goes to the log."""

    def api(_: Request, error: ApiError) -> Response:
        return error.response()

    def http(_: Request, error: HTTPException) -> Response:
        """Errors of the framework: unknown path, wrong method, a body that is not JSON."""
        message, code = str(error.detail), "body_too_large" if error.status_code == 413 else None
        if cause := error.__cause__:  # invalid UTF-8, too many brackets, a number with too many digits
            message, code = f"the body is not JSON: {cause}", "invalid_json"
        response = ApiError(error.status_code, message, code=code).response()
        response.headers.update(error.headers or {})
        return response

    def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"][1:] if not _KIND.match(str(part))]
        if first["type"] == "json_invalid":
            return ApiError(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json").response()
        if first["type"] == "extra_forbidden" or (where[:1] and where[0] in HARMLESS_ONLY):
            return unsupported(".".join(where)).response()
        message = f"{'.'.join(where)}: {first['msg']}"
        if where[-1:] == ["content"] and first["type"] != "missing":
            message = f"{'.'.join(where)}: must be a string, or a list of parts of type text"
        elif not where:
            message = "the body must be a JSON object, sent as Content-Type: application/json"
        return ApiError(400, message, param=".".join(where) or None, code="invalid_value").response()

    def unforeseen(_: Request, error: Exception) -> Response:
        return ApiError(500, f"internal error: {type(error).__name__}").response()

    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unforeseen)


def unsupported(field: str) -> ApiError:
    return ApiError(400, f"{field} is not supported by this server", param=field, code="unsupported_parameter")
