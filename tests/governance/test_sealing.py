"""A CMK changes over to the next sealing key: when it is announced, after its nodes, and not done before its hub is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from governance_ledger import CMK, TRUST
from governance_stack import OPERATOR, Idp, Stack, running_cmk
from openkcm.bus.errors import Unavailable
from openkcm.bus.ledger import Ledger
from openkcm.cli.ceremony import announce_key, retire_other_keys
from openkcm.contract import envelope as env
from openkcm.contract.reports import HealthCheck
from openkcm.contract.seal import Signer
from openkcm.governance.sealing import next_of, signer_of
from orbital_fixture import EU, EU_NODE, running_orbital

NEXT = Signer(b"n" * 32)


@pytest_asyncio.fixture
async def stack(idp: Idp, tmp_path: Path) -> AsyncIterator[Stack]:
    """On a hub of its own: what is retired stays retired."""
    with running_orbital(tmp_path / "orbital") as orbital:
        async with running_cmk(orbital, idp, tmp_path / "cmk") as running:
            yield running


def lay_next(stack: Stack, seed: bytes = b"n" * 32) -> None:
    next_of(Path(stack.cmk.configuration.signing_seed)).write_bytes(seed)


async def by_root(stack: Stack, act: Any) -> None:
    connection = await stack.orbital.connect("trust")
    try:
        await act(Ledger(connection), TRUST, NEXT.public_key)
    finally:
        await connection.close()
    await stack.has_read()


async def sealing(stack: Stack) -> tuple[str, bool]:
    told = (await stack.must(OPERATOR, "GET", "/fleet"))["ledger"]
    return told["sealing_key"], told["sealing_key_settled"]


async def seals(stack: Stack, key: Signer) -> None:
    async def does() -> bool:
        return await sealing(stack) == (key.key_id, True)

    await stack.until(does)


def health(critical: int) -> HealthCheck:
    return HealthCheck(
        node=EU_NODE, region=EU, nonce="0" * 32, boot_id="b", sent_boottime_ns=1, ledger_epoch=1,
        cursor=(0, critical), known_tags=(), workers=1, memory="mlock", sealed_mappings=False, dropped=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("laid", "in_force", "chosen"),
    [
        (None, {CMK.key_id}, CMK),
        (b"n" * 32, {CMK.key_id}, CMK),
        (b"n" * 32, {CMK.key_id, NEXT.key_id}, NEXT),
        (b"n" * 32, {NEXT.key_id}, NEXT),
        (b"short", {CMK.key_id, NEXT.key_id}, CMK),
    ],
)
def test_the_next_key_seals_once_it_is_in_force(
    tmp_path: Path, laid: bytes | None, in_force: set[str], chosen: Signer
) -> None:
    seed = tmp_path / "signing.seed"
    seed.write_bytes(b"c" * 32)
    if laid is not None:
        next_of(seed).write_bytes(laid)
    assert signer_of(seed, in_force).key_id == chosen.key_id


async def test_a_running_cmk_changes_over_at_the_announcement_and_writes_on_after_the_retirement(stack: Stack) -> None:
    await seals(stack, CMK)
    lay_next(stack)
    tenant = await stack.tenant()
    assert await sealing(stack) == (CMK.key_id, True)
    await by_root(stack, announce_key)
    await seals(stack, NEXT)
    await by_root(stack, retire_other_keys)
    answer = await stack.must(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {"reason": "test"})
    assert [r["recorded"] for r in answer["revocations"]] == ["ledger"]
    written = [env.decode(s.body) async for s in stack.cmk.ledger.read_all()]
    assert next(e.key for e in written if e.id == answer["revocations"][0]["event"]) == NEXT.key_id


async def test_it_waits_for_a_node_that_is_heard_until_that_has_read_the_announcement(stack: Stack) -> None:
    lay_next(stack)
    stack.cmk.watch.heard(health(0), 0)
    await by_root(stack, announce_key)
    await asyncio.sleep(0.3)
    assert await sealing(stack) == (CMK.key_id, True)
    stack.cmk.watch.heard(health(await stack.last()), 0)
    await seals(stack, NEXT)


async def test_it_is_not_done_while_something_under_the_earlier_key_has_no_answer(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await stack.tenant()
    goes_on, append = asyncio.Event(), stack.cmk.ledger.append

    async def late(*what: Any, **how: Any) -> Any:
        await goes_on.wait()
        return await append(*what, **how)

    monkeypatch.setattr(stack.cmk.ledger, "append", late)
    path = f"/tenants/{tenant}/regions/{EU}/configuration"
    order = asyncio.create_task(stack.must(f"{tenant}-admin", "PATCH", path, {"labels": {"n": "1"}}))

    async def under_way() -> bool:
        return stack.cmk.registry.under_way == {CMK.key_id}

    await stack.until(under_way)
    lay_next(stack)
    await by_root(stack, announce_key)
    await asyncio.sleep(0.3)
    assert await sealing(stack) == (NEXT.key_id, False)
    goes_on.set()
    await order
    await seals(stack, NEXT)


async def test_it_is_not_done_before_the_hub_has_taken_what_was_sent(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(**_: Any) -> None:
        raise Unavailable("the hub does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(stack.cmk.connection, "flush", away)
        lay_next(stack)
        await by_root(stack, announce_key)
        await asyncio.sleep(0.3)
        assert await sealing(stack) == (NEXT.key_id, False)
    await seals(stack, NEXT)


async def test_a_cmk_that_was_not_given_the_next_key_writes_nothing_after_the_retirement(stack: Stack) -> None:
    tenant = await stack.tenant()
    await by_root(stack, announce_key)
    await by_root(stack, retire_other_keys)
    before = await stack.last()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}/configuration"
    assert (await stack.ask(admin, "PATCH", path, {"labels": {"n": "1"}})).status_code == 503
    answer = await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {"reason": "test"})
    assert [r["recorded"] for r in answer["revocations"]] == ["spool"]
    assert (await stack.ask(None, "GET", "/readyz")).status_code == 503
    assert await stack.last() == before
