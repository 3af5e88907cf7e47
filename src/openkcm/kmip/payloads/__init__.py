"""Requests and responses, declared: one small file per family of operations. No behaviour, no bytes.

`PAYLOADS` is the table: operation -> request, response, and the minor version of KMIP 1 that brought the operation.
"""

from __future__ import annotations

from typing import Final

import msgspec

from openkcm.kmip.enums import Operation
from openkcm.kmip.payloads import (
    attributes,
    cryptography,
    derivation,
    digests,
    keypairs,
    lifecycle,
    objects,
    retrieval,
    server,
    signatures,
    transfer,
    usage,
)
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
    Operation.CREATE_KEY_PAIR: Payloads(keypairs.CreateKeyPairRequest, keypairs.CreateKeyPairResponse),
    Operation.RE_KEY: Payloads(derivation.ReKeyRequest, derivation.ReKeyResponse),
    Operation.RE_KEY_KEY_PAIR: Payloads(keypairs.ReKeyKeyPairRequest, keypairs.ReKeyKeyPairResponse, 1),
    Operation.DERIVE_KEY: Payloads(derivation.DeriveKeyRequest, derivation.DeriveKeyResponse),
    Operation.CHECK: Payloads(usage.CheckRequest, usage.CheckResponse),
    Operation.LOCATE: Payloads(retrieval.LocateRequest, retrieval.LocateResponse),
    Operation.GET: Payloads(retrieval.GetRequest, retrieval.GetResponse),
    Operation.GET_ATTRIBUTES: Payloads(retrieval.GetAttributesRequest, retrieval.GetAttributesResponse),
    Operation.GET_ATTRIBUTE_LIST: Payloads(retrieval.GetAttributeListRequest, retrieval.GetAttributeListResponse),
    Operation.ADD_ATTRIBUTE: Payloads(attributes.AddAttributeRequest, attributes.AddAttributeResponse),
    Operation.MODIFY_ATTRIBUTE: Payloads(attributes.ModifyAttributeRequest, attributes.ModifyAttributeResponse),
    Operation.DELETE_ATTRIBUTE: Payloads(attributes.DeleteAttributeRequest, attributes.DeleteAttributeResponse),
    Operation.OBTAIN_LEASE: Payloads(attributes.ObtainLeaseRequest, attributes.ObtainLeaseResponse),
    Operation.GET_USAGE_ALLOCATION: Payloads(usage.GetUsageAllocationRequest, usage.GetUsageAllocationResponse),
    Operation.ACTIVATE: Payloads(lifecycle.ActivateRequest, lifecycle.ActivateResponse),
    Operation.REVOKE: Payloads(lifecycle.RevokeRequest, lifecycle.RevokeResponse),
    Operation.DESTROY: Payloads(lifecycle.DestroyRequest, lifecycle.DestroyResponse),
    Operation.ARCHIVE: Payloads(lifecycle.ArchiveRequest, lifecycle.ArchiveResponse),
    Operation.RECOVER: Payloads(lifecycle.RecoverRequest, lifecycle.RecoverResponse),
    Operation.QUERY: Payloads(server.QueryRequest, server.QueryResponse),
    Operation.DISCOVER_VERSIONS: Payloads(server.DiscoverVersionsRequest, server.DiscoverVersionsResponse, 1),
    Operation.ENCRYPT: Payloads(cryptography.EncryptRequest, cryptography.EncryptResponse, 2),
    Operation.DECRYPT: Payloads(cryptography.DecryptRequest, cryptography.DecryptResponse, 2),
    Operation.SIGN: Payloads(signatures.SignRequest, signatures.SignResponse, 2),
    Operation.SIGNATURE_VERIFY: Payloads(signatures.SignatureVerifyRequest, signatures.SignatureVerifyResponse, 2),
    Operation.MAC: Payloads(digests.MACRequest, digests.MACResponse, 2),
    Operation.MAC_VERIFY: Payloads(digests.MACVerifyRequest, digests.MACVerifyResponse, 2),
    Operation.RNG_RETRIEVE: Payloads(digests.RNGRetrieveRequest, digests.RNGRetrieveResponse, 2),
    Operation.RNG_SEED: Payloads(digests.RNGSeedRequest, digests.RNGSeedResponse, 2),
    Operation.HASH: Payloads(digests.HashRequest, digests.HashResponse, 2),
    Operation.IMPORT: Payloads(transfer.ImportRequest, transfer.ImportResponse, 4),
    Operation.EXPORT: Payloads(transfer.ExportRequest, transfer.ExportResponse, 4),
}
