"""DiscoverVersions and Query: what this server is. Touches no object and no key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from openkcm.execution.operations.call import Call
from openkcm.kmip import SUPPORTED_VERSIONS
from openkcm.kmip.enums import ObjectType, QueryFunction
from openkcm.kmip.payloads.server import (
    DiscoverVersionsRequest,
    DiscoverVersionsResponse,
    QueryRequest,
    QueryResponse,
)

__all__ = ["discover_versions", "query"]

VENDOR: Final = "OpenKCM"
OBJECT_TYPES: Final = (ObjectType.SYMMETRIC_KEY, ObjectType.SECRET_DATA, ObjectType.OPAQUE_OBJECT)

#: What answers each query function; those without an entry are answered with nothing, as the specification allows.
ANSWERS: Final[dict[int, Callable[[Call], dict[str, Any]]]] = {
    QueryFunction.QUERY_OPERATIONS: lambda call: {"operation": tuple(call.operations)},
    QueryFunction.QUERY_OBJECTS: lambda _: {"object_type": OBJECT_TYPES},
    QueryFunction.QUERY_SERVER_INFORMATION: lambda _: {"vendor_identification": VENDOR},
}


def discover_versions(_call: Call, asked: DiscoverVersionsRequest) -> DiscoverVersionsResponse:
    """Return the versions that both speak, the best first (section 4.26)."""
    wanted = asked.protocol_version
    both = tuple(v for v in SUPPORTED_VERSIONS if not wanted or v in wanted)
    return DiscoverVersionsResponse(protocol_version=both)


def query(call: Call, asked: QueryRequest) -> QueryResponse:
    """Return exactly what is served (section 4.25)."""
    answer: dict[str, Any] = {}
    for function in asked.query_function:
        if function in ANSWERS:
            answer |= ANSWERS[function](call)
    return QueryResponse(**answer)
