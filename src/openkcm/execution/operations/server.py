"""DiscoverVersions and Query: what this server is. Touches no object and no key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from openkcm.execution.operations.call import Call
from openkcm.execution.operations.profiles import PROFILE_INFORMATION
from openkcm.execution.operations.template import generators
from openkcm.kmip import SUPPORTED_VERSIONS
from openkcm.kmip.enums import (
    DestroyAction,
    ObjectType,
    Operation,
    QueryFunction,
    RNGMode,
    ShreddingAlgorithm,
    UnwrapMode,
)
from openkcm.kmip.payloads import PAYLOADS
from openkcm.kmip.payloads.server import (
    DiscoverVersionsRequest,
    DiscoverVersionsResponse,
    QueryRequest,
    QueryResponse,
)
from openkcm.kmip.structures import CapabilityInformation

__all__ = ["discover_versions", "query"]

VENDOR: Final = "OpenKCM"
NEW_TYPES: Final = {ObjectType.PGP_KEY: 2}  # the minor version of KMIP 1 that brought them
CAPABILITIES: Final = CapabilityInformation(
    streaming_capability=True,
    asynchronous_capability=False,
    attestation_capability=False,
    batch_undo_capability=False,
    batch_continue_capability=True,
    unwrap_mode=UnwrapMode.NOT_PROCESSED,
    destroy_action=DestroyAction.KEY_MATERIAL_SHREDDED,
    shredding_algorithm=ShreddingAlgorithm.CRYPTOGRAPHIC,
    rng_mode=RNGMode.SHARED_INSTANTIATION,
)


def _known(call: Call, code: int) -> bool:
    """Whether the client's version has the operation."""
    return PAYLOADS[Operation(code)].since <= call.version.protocol_version_minor


#: What answers each query function; those without an entry are answered with nothing, as the specification allows.
ANSWERS: Final[dict[int, Callable[[Call], dict[str, Any]]]] = {
    QueryFunction.QUERY_OPERATIONS: lambda call: {"operation": tuple(c for c in call.operations if _known(call, c))},
    QueryFunction.QUERY_OBJECTS: lambda call: {
        "object_type": tuple(t for t in ObjectType if NEW_TYPES.get(t, 0) <= call.version.protocol_version_minor)
    },
    QueryFunction.QUERY_SERVER_INFORMATION: lambda _: {"vendor_identification": VENDOR},
    QueryFunction.QUERY_RNGS: lambda call: {"rng_parameters": tuple(dict.fromkeys(generators(call.bench.rng)))},
    QueryFunction.QUERY_PROFILES: lambda _: {"profile_information": PROFILE_INFORMATION},
    QueryFunction.QUERY_CAPABILITIES: lambda _: {"capability_information": (CAPABILITIES,)},
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
