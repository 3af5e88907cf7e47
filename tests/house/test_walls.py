"""The walls between the planes, as a fresh process meets them: import-linter does not see importlib, this does."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import openkcm

PACKAGE = Path(openkcm.__file__).parent
KMS_SDKS = ("boto3", "botocore", "azure", "google.cloud", "pkcs11", "kmip")
HTTP = ("litestar", "uvicorn", "starlette")

# What is imported (a room with all its modules, or one module) -> what must not be there afterwards.
WALLS = {
    "openkcm.contract": (
        "openkcm.bus", "openkcm.projector", "openkcm.kmip", "nats", "sqlite3", "eventsourcing", *HTTP, *KMS_SDKS,
    ),
    "openkcm.telemetry": (
        "openkcm.bus", "openkcm.projector", "openkcm.kmip", "opentelemetry", "nats", "sqlite3", *HTTP, *KMS_SDKS,
    ),
    "openkcm.kmip": ("openkcm.contract", "openkcm.bus", "nats", "sqlite3", "cryptography", *HTTP, *KMS_SDKS),
    "openkcm.bus": ("openkcm.kmip", "openkcm.projector", "sqlite3", "eventsourcing", *HTTP, *KMS_SDKS),
    "openkcm.projector": ("openkcm.kmip", "openkcm.bus", "nats", "eventsourcing", *HTTP, *KMS_SDKS),
    "openkcm.governance": ("openkcm.kmip", "openkcm.execution", "openkcm.audit", "opentelemetry", *KMS_SDKS),
    "openkcm.audit": (
        "openkcm.kmip", "openkcm.execution", "openkcm.governance", "eventsourcing", *HTTP, *KMS_SDKS,
    ),
    "openkcm.execution": ("openkcm.governance", "openkcm.audit", "eventsourcing", *HTTP),
    "openkcm.execution.custodian": ("openkcm.governance", "eventsourcing", *HTTP, *KMS_SDKS),
    "openkcm.execution.node": ("openkcm.governance", "eventsourcing", "opentelemetry", *HTTP, *KMS_SDKS),
    "openkcm.execution.worker": ("openkcm.governance", "openkcm.bus", "nats", "eventsourcing", *HTTP, *KMS_SDKS),
    "openkcm.cli.main": ("openkcm.governance", "openkcm.execution", "nats", "eventsourcing", *HTTP, *KMS_SDKS),
    "openkcm.cli.cmk": ("openkcm.kmip", "openkcm.execution", *KMS_SDKS),
    "openkcm.cli.demo": ("kmip",),
}  # fmt: skip

PROBE = """
import importlib, sys
names, unwanted = sys.argv[1].split(","), sys.argv[2].split(",")
for name in names:
    importlib.import_module(name)
found = sorted(m for m in sys.modules if any(m == u or m.startswith(u + ".") for u in unwanted))
print(" ".join(found))
"""


def modules_of(name):
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if not path.is_dir():
        return [name]
    found = [m.name for m in pkgutil.walk_packages([str(path)], name + ".")]
    return [name, *(m for m in found if not m.endswith("__main__"))]


@pytest.mark.parametrize("name", WALLS)
def test_a_fresh_process_that_imports_a_room_finds_nothing_from_behind_its_walls(name):
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", PROBE, ",".join(modules_of(name)), ",".join(WALLS[name])],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == ""


def test_the_import_contracts_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    root = PACKAGE.parent.parent
    done = subprocess.run([linter, "--no-cache"], cwd=root, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout[-3000:]
