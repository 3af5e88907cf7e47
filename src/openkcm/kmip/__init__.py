"""The wire format of KMIP 1.0 to 1.4. Pure: imports no other room, opens no socket, knows no clock and no key.

A server's path: `message_length` -> `decode_request` -> per item `decode_payload`, then `encode_item` -> and at the end
`encode_response`. A client's: `encode_request`, `decode_response`. Whatever bytes come in, only `KmipError` goes out.
Payloads are declared in `.payloads`, objects in `.objects`, smaller structures in `.structures`; enumerations are in
`.enums`.
"""

from __future__ import annotations

from openkcm.kmip.attributes import (
    ATTRIBUTES,
    Attribute,
    AttributeRule,
    AttributeValue,
    custom_attribute,
    decode_attributes,
    encode_attributes,
    is_custom,
    known_in,
)
from openkcm.kmip.client import Response, ResponseItem, decode_response, encode_request
from openkcm.kmip.errors import (
    CriticalExtension,
    FieldNotValid,
    KmipError,
    MalformedMessage,
    MessageTooLarge,
    NotEncodable,
    OperationNotSupported,
    VersionNotSupported,
)
from openkcm.kmip.framing import HEADER_BYTES, MAX_MESSAGE_BYTES, MAX_UNAUTHENTICATED_BYTES, message_length
from openkcm.kmip.messages import (
    DEFAULT_LIMITS,
    KMIP_1_0,
    KMIP_1_1,
    KMIP_1_2,
    KMIP_1_3,
    KMIP_1_4,
    SUPPORTED_VERSIONS,
    Limits,
    RequestHeader,
    ResponseHeader,
)
from openkcm.kmip.payloads import PAYLOADS, Payloads
from openkcm.kmip.requests import Request, RequestItem, decode_payload, decode_request
from openkcm.kmip.responses import encode_item, encode_response
from openkcm.kmip.schema import Structure
from openkcm.kmip.structures import ProtocolVersion
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import Item, ItemType

__all__ = [
    "ATTRIBUTES",
    "DEFAULT_LIMITS",
    "HEADER_BYTES",
    "KMIP_1_0",
    "KMIP_1_1",
    "KMIP_1_2",
    "KMIP_1_3",
    "KMIP_1_4",
    "MAX_MESSAGE_BYTES",
    "MAX_UNAUTHENTICATED_BYTES",
    "PAYLOADS",
    "SUPPORTED_VERSIONS",
    "Attribute",
    "AttributeRule",
    "AttributeValue",
    "CriticalExtension",
    "FieldNotValid",
    "Item",
    "ItemType",
    "KmipError",
    "Limits",
    "MalformedMessage",
    "MessageTooLarge",
    "NotEncodable",
    "OperationNotSupported",
    "Payloads",
    "ProtocolVersion",
    "Request",
    "RequestHeader",
    "RequestItem",
    "Response",
    "ResponseHeader",
    "ResponseItem",
    "Structure",
    "Tag",
    "VersionNotSupported",
    "custom_attribute",
    "decode_attributes",
    "decode_payload",
    "decode_request",
    "decode_response",
    "encode_attributes",
    "encode_item",
    "encode_request",
    "encode_response",
    "is_custom",
    "known_in",
    "message_length",
]
