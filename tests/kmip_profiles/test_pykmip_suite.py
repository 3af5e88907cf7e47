"""PyKMIP's own integration suite against a real worker, at its default version and at KMIP 1.4.

The suite is in PyKMIP's source distribution, not in its wheel: it is fetched from the package index when the test runs
and unpacked beside it. Its third file (`test_kmip_client`, marked "ignore" by its authors) starts a server of its own
from a file that the distribution does not have, so it says nothing about other servers and is not run.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from execution.custodian_double import CustodianDouble

FILES = {"test_integration.py": 15, "test_proxykmipclient.py": 22}
VERSIONS = ("", "KMIP_1_4")  # the first one is the client's own default
INDEX_S = 120
pytestmark = pytest.mark.timeout(420)  # fetching, and a suite that sleeps, on a busy machine
CONFIG = """[client]
host=127.0.0.1
port={port}
keyfile={key}
certfile={cert}
ca_certs={ca}
cert_reqs=CERT_REQUIRED
ssl_version=PROTOCOL_TLS
do_handshake_on_connect=True
suppress_ragged_eofs=True
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """The unpacked source distribution of the PyKMIP that is installed."""
    folder = tmp_path_factory.mktemp("pykmip")
    name = f"pykmip=={version('pykmip')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "pykmip", "-d", folder, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INDEX_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index gave no source distribution of {name} in {INDEX_S} s")
    if done.returncode:
        pytest.skip(f"the package index gave no source distribution of {name}: {done.stderr.strip()[-200:]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


async def test_pykmips_integration_suite_passes_completely(suite, tmp_path):
    what = [(name, at) for at in VERSIONS for name in FILES]
    async with CustodianDouble(tmp_path) as custodian:  # side by side: the suite sleeps much
        said = await asyncio.gather(*(run(custodian, suite, tmp_path, *each) for each in what))
    for (name, at), out in zip(what, said, strict=True):
        counted = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
        counted |= {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error|skipped)", out[-200:])}
        assert counted == {"passed": FILES[name], "failed": 0, "error": 0, "skipped": 0}, at + out[-6000:]


async def run(custodian: CustodianDouble, suite: Path, tmp_path: Path, name: str, at: str) -> str:
    """Run one file of the suite as a system of its own; return what pytest said."""
    system = f"{name.removesuffix('.py')}{at}".replace("_", "-").lower()
    custodian.system("acme", system)
    cert, key = custodian.enrol("acme", system, system)
    home = tmp_path / system
    (home / ".pykmip").mkdir(parents=True)
    config = CONFIG.format(port=custodian.port, key=key, cert=cert, ca=custodian.pki.ca)
    (home / ".pykmip" / "pykmip.conf").write_text(config)
    tests = suite / "kmip" / "tests" / "integration"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pykmip_version", "--rootdir", suite,
        "-c", os.devnull, "--confcutdir", tests, tests / "services" / name,
    ]  # fmt: skip
    environment = {
        **os.environ, "HOME": str(home), "PYTHONPATH": f"{suite}:{Path(__file__).parent}", "PYKMIP_VERSION": at,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *map(str, command), env=environment, cwd=home, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return out.decode()
