"""The customers of all six contract suites, for tests that need every provider: each with its real or double KMS."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from execution.test_roots_aws import AwsCustomer
from execution.test_roots_azure import AzureCustomer
from execution.test_roots_file import FileCustomer
from execution.test_roots_gcp import GcpCustomer
from execution.test_roots_kmip import KmipCustomer
from execution.test_roots_pkcs11 import HsmCustomer
from loopback import free_ports
from simulators.azure import AzureVault
from simulators.google import GoogleKms
from simulators.ministack import MiniStack
from simulators.pykmip import PyKmip
from simulators.softhsm import SoftHsm

PARTNERS = {
    "aws": (lambda home: MiniStack(home, *free_ports(1)), AwsCustomer), "azure": (AzureVault, AzureCustomer),
    "gcp": (GoogleKms, GcpCustomer), "pkcs11": (SoftHsm, HsmCustomer),
    "kmip": (lambda home: PyKmip(home, *free_ports(1)), KmipCustomer),
}  # fmt: skip


@contextlib.contextmanager
def customer_of(provider: str, directory: Path) -> Iterator[Any]:
    """One customer of a provider, and its KMS, until the block ends."""
    (home := directory / provider).mkdir()
    if provider == "file":
        yield FileCustomer(home)
        return
    partner, kind = PARTNERS[provider]
    server = partner(home)
    (own := directory / f"{provider}-customer").mkdir()
    customer = kind(server, own)
    try:
        yield customer
    finally:
        for part, end in ((customer, "close"), (server, "stop")):
            getattr(part, end, lambda: None)()
