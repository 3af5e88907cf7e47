"""Makes the running bus a fixture for every room, and the switch for real clouds an option."""

import pytest

from orbital_fixture import orbital

__all__ = ["orbital"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--live",
        choices=["aws", "azure", "gcp", "pkcs11", "kmip"],
        help="Run tests/live against this provider's real KMS.",
    )
