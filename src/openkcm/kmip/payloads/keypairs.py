"""Create Key Pair and Re-key Key Pair. Declarations only. Source: KMIP 1.4, sections 4.2 and 4.5."""

from __future__ import annotations

from openkcm.kmip.objects import TemplateAttribute
from openkcm.kmip.schema import Interval, Structure

__all__ = ["CreateKeyPairRequest", "CreateKeyPairResponse", "ReKeyKeyPairRequest", "ReKeyKeyPairResponse"]


class CreateKeyPairRequest(Structure, frozen=True, kw_only=True):
    """Make a private and a public key. What is common to both may be overridden by each one's own."""

    common_template_attribute: TemplateAttribute | None = None
    private_key_template_attribute: TemplateAttribute | None = None
    public_key_template_attribute: TemplateAttribute | None = None


class CreateKeyPairResponse(Structure, frozen=True, kw_only=True):
    """The keys' identifiers, and what the server chose."""

    private_key_unique_identifier: str
    public_key_unique_identifier: str
    private_key_template_attribute: TemplateAttribute | None = None
    public_key_template_attribute: TemplateAttribute | None = None


class ReKeyKeyPairRequest(Structure, frozen=True, kw_only=True):
    """Replace a pair, named by its private key. `offset`: seconds from the new keys' making to their activation."""

    private_key_unique_identifier: str | None = None
    offset: Interval | None = None
    common_template_attribute: TemplateAttribute | None = None
    private_key_template_attribute: TemplateAttribute | None = None
    public_key_template_attribute: TemplateAttribute | None = None


class ReKeyKeyPairResponse(Structure, frozen=True, kw_only=True):
    """The new keys' identifiers, and what the server chose."""

    private_key_unique_identifier: str
    public_key_unique_identifier: str
    private_key_template_attribute: TemplateAttribute | None = None
    public_key_template_attribute: TemplateAttribute | None = None
