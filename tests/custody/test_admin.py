"""The operator's view of a running node: over its own socket, by the command, without material."""

from __future__ import annotations

import asyncio
import json
import stat
import sys

import pytest

from custody.residence_bench import Thief, onboard, serving_node
from openkcm.contract import decrees as d
from openkcm.execution import admin


async def openkcm(*arguments) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "openkcm.cli.main", *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_status_and_inspect_say_what_is_there_and_show_no_key(tmp_path):
    async with serving_node(tmp_path) as (governor, node):
        config = node.folder / "node.json"
        residence = await onboard(governor, node, "acme")
        uid = await residence.new_key(node)
        code, said = await openkcm("node", "status", "--config", config, "-o", "json")
        assert code == 0
        seen = json.loads(said)
        (acme,) = seen["residences"]
        assert (acme["state"], acme["l2"], acme["root_says"], acme["slots"]) == ("active", 1, "ok", 1)
        assert 3500 < acme["lease_left_s"] <= 3600
        assert seen["memory"]["mode"] in ("memfd_secret", "mlock")
        assert seen["memory"]["key_slots"]["all"] - seen["memory"]["key_slots"]["free"] == 1

        code, said = await openkcm("node", "inspect", "--config", config, "-o", "json")
        (keys,) = json.loads(said)["residences"]
        assert [(x["version"], x["unsealed"]) for x in keys["l2"]] == [(1, True)]
        assert [(x["version"], x["under_l2"], x["gate"]) for x in keys["l3"]] == [(1, 1, "open")]
        async with Thief(governor, node) as thief:
            secrets = await thief.keys("acme", uid)
        assert not [n for n, s in secrets.items() if s.hex() in said or s.hex()[:16] in said]

        code, said = await openkcm("node", "workers", "--config", config, 2)
        assert code == 0, said
        code, said = await openkcm("node", "status", "--config", config)
        assert code == 0, "a node that serves goes on serving while another worker starts"
        await governor.until(lambda: governor.health.workers == 2)
        await governor.append(governor.press.residence("acme", d.AccessRevoked(reason="test")))
        await governor.until(lambda: governor.acked("acme", "critical", 1, "revoked"))
        code, said = await openkcm("node", "status", "--config", config)
        assert code == 0, said
        assert "revoked" in said
        path = admin.socket_of(str(node.folder / "node.sqlite"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ValueError, match="no residence"):
            admin.ask(path, admin.Ask(verb="inspect", tenant="nobody"))
    code, said = await openkcm("node", "status", "--config", config)
    assert code == 1
    assert "node.sock" in said or "No such file" in said or "refused" in said
