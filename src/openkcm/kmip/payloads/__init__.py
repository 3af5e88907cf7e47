"""Requests and responses, declared: one small file per family of operations. No behaviour, no bytes.

`PAYLOADS` is the table: operation -> request, response, and the minor version of KMIP 1 that brought the operation.
"""

from __future__ import annotations

from typing import Final

import msgspec

from openkcm.kmip.enums import Operation
from openkcm.kmip.payloads import cryptography, lifecycle, objects, retrieval, server
from openkcm.kmip.schema import Structure

__all__ = ["PAYLOADS", "Payloads"]


class Payloads(msgspec.Struct, frozen=True):
    """One operation's payloads.

    Attributes:
        since: The minor version of KMIP 1 that brought the operation.
    """

    request: type[Structure]
    response: type[Structure]
    since: int = 0


PAYLOADS: Final[dict[Operation, Payloads]] = {
    Operation.CREATE: Payloads(objects.CreateRequest, objects.CreateResponse),
    Operation.REGISTER: Payloads(objects.RegisterRequest, objects.RegisterResponse),
    Operation.LOCATE: Payloads(retrieval.LocateRequest, retrieval.LocateResponse),
    Operation.GET: Payloads(retrieval.GetRequest, retrieval.GetResponse),
    Operation.GET_ATTRIBUTES: Payloads(retrieval.GetAttributesRequest, retrieval.GetAttributesResponse),
    Operation.GET_ATTRIBUTE_LIST: Payloads(retrieval.GetAttributeListRequest, retrieval.GetAttributeListResponse),
    Operation.ACTIVATE: Payloads(lifecycle.ActivateRequest, lifecycle.ActivateResponse),
    Operation.REVOKE: Payloads(lifecycle.RevokeRequest, lifecycle.RevokeResponse),
    Operation.DESTROY: Payloads(lifecycle.DestroyRequest, lifecycle.DestroyResponse),
    Operation.QUERY: Payloads(server.QueryRequest, server.QueryResponse),
    Operation.DISCOVER_VERSIONS: Payloads(server.DiscoverVersionsRequest, server.DiscoverVersionsResponse, 1),
    Operation.ENCRYPT: Payloads(cryptography.EncryptRequest, cryptography.EncryptResponse, 2),
    Operation.DECRYPT: Payloads(cryptography.DecryptRequest, cryptography.DecryptResponse, 2),
}
