"""Add, Modify and Delete Attribute, Obtain Lease. Declarations only. Source: KMIP 1.4, sections 4.14 to 4.17."""

from __future__ import annotations

from openkcm.kmip.attributes import Attribute
from openkcm.kmip.schema import DateTime, Interval, Structure

__all__ = [
    "AddAttributeRequest",
    "AddAttributeResponse",
    "DeleteAttributeRequest",
    "DeleteAttributeResponse",
    "ModifyAttributeRequest",
    "ModifyAttributeResponse",
    "ObtainLeaseRequest",
    "ObtainLeaseResponse",
]


class AddAttributeRequest(Structure, frozen=True, kw_only=True):
    """Add an instance of an attribute; the server chooses its index."""

    unique_identifier: str | None = None
    attribute: Attribute


class AddAttributeResponse(Structure, frozen=True, kw_only=True):
    """The instance added, with its index."""

    unique_identifier: str
    attribute: Attribute


class ModifyAttributeRequest(Structure, frozen=True, kw_only=True):
    """Give an existing instance another value."""

    unique_identifier: str | None = None
    attribute: Attribute


class ModifyAttributeResponse(Structure, frozen=True, kw_only=True):
    """The instance as it is now."""

    unique_identifier: str
    attribute: Attribute


class DeleteAttributeRequest(Structure, frozen=True, kw_only=True):
    """Delete an instance of an attribute; no index means 0."""

    unique_identifier: str | None = None
    attribute_name: str
    attribute_index: int | None = None


class DeleteAttributeResponse(Structure, frozen=True, kw_only=True):
    """The instance deleted."""

    unique_identifier: str
    attribute: Attribute


class ObtainLeaseRequest(Structure, frozen=True, kw_only=True):
    """Ask for how long an object that was handed out may be kept."""

    unique_identifier: str | None = None


class ObtainLeaseResponse(Structure, frozen=True, kw_only=True):
    """The lease, and when the object last changed."""

    unique_identifier: str
    lease_time: Interval
    last_change_date: DateTime
