"""Schemathesis over the whole OpenAPI document, stateful phase included: what is answered is what is described.

Bounded here; `just soak-api` looks longer.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from governance_ledger import ANNA, BERT
from governance_stack import OPERATOR, Idp, Stack, b64, running_cmk
from openkcm.governance.portal import limits
from orbital_fixture import EU, Orbital

EXAMPLES = int(os.environ.get("OPENKCM_API_EXAMPLES", "1"))
PHASES = "coverage,stateful" if EXAMPLES == 1 else "examples,coverage,fuzzing,stateful"
CONFIG = f"""
[parameters]
"path.tenant" = "t-fuzz"
"path.region" = "{EU}"
"path.tree" = "global"

[checks.positive_data_acceptance]
# Right by its shape and wrong by its meaning: no such system, another root key linked, nothing to approve.
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "503"]
"""


@pytest_asyncio.fixture
async def stack(orbital: Orbital, idp: Idp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    monkeypatch.setattr(limits, "BUDGETS", {})  # a fuzzer is a flood; floods have a test of their own
    async with running_cmk(orbital, idp, tmp_path / "cmk") as running:
        yield running


async def test_the_api_is_as_it_is_described(stack: Stack, tmp_path: Path) -> None:
    people = [
        {"person": OPERATOR, "roles": ["tenant-admin", "key-admin", "kill-switch", "approver", "auditor"], "approval_key": b64(ANNA.public_key)},
        {"person": "second-1", "roles": ["approver"], "approval_key": b64(BERT.public_key)},
    ]  # fmt: skip
    await stack.must(OPERATOR, "POST", "/tenants", {"id": "t-fuzz", "regions": [EU], "people": people})
    path = f"/tenants/t-fuzz/regions/{EU}"
    await stack.must(OPERATOR, "PUT", f"{path}/root-key", {"provider": "file", "ref": "/keys/fuzz"})
    await stack.must(OPERATOR, "POST", f"{path}/systems", {"system": "payments"})
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        Path(sys.executable).with_name("schemathesis"), "--config-file", tmp_path / "schemathesis.toml", "run",
        f"{str(stack.client.base_url).rstrip(chr(47))}/cmk/v1/openapi.json", "--url", str(stack.client.base_url).rstrip("/"),
        "--header", f"Authorization: Bearer {stack.idp.token(OPERATOR)}", "--max-examples", str(EXAMPLES),
        "--phases", PHASES, "--exclude-operation-id", "streamEvents", "--seed", "7",
        "--request-timeout", "20", "--workers", "1", "--generation-database", ":memory:", "--no-color",
    ]  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run, [str(part) for part in command], capture_output=True, text=True, timeout=1800, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    if "OPENKCM_API_REPORT" in os.environ:
        await asyncio.to_thread(Path(os.environ["OPENKCM_API_REPORT"]).write_text, done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
