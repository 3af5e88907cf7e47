"""The profiles that Query answers, and the manual page of what is served. One table; a test holds it to the vectors.

A profile is here when all vectors of its group pass (tests/kmip_profiles): the tests fail when one is missing, or here
without passing. The other groups' profiles have no name in KMIP 1.4 (AES XTS), or ask for more than messages (Suite B:
TLS suites and certificates). Source: KMIP Profiles 1.4; KMIP 1.4, section 9.1.3.2.42.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from openkcm.execution.operations.call import ALL, KEYLESS, READS, Operation
from openkcm.kmip.enums import CryptographicUsageMask
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.names import member_name
from openkcm.kmip.payloads import PAYLOADS
from openkcm.kmip.profile_names import ProfileName
from openkcm.kmip.schema import NEWEST_MINOR
from openkcm.kmip.structures import ProfileInformation

__all__ = ["PROFILES", "PROFILE_INFORMATION", "manual"]

_P: Final = ProfileName
#: Group of vectors -> the profile that it shows.
PROFILES: Final[dict[str, ProfileName]] = {
    "AKLC": _P.ASYMMETRIC_KEY_LIFECYCLE_SERVER_KMIP_V1_4,
    "CS-AC": _P.ADVANCED_CRYPTOGRAPHIC_SERVER_KMIP_V1_4,
    "CS-BC": _P.BASIC_CRYPTOGRAPHIC_SERVER_KMIP_V1_4,
    "CS-RNG": _P.RNG_CRYPTOGRAPHIC_SERVER_KMIP_V1_4,
    "MSGENC-HTTPS": _P.HTTPS_SERVER_KMIP_V1_4,
    "MSGENC-JSON": _P.JSON_SERVER_KMIP_V1_4,
    "MSGENC-XML": _P.XML_SERVER_KMIP_V1_4,
    "OMOS": _P.OPAQUE_MANAGED_OBJECT_STORE_SERVER_KMIP_V1_4,
    "SASED": _P.STORAGE_ARRAY_WITH_SELF_ENCRYPTING_DRIVE_SERVER_KMIP_V1_4,
    "SKFF": _P.SYMMETRIC_KEY_FOUNDRY_SERVER_KMIP_V1_4,
    "SKLC": _P.SYMMETRIC_KEY_LIFECYCLE_SERVER_KMIP_V1_4,
    "TL": _P.TAPE_LIBRARY_SERVER_KMIP_V1_4,
}
PROFILE_INFORMATION: Final = tuple(ProfileInformation(profile_name=name) for name in PROFILES.values())

#: Operations that the vectors of a group send.
USED: Final[dict[str, str]] = {
    "AKLC": "CREATE_KEY_PAIR GET_ATTRIBUTES ACTIVATE MODIFY_ATTRIBUTE REVOKE DESTROY",
    "AX": "CREATE GET ADD_ATTRIBUTE GET_ATTRIBUTES REVOKE DESTROY",
    "CS-AC": "REGISTER SIGN SIGNATURE_VERIFY MAC MAC_VERIFY HASH ENCRYPT DECRYPT REVOKE DESTROY",
    "CS-BC": "CREATE REGISTER ENCRYPT DECRYPT REVOKE DESTROY",
    "CS-RNG": "RNG_RETRIEVE RNG_SEED",
    "MSGENC": "QUERY",
    "OMOS": "REGISTER DESTROY",
    "SASED": "QUERY LOCATE REGISTER GET_ATTRIBUTES GET DESTROY",
    "SKFF": "CREATE LOCATE GET GET_ATTRIBUTES GET_ATTRIBUTE_LIST ADD_ATTRIBUTE MODIFY_ATTRIBUTE DELETE_ATTRIBUTE "
    "ACTIVATE REVOKE DESTROY",
    "SKLC": "CREATE GET_ATTRIBUTES ACTIVATE MODIFY_ATTRIBUTE REVOKE DESTROY",
    "TL": "QUERY CREATE GET LOCATE GET_ATTRIBUTE_LIST GET_ATTRIBUTES MODIFY_ATTRIBUTE DESTROY",
}
_GATES: Final = {KEYLESS: "always", READS: "also while suspended"}


def manual(operations: Mapping[int, Operation]) -> str:
    """Return the tables of docs/kmip.md: operation x version x profile, and the profiles."""
    return "\n".join([*_operations(operations), "", *_profiles(), ""])


def _operations(operations: Mapping[int, Operation]) -> Iterator[str]:
    versions = [f"1.{minor}" for minor in range(NEWEST_MINOR + 1)]
    yield f"| Operation | {' | '.join(versions)} | Needs | Object's states | Served | Vectors |"
    yield "| --- |" + " --- |" * (len(versions) + 4)
    for code, row in operations.items():
        operation = Code(code)
        since = PAYLOADS[operation].since
        marks = " | ".join("x" if minor >= since else "" for minor in range(NEWEST_MINOR + 1))
        usage = member_name(CryptographicUsageMask, row.usage) if row.usage else ""
        states = "any" if row.states == ALL else ", ".join(s.name.lower().replace("_", "-") for s in sorted(row.states))
        served = _GATES.get(row.gates, "")
        used = ", ".join(group for group, names in USED.items() if operation.name in names.split())
        yield f"| {member_name(Code, code)} | {marks} | {usage} | {states} | {served} | {used} |"


def _profiles() -> Iterator[str]:
    yield "| Profile (server, KMIP 1.4) | Vectors |"
    yield "| --- | --- |"
    for group, name in PROFILES.items():
        yield f"| {name.name.removesuffix('_SERVER_KMIP_V1_4').replace('_', ' ').title()} | {group} |"
