"""Query and Discover Versions: what the server is. Declarations only. Source: KMIP 1.4, sections 4.25 and 4.26."""

from __future__ import annotations

from openkcm.kmip.enums import AttestationType, ClientRegistrationMethod, ObjectType
from openkcm.kmip.schema import AnyStructure, Enumeration, Since11, Since12, Since13, Structure
from openkcm.kmip.structures import (
    CapabilityInformation,
    ExtensionInformation,
    ProfileInformation,
    ProtocolVersion,
    RNGParameters,
    ValidationInformation,
)

__all__ = ["DiscoverVersionsRequest", "DiscoverVersionsResponse", "QueryRequest", "QueryResponse"]


class QueryRequest(Structure, frozen=True, kw_only=True):
    """Ask for the server's abilities. Open: functions of later versions are not answered, but no error."""

    query_function: tuple[Enumeration, ...] = ()


class QueryResponse(Structure, frozen=True, kw_only=True):
    """The server's abilities. Operations are open, since a client may ask a newer server."""

    operation: tuple[Enumeration, ...] = ()
    object_type: tuple[ObjectType, ...] = ()
    vendor_identification: str | None = None
    server_information: AnyStructure | None = None
    application_namespace: tuple[str, ...] = ()
    extension_information: Since11[tuple[ExtensionInformation, ...]] = ()
    attestation_type: Since12[tuple[AttestationType, ...]] = ()
    rng_parameters: Since13[tuple[RNGParameters, ...]] = ()
    profile_information: Since13[tuple[ProfileInformation, ...]] = ()
    validation_information: Since13[tuple[ValidationInformation, ...]] = ()
    capability_information: Since13[tuple[CapabilityInformation, ...]] = ()
    client_registration_method: Since13[tuple[ClientRegistrationMethod, ...]] = ()


class DiscoverVersionsRequest(Structure, frozen=True, kw_only=True):
    """Ask which of these versions the server speaks; none named means all."""

    protocol_version: tuple[ProtocolVersion, ...] = ()


class DiscoverVersionsResponse(Structure, frozen=True, kw_only=True):
    """The versions spoken, the best first."""

    protocol_version: tuple[ProtocolVersion, ...] = ()
