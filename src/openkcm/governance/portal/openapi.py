"""OpenAPI 3.1, made from the table of operations and the API's shapes. Says nothing that is not in them."""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Response

from openkcm.contract import api
from openkcm.contract.ids import TOKEN_PATTERN
from openkcm.governance.errors import STATUS
from openkcm.governance.portal.routes import approvals, checkpoints, reading, regions, switch, tenants
from openkcm.governance.portal.surface import API, SURFACE, Call, Operation, Param, operation

__all__ = ["API", "document"]

ROOMS: Final = (tenants, regions, switch, approvals, reading, checkpoints)
TAGS: Final[dict[str, str]] = {room.__name__.rpartition(".")[2]: (room.__doc__ or "").strip() for room in ROOMS}
REFERENCE: Final = "#/components/schemas/{name}"
TOKENS: Final = frozenset({"tenant", "region", "tree"})
EXAMPLES: Final[dict[int, tuple[str, str]]] = {
    400: ("invalid-request", "the request cannot be read"),
    401: ("unauthenticated", "sign in, or send a bearer token"),
    403: ("forbidden", "RevokeAccess takes one of the roles kill-switch"),
    404: ("not-found", "no tenant acme"),
    409: ("illegal-in-this-state", "cannot rotate: this tenant region is Linked"),
    412: ("stale-generation", "If-Match names generation 3, which is not the present one: read it again"),
    413: ("too-large", "a body of at most 65536 bytes is taken"),
    415: ("unsupported-media-type", "the body is JSON"),
    422: ("invalid-request", "the body: Object missing required field `system`"),
    429: ("too-many-requests", "too many write requests of this subject: 20 a second are answered"),
    500: ("internal-error", "something went wrong here; the log knows it by the request's id"),
    503: ("ledger-unavailable", "the ledger does not answer: repeat with the same idempotency key"),
}


@operation("GET", "/openapi.json", None, name="openapi", answer=dict[str, Any], public=True)
async def show(call: Call) -> Response[bytes]:
    """Describe this API (OpenAPI 3.1)."""
    return call.answer(document())


@cache
def document() -> dict[str, Any]:
    """Return the whole document."""
    shapes = [shape for one in SURFACE for shape in (one.body, one.answer) if shape is not None]
    schemas, components = msgspec.json.schema_components([*shapes, api.Problem], ref_template=REFERENCE)
    by_shape = {repr(shape): schema for shape, schema in zip([*shapes, api.Problem], schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for one in SURFACE:
        prefix = "" if one.outside else API
        paths.setdefault(prefix + one.path, {})[one.method.lower()] = _operation(one, by_shape)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenKCM key governance",
            "version": "1",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Customers rule their keys. Changes are answered 202 and are Pending until every node "
            "acknowledged them. Errors are RFC 9457 problem documents with a stable `code`.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": says} for name, says in TAGS.items()],
        "security": [{"oidc": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "oidc": {"type": "http", "scheme": "bearer", "description": "A token of the identity provider."},
                "service": {"type": "http", "scheme": "bearer", "description": "A service's token: okcm- and 64 hex."},
                "session": {"type": "apiKey", "in": "cookie", "name": "openkcm_session",
                            "description": "The pages' session; writing also takes X-CSRF-Token."},
            },
        },
    }  # fmt: skip


def _operation(one: Operation, by_shape: dict[str, Any]) -> dict[str, Any]:
    says, _, more = one.says.partition(".")
    described: dict[str, Any] = {
        "operationId": one.name,
        "tags": [one.handler.__module__.rpartition(".")[2]],
        "summary": says,
        "description": (one.says + (" Takes somebody who signed in just now." if one.fresh else "")).strip(),
        "parameters": [*_path(one), *(_query(param) for param in one.query), *_headers(one)],
        "responses": _responses(one, by_shape),
        "x-command": one.command,
    }
    del more
    if one.public:
        described["security"] = []
    elif one.command == "RevokeAccess":
        described["security"] = [{"oidc": []}, {"service": []}, {"session": []}]
    if one.body is not None:
        content: dict[str, Any] = {"schema": by_shape[repr(one.body)]}
        if one.example is not None:
            content["example"] = one.example
        media = "application/merge-patch+json" if one.method == "PATCH" else "application/json"
        described["requestBody"] = {"required": not _may_be_empty(one.body), "content": {media: content}}
    return described


def _may_be_empty(body: Any) -> bool:
    try:
        msgspec.convert({}, body)
    except msgspec.ValidationError:
        return False
    return True


def _path(one: Operation) -> list[dict[str, Any]]:
    def schema(name: str) -> dict[str, Any]:
        return {"type": "string", "pattern": TOKEN_PATTERN if name in TOKENS else r"^[A-Za-z0-9-]{1,64}$"}

    return [
        {"name": name, "in": "path", "required": True, "schema": schema(name)}
        for name in re.findall(r"\{(\w+)\}", one.path)
    ]


def _query(param: Param) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": param.kind}
    if param.kind == "integer":
        schema |= {"minimum": param.least, "maximum": param.most}
    elif param.kind == "string":
        schema |= {"maxLength": param.most}
    if param.default is not None:
        schema["default"] = param.default
    return {"name": param.name, "in": "query", "description": param.says, "schema": schema}


def _headers(one: Operation) -> list[dict[str, Any]]:
    if one.name == "streamEvents":
        return [_header("Last-Event-ID", "Where the stream broke off.", r"^\d{1,18}$")]
    if not one.writes:
        return []
    key = _header("Idempotency-Key", "The same key and body: the first answer again.", r"^[\x21-\x7e]{1,128}$")
    match = _header("If-Match", "The generation that was read, as in ETag.", r'^"\d{1,18}"$')
    return [key, match] if "{region}" in one.path else [key]


def _header(name: str, says: str, pattern: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": says, "schema": {"type": "string", "pattern": pattern}}


def _responses(one: Operation, by_shape: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"} if one.answer is None else by_shape[repr(one.answer)]
    identity = {"X-Request-Id": {"description": "The request's name in the log.", "schema": {"type": "string"}}}
    headers = identity if one.media_type == "application/json" else {}
    if one.path.endswith(("{region}", "/root-key")) and not one.writes:
        headers = headers | {"ETag": {"description": "The generation.", "schema": {"type": "string"}}}
    good = {"description": HTTPStatus(one.status).phrase, "content": {one.media_type: {"schema": schema}}}
    statuses = {one.status, *((200,) if any(p.name == "dryRun" for p in one.query) else ())}
    found: dict[str, Any] = {str(status): {**good, "headers": headers} for status in sorted(statuses)}
    if one.name == "readyz":
        found["503"] = {**good, "description": "Not ready", "headers": headers}
        return found
    for status in _problems(one):
        code, detail = EXAMPLES[status]
        example = {
            "type": f"urn:openkcm:problem:{code}", "title": HTTPStatus(status).phrase, "status": status, "code": code,
            "detail": detail, "instance": API + one.path, "requestId": "5f2c9a1e0b7d4c38",
        }  # fmt: skip
        found[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": identity,
            "content": {
                "application/problem+json": {"schema": by_shape[repr(api.Problem)], "example": example},
            },
        }
    return found


def _problems(one: Operation) -> list[int]:
    found = {422, 500} if one.public else {401, 403, 422, 429, 500}
    if "{" in one.path or one.name in {"readLedger", "registerTenant"}:
        found |= {404}
    if one.name in {"showWords", "showImportParameters"}:
        found |= {409, 503}
    if one.writes:
        found |= {400, 404, 409, 413, 415, 503} | ({412} if "{region}" in one.path else set())
    assert found <= set(EXAMPLES)
    assert found - {400} <= set(STATUS.values())
    return sorted(found)
