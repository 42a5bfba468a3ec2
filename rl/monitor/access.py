"""Access control of the page: on loopback anyone on this machine, elsewhere anyone with the token."""

from __future__ import annotations

import ipaddress
import re
import secrets
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOST = re.compile(r"\[([^\[\]]+)\](?::\d*)?|([^:\[\]]+)(?::\d*)?")  # for fullmatch: [::1].example.org is not local

_HEADERS = {
    # Plotly needs inline styles; inline scripts and requests to other origins are forbidden.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address is one that only this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a DNS name: its owner may point it at this machine
        return False


def _cookie(request: Request) -> str:
    """Returns a cookie name with the port: cookies ignore ports, and a machine may run two monitors."""
    return f"sawtooth_monitor_{request.scope['server'][1]}"


class Access:
    """Middleware: sets security headers on every response and checks the token or, on loopback, the Host header.

    Without a token the Host must be a loopback one: otherwise a foreign page could point its own name at this machine
    and read the responses (DNS rebinding). The token arrives once as `?token=`, then as a cookie, or as a bearer token.
    """

    def __init__(self, app: ASGIApp, token: str | None = None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = self._refuse(Request(scope)) or self.app
        await answer(scope, receive, _with_headers(send))

    def _refuse(self, request: Request) -> ASGIApp | None:
        if self.token is None:
            host = Headers(scope=request.scope).get("host", "")
            named = _HOST.fullmatch(host)
            if named and is_loopback(named[1] or named[2]):
                return None
            return JSONResponse({"error": f"{host!r:.100} is not a loopback name: open this page at localhost"}, 421)
        given = request.query_params.get("token")
        if given is not None and self._matches(given):
            rest = urlencode([(k, v) for k, v in parse_qsl(request.url.query) if k != "token"])
            path = "/" + request.url.path.lstrip("/")  # a leading `//` would redirect to another host
            answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(_cookie(request), given, httponly=True, samesite="strict", path="/")
            return answer
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._matches(request.cookies.get(_cookie(request), "")) or self._matches(bearer):
            return None
        return JSONResponse({"error": "a token is needed: open the address that `sawtooth monitor` printed"}, 401)

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in _HEADERS.items())]
        await send(message)

    return sent
