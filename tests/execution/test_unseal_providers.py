"""Every provider through the real helper processes: forked or spawned, and what the custodian's process never loads."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from execution.root_customers import PARTNERS, customer_of
from execution.test_unseal import runs, until
from openkcm.execution import keyring
from openkcm.execution.arena import KeyArena
from openkcm.execution.roots.base import RootError
from openkcm.execution.unseal import Unsealer
from openkcm.execution.unseal_helper import SPARES
from openkcm.execution.unseal_probe import Observation, Prober
from simulators.softhsm import module_path

pytestmark = [pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated"), pytest.mark.timeout(60)]
SPAWNED = {"gcp", "pkcs11"}  # said here once more: a forked gRPC or vendor library is not to come back unseen
LIBRARIES = {"gcp": "cygrpc", "pkcs11": "libsofthsm2"}  # what a spawned helper maps, and nobody else


@pytest.fixture(params=["file", *PARTNERS])
def customer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "pkcs11" and module_path() is None:
        pytest.skip("needs the Debian package softhsm2")
    with customer_of(request.param, tmp_path) as one:
        yield one


def context(customer: Any) -> keyring.KeyContext:
    return keyring.l2_context("acme", "eu-frankfurt", 1, "0123456789abcdef" * 2, customer.reference, "ab" * 32)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def maps(pid: int, library: str) -> bool:
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_kek_goes_through_a_helper_of_each_provider_and_the_prober_sees_the_root(customer: Any) -> None:
    provider = customer.reference.provider
    settings = replace(
        customer.settings, deadline_s=5.0, policy=replace(customer.settings.policy, probe_s={provider: 0.2})
    )
    unsealer, arena = Unsealer(settings), KeyArena(cells=8)
    seen: asyncio.Queue[Observation] = asyncio.Queue()
    prober = Prober(settings, seen.put_nowait)
    first, again, after = (arena.view(arena.allocate()) for _ in range(3))
    try:
        wrapped = await unsealer.wrap_new_kek("acme", customer.reference, context(customer), first)
        await unsealer.unwrap("acme", customer.reference, wrapped, context(customer), again)
        assert bytes(first) == bytes(again) != bytes(32)
        assert unsealer._zygote is not None
        zygote = unsealer._zygote.pid
        await until(lambda: len(children(zygote)) == (SPARES if provider in SPAWNED else 0))
        if provider in SPAWNED:
            waiting = children(zygote)
            if provider == "gcp":  # a vendor's library is loaded by the call itself
                await until(lambda: all(maps(pid, LIBRARIES[provider]) for pid in waiting))
            assert not maps(zygote, LIBRARIES[provider])
        assert wrapped.canary is not None
        prober.start()
        prober.watch("acme", customer.reference, context(customer), wrapped.canary)
        assert ((said := await seen.get()).code, said.root_version) == ("ok", wrapped.root_version)
        await asyncio.to_thread(customer.rotate)
        renewed = await unsealer.rewrap("acme", customer.reference, wrapped, context(customer))
        assert renewed.root_version != wrapped.root_version
        await unsealer.unwrap("acme", customer.reference, renewed, context(customer), after)
        assert bytes(first) == bytes(after)
        while (await seen.get()).root_version != renewed.root_version:
            pass
        if hasattr(customer, "delete"):
            await asyncio.to_thread(customer.delete)
            with pytest.raises(RootError) as no:
                await unsealer.unwrap("acme", customer.reference, renewed, context(customer), after)
            assert no.value.code == "KeyNotFound"
            while (await seen.get()).code != "KeyNotFound":
                pass
    finally:
        prober.close()
        unsealer.close()


async def test_a_spare_that_died_while_it_waited_costs_no_call(tmp_path: Path) -> None:
    with customer_of("gcp", tmp_path) as customer:
        unsealer, arena = Unsealer(replace(customer.settings, deadline_s=5.0)), KeyArena(cells=4)
        view = arena.view(arena.allocate())
        try:
            unsealer.start()
            await until(lambda: unsealer._ready)
            assert unsealer._zygote is not None
            waiting = children(unsealer._zygote.pid)
            for pid in waiting:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not any(map(runs, waiting)))
            await unsealer.wrap_new_kek("acme", customer.reference, context(customer), view)
            assert bytes(view) != bytes(32)
        finally:
            unsealer.close()
