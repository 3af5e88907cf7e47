"""Every error as application/problem+json (RFC 9457) with a stable code. Shows no stack, no secret, no other's name."""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from openkcm.governance.errors import STATUS, GovernanceError, LedgerUnavailable

__all__ = ["HANDLERS", "problem", "request_id"]

log = logging.getLogger(__name__)
MEDIA_TYPE: Final = "application/problem+json"
CODES: Final[dict[int, str]] = {
    400: "invalid-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    429: "too-many-requests",
}


def request_id(request: Request[Any, Any, Any]) -> str:
    """Return the request's own id, made at the first call."""
    state = request.scope["state"]
    if "request_id" not in state:
        state["request_id"] = secrets.token_hex(8)
    return str(state["request_id"])


def problem(request: Request[Any, Any, Any], status: int, code: str, detail: str) -> Response[bytes]:
    """Return a problem document."""
    document = {
        "type": f"urn:openkcm:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": request.url.path,
        "requestId": request_id(request),
    }
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id(request)}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="openkcm"'
    if code == "step-up-required":  # RFC 9470
        headers["WWW-Authenticate"] += ', error="insufficient_user_authentication", max_age="0"'
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        headers["Retry-After"] = "1"
    return Response(msgspec.json.encode(document), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _governance(request: Request[Any, Any, Any], error: GovernanceError) -> Response[bytes]:
    if isinstance(error, LedgerUnavailable):
        log.warning("%s: %s", request.url.path, error)
    return problem(request, STATUS[error.code], error.code, str(error))


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    known = status < HTTPStatus.INTERNAL_SERVER_ERROR
    answer = problem(request, status, CODES.get(status, "internal-error"), error.detail if known else "")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:  # RFC 9110 section 15.5.6
        answer.headers["Allow"] = ", ".join(request.app.state.methods(request.url.path))
    return answer


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("%s %s failed (%s)", request.method, request.url.path, request_id(request), exc_info=error)
    return problem(request, 500, "internal-error", "something went wrong here; the log knows it by the request's id")


HANDLERS: Final[dict[Any, Any]] = {GovernanceError: _governance, HTTPException: _http, Exception: _unexpected}
