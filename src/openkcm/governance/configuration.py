"""What a CMK process is started with: cmk.json, and the regions it knows. Reads files; connects to nothing."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from openkcm.bus.access import Access
from openkcm.contract.errors import ContractError
from openkcm.contract.fleet import RegionConfiguration, parse_region
from openkcm.contract.ids import PersonId

__all__ = ["Configuration", "ConfigurationError", "Listen", "Oidc", "Tls", "read_configuration", "read_regions"]

Port = Annotated[int, Meta(ge=0, le=65535)]


class ConfigurationError(Exception):
    """The process cannot start like this; the message names the file and the field."""


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the portal listens; port 0 lets the kernel choose."""

    host: str
    port: Port

    @property
    def loopback(self) -> bool:
        """Whether nobody else can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name may mean any address


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The portal's certificate (PEM files)."""

    cert: str
    key: str


class Oidc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose tokens prove identity here. `jwks_uri` None: as the issuer's discovery document says. `ca`: PEM file.

    `step_up_s`: the kill switch and approvals are for people who signed in no longer ago than this.
    """

    issuer: str
    audience: str
    jwks_uri: str | None = None
    ca: str | None = None
    client_id: str = "openkcm-portal"
    step_up_s: Annotated[int, Meta(ge=30, le=86_400)] = 300


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """cmk.json. Paths to files; the files hold the secrets.

    Attributes:
        operators: OIDC subjects of the provider's own people.
        regions: Folder of `<region>/node.toml`.
        trust_root: The pinned public key, 32 bytes.
        kmip: By region, where clients reach its nodes (host:port): shown in ready configurations, used for nothing.
        origin: Where people reach the pages (scheme, host, port); passkeys are bound to it. None: wherever they do.
        proxies: Addresses of reverse proxies in front, whose `X-Forwarded-For` and `-Proto` are believed.
        check_streams: Refuse to start when the live streams are not as declared.
        alone: No other CMK runs: leases end for certain, too, while a revocation is only in the spool (ADR 0054).
    """

    listen: Listen
    tls: Tls | None = None
    nats: Access
    signing_seed: str
    registry: str
    spool: str
    directory: str | None = None
    oidc: Oidc
    regions: str
    trust_root: Annotated[bytes, Meta(min_length=32, max_length=32)]
    operators: tuple[PersonId, ...] = ()
    secure_cookies: bool | None = None
    kmip: dict[str, tuple[str, ...]] = {}
    origin: Annotated[str, Meta(pattern=r"^https?://[a-z0-9.\[\]:-]{1,260}$")] | None = None
    proxies: tuple[str, ...] = ()
    check_streams: bool = True
    alone: bool = False


def read_configuration(path: Path) -> Configuration:
    """Return the configuration in a file.

    Raises:
        ConfigurationError: It cannot be read, a field is wrong, or the portal would answer others in the clear.
    """
    try:
        configuration = msgspec.json.decode(path.read_bytes(), type=Configuration)
    except (OSError, msgspec.MsgspecError) as bad:
        raise ConfigurationError(f"{path}: {bad}") from bad
    if configuration.tls is None and not configuration.listen.loopback:
        raise ConfigurationError(
            f"{path}: plain HTTP is for loopback only: {configuration.listen.host} needs a certificate in `tls`"
        )
    return configuration


def read_regions(folder: Path) -> dict[str, RegionConfiguration]:
    """Return the regions by name.

    Raises:
        ConfigurationError: There is none, or one cannot be read.
    """
    found = {}
    for path in sorted(folder.glob("*/node.toml")):
        try:
            region = parse_region(path.read_bytes())
        except (OSError, ContractError) as bad:
            raise ConfigurationError(f"{path}: {bad}") from bad
        found[region.region] = region
    if not found:
        raise ConfigurationError(f"{folder}: no region's node.toml")
    return found
