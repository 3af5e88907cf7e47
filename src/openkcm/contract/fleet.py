"""The regions and their nodes, as `nodes/<region>/node.toml` names them. Pure: parses bytes somebody else has read."""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from openkcm.contract.decrees import Provider
from openkcm.contract.errors import ContractError
from openkcm.contract.ids import NodeName, Region, TenantId

__all__ = ["Limits", "RegionConfiguration", "RootPolicy", "parse_region"]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one worker and one node take on at most. Bytes, counts, seconds as named.

    Attributes:
        handshakes_per_worker: Connections that have not shown who they are; one more, and the oldest of them goes.
        unfinished_bytes: What one worker keeps of all messages that have not arrived whole.
        message_s: From a message's first byte to its last, and for a client to take its answer.
        key_slots: Keys of systems (L3, one a version) that a node holds at once, 160 locked bytes each. Who is not used
            gives way to who is.
        rng_seed_bytes: How much of a client's RNGSeed is mixed into the kernel's pool; 0: it is ignored, -1: refused.
        rng: What makes managed keys. `ansi-x9.31` is for clients of old profiles only: no longer allowed by NIST.
    """

    connections_per_worker: Annotated[int, Meta(ge=1, le=100_000)] = 4096
    handshakes_per_worker: Annotated[int, Meta(ge=1, le=100_000)] = 256
    message_bytes: Annotated[int, Meta(ge=4096, le=64 << 20)] = 8 << 20
    message_bytes_before_identity: Annotated[int, Meta(ge=4096, le=8 << 20)] = 1 << 20
    unfinished_bytes: Annotated[int, Meta(ge=4096)] = 256 << 20
    batch_items: Annotated[int, Meta(ge=1, le=1024)] = 64
    handshake_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    message_s: Annotated[float, Meta(gt=0)] = 60.0
    idle_s: Annotated[float, Meta(gt=0)] = 300.0
    key_slots: Annotated[int, Meta(ge=8, le=1 << 20)] = 8192
    rng_seed_bytes: Annotated[int, Meta(ge=-1, le=512)] = 512
    rng: Literal["kernel", "ansi-x9.31"] = "kernel"


class RootPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which providers this region's nodes may unseal with, and where: an unsealer connects to nothing else.

    Attributes:
        endpoints: Address by provider (and cloud region), `aws:eu-central-1 = "https://..."`.
        directories: For `file` roots: the directories a key file may lie in.
        credentials: Name -> provider-specific settings (profile, role to assume, file with the secret), no secret; and
            `tenants`, whom it serves: whoever else's reference names it is refused before any KMS is asked.
        principals: Who the nodes are in a customer's trust policy, by provider: shown at onboarding, used for nothing.
        vaults: Azure vault's host -> the cloud region it lies in: an Azure key id does not say. No other is asked.
    """

    providers: tuple[Provider, ...]
    endpoints: dict[str, str] = {}
    directories: tuple[str, ...] = ()
    credentials: dict[str, dict[str, str | tuple[TenantId, ...]]] = {}
    principals: dict[Provider, Annotated[str, Meta(pattern=r"^[ -~]{1,512}$")]] = {}
    vaults: dict[str, str] = {}
    probe_s: dict[str, float] = {}


class RegionConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One region.

    Attributes:
        residency: Codes of the jurisdictions the region lies in (`DE`, `EU`), for people and for root-key rules.
        root_regions: By provider, the cloud regions in which a root key of this region may lie.
        draining: No tenant is taken in any more; those who are here go on.
        trust_root: Public key (base64) pinned out of band; `up` writes the stack's own.
    """

    region: Region
    residency: tuple[str, ...]
    nodes: Annotated[tuple[NodeName, ...], Meta(min_length=1, max_length=64)]
    listen: str = "127.0.0.1"
    workers: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: one less than there are cores, at least one
    require_secretmem: bool = False
    draining: bool = False
    roots: RootPolicy
    root_regions: dict[str, tuple[str, ...]] = {}
    limits: Limits = Limits()
    trust_root: str | None = None


def parse_region(raw: bytes) -> RegionConfiguration:
    """Return the region in a node.toml.

    Raises:
        ContractError: Not TOML, or not a region's configuration; the message names the field.
    """
    try:
        return msgspec.convert(tomllib.loads(raw.decode()), RegionConfiguration)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as bad:
        raise ContractError(f"node.toml: {bad}") from bad
