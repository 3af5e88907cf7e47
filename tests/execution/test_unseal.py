"""Unsealing through real helper processes: what arrives, what must not, and who is left."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution import keyring
from openkcm.execution.arena import KeyArena
from openkcm.execution.breaker import Breaker
from openkcm.execution.roots.base import RootError, RootSettings, UnsealCancelled, Wrapped
from openkcm.execution.unseal import CONCURRENCY, Unsealer
from openkcm.execution.unseal_probe import Observation, Prober

ID = "0123456789abcdef" * 2
REGION = "eu-central-1"
SLOW_ARN = f"arn:aws:kms:{REGION}:000000000000:key/00000000-0000-0000-0000-000000000000"


def line(version: int) -> str:
    return f"v{version}:{base64.b64encode(os.urandom(32)).decode()}\n"


class House:
    """An unsealer, a key file, and a KMS that accepts and never answers."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "acme.keys"
        self.file.write_text(line(1))
        self.file.chmod(0o600)
        (directory / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
        self.silent = socket.create_server(("127.0.0.1", 0))
        policy = RootPolicy(
            providers=("file", "aws"), directories=(str(directory),), probe_s={"file": 0.05},
            endpoints={f"aws:{REGION}": f"http://127.0.0.1:{self.silent.getsockname()[1]}"},
            credentials={"aws": {"credentials_file": str(directory / "credentials")}},
        )  # fmt: skip
        self.settings = RootSettings(policy=policy, deadline_s=30.0)
        self.root = RootReference(provider="file", ref="acme.keys")
        self.slow = RootReference(provider="aws", ref=SLOW_ARN)
        self.arena = KeyArena(cells=16)
        self.unsealer = Unsealer(self.settings)

    def context(self, tenant: str = "acme", root: RootReference | None = None) -> keyring.KeyContext:
        return keyring.l2_context(tenant, "eu-frankfurt", 1, ID, root or self.root, "ab" * 32)

    def cell(self) -> memoryview:
        return self.arena.view(self.arena.allocate())

    async def wrap(self) -> tuple[Wrapped, memoryview]:
        view = self.cell()
        return await self.unsealer.wrap_new_kek("acme", self.root, self.context(), view), view

    async def never(self, into: memoryview, tenant: str = "acme") -> None:
        """An unwrap that stays with the KMS until somebody ends it."""
        wrapped = Wrapped(ciphertext=b"c" * 64, root_version=SLOW_ARN)
        await self.unsealer.unwrap(tenant, self.slow, wrapped, self.context(tenant, self.slow), into)

    async def under_way(self, count: int = 1) -> list[int]:
        """Wait until `count` helpers run, and return their process ids."""
        calls = self.unsealer._calls
        await until(lambda: sum(call.pidfd is not None for call in calls.values()) >= count)
        return [pid_of(call.pidfd) for call in calls.values()]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- other processes set no event of ours
        await asyncio.sleep(0.005)


def pid_of(pidfd: int | None) -> int:
    facts = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return int(facts.partition("Pid:")[2].split()[0])


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    one = House(tmp_path)
    yield one
    one.unsealer.close()
    one.silent.close()


async def test_a_kek_is_wrapped_unwrapped_and_rewrapped(house: House) -> None:
    wrapped, kek = await house.wrap()
    assert bytes(kek) != bytes(32)
    assert wrapped.canary is not None
    again = house.cell()
    await house.unsealer.unwrap("acme", house.root, wrapped, house.context(), again)
    assert again == kek
    house.file.write_text(house.file.read_text() + line(2))
    renewed = await house.unsealer.rewrap("acme", house.root, wrapped, house.context())
    assert (wrapped.root_version, renewed.root_version) == ("v1", "v2")
    assert renewed.canary is not None
    assert renewed.canary.root_version == "v2"
    third = house.cell()
    await house.unsealer.unwrap("acme", house.root, renewed, house.context(), third)
    assert third == kek


async def test_a_refusal_comes_with_its_code_and_leaves_zeros(house: House) -> None:
    wrapped, _ = await house.wrap()
    view = house.cell()
    for spoil, code in ((lambda: None, "WrongContext"), (house.file.unlink, "KeyNotFound")):
        spoil()
        view[:] = b"\x01" * 32
        with pytest.raises(RootError) as no:
            await house.unsealer.unwrap("acme", house.root, wrapped, house.context("bolt"), view)
        assert no.value.code == code
        assert bytes(view) == bytes(32)


async def test_a_revocation_kills_the_unseal_and_nothing_arrives_after_it(house: House) -> None:
    view = house.cell()
    call = asyncio.ensure_future(house.never(view))
    (pid,) = await house.under_way()
    house.unsealer.cancel("acme")
    assert not runs(pid)
    with pytest.raises(UnsealCancelled):
        await call
    assert bytes(view) == bytes(32)
    assert not house.unsealer._calls


async def test_a_revocation_ends_the_calls_that_wait_in_line_too(house: House) -> None:
    first = asyncio.ensure_future(house.never(house.cell()))
    await house.under_way()
    waiting = asyncio.ensure_future(house.wrap())
    await asyncio.sleep(0)
    house.unsealer.cancel("acme")
    for call in (first, waiting):
        with pytest.raises(UnsealCancelled):
            await call
    assert (await house.wrap())[0].root_version == "v1"  # ordered after it: served


async def test_a_revocation_while_the_zygote_still_imports_waits_for_nothing(house: House) -> None:
    call = asyncio.ensure_future(house.never(house.cell()))
    await asyncio.sleep(0)
    assert house.unsealer._calls
    house.unsealer.cancel("acme")
    with pytest.raises(UnsealCancelled):
        await call
    assert (await house.wrap())[0].root_version == "v1"


async def test_a_revocation_of_one_tenant_leaves_the_others_calls_alone(house: House) -> None:
    acme, bolt = (asyncio.ensure_future(house.never(house.cell(), t)) for t in ("acme", "bolt"))
    await house.under_way(2)
    house.unsealer.cancel("acme")
    with pytest.raises(UnsealCancelled):
        await acme
    await asyncio.sleep(0.05)
    assert not bolt.done()
    house.unsealer.cancel("bolt")
    with pytest.raises(UnsealCancelled):
        await bolt


async def test_equal_unseals_at_once_are_one_process_and_each_gets_the_key(house: House) -> None:
    wrapped, kek = await house.wrap()
    views = [house.cell() for _ in range(5)]
    asked = house.unsealer._n
    await asyncio.gather(*(house.unsealer.unwrap("acme", house.root, wrapped, house.context(), view) for view in views))
    assert all(view == kek for view in views)
    assert house.unsealer._n == asked + 1


async def test_a_provider_is_asked_by_so_many_at_once_and_another_one_keeps_nobody_waiting(house: House) -> None:
    tenants = [f"t{n}" for n in range(CONCURRENCY + 2)]
    calls = [asyncio.ensure_future(house.never(house.cell(), tenant)) for tenant in tenants]
    await house.under_way(CONCURRENCY)
    await house.wrap()  # of the other provider
    assert [call.tenant for call in house.unsealer._calls.values()] == tenants[:CONCURRENCY]
    house.unsealer.cancel(tenants[0])
    await until(lambda: tenants[CONCURRENCY] in {call.tenant for call in house.unsealer._calls.values()})
    for tenant in tenants:
        house.unsealer.cancel(tenant)
    assert all(isinstance(end, UnsealCancelled) for end in await asyncio.gather(*calls, return_exceptions=True))


async def test_a_caller_that_gives_up_takes_its_view_away_and_no_process_stays(house: House) -> None:
    view = house.cell()
    call = asyncio.ensure_future(house.never(view))
    await house.under_way()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not house.unsealer._calls
    assert bytes(view) == bytes(32)


async def test_a_zygote_that_died_is_replaced_by_the_next_call(house: House) -> None:
    await house.wrap()
    running = asyncio.ensure_future(house.never(house.cell()))
    (pid,) = await house.under_way()
    zygote = house.unsealer._zygote
    assert zygote is not None
    zygote.kill()
    with pytest.raises(RootError) as no:
        await running
    assert no.value.code == "Unreachable"
    await until(lambda: not runs(pid))  # PDEATHSIG: the children go with it
    assert (await house.wrap())[0].root_version == "v1"
    assert house.unsealer._zygote is not zygote


async def test_a_root_that_is_too_slow_is_unreachable(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.unsealer = Unsealer(replace(house.settings, deadline_s=0.2))
    with pytest.raises(RootError) as no:
        await house.never(house.cell())
    assert no.value.code == "Unreachable"
    house.unsealer.close()
    house.silent.close()


async def test_a_view_that_is_no_kek_is_refused_before_anything_starts(house: House) -> None:
    for view in (memoryview(bytearray(31)), memoryview(bytes(32))):
        with pytest.raises(ValueError):
            await house.unsealer.wrap_new_kek("acme", house.root, house.context(), view)
    assert house.unsealer._n == 0


def test_the_breaker_opens_after_three_inconclusive_answers_and_lets_one_try_later() -> None:
    now = [0.0]
    breaker = Breaker(clock=lambda: now[0], uniform=lambda _low, high: high)
    for _ in range(3):
        breaker.check()
        breaker.note(RootError("Unreachable", "no route"))
    with pytest.raises(RootError, match="no route") as no:
        breaker.check()
    assert no.value.code == "Unreachable"
    now[0] = 1.1
    breaker.check()
    breaker.note(RootError("Throttled"))
    now[0] = 2.9  # doubled
    with pytest.raises(RootError):
        breaker.check()
    now[0] = 3.2
    breaker.check()
    breaker.note(None)
    breaker.check()


def test_the_customers_own_refusals_never_open_the_breaker() -> None:
    breaker = Breaker(clock=lambda: 0.0)
    for _ in range(10):
        breaker.note(RootError("KeyDisabled"))
        breaker.check()


# --- the prober -------------------------------------------------------------------------------------------------------


async def test_the_prober_sees_a_cut_a_return_and_a_rotation(house: House) -> None:
    wrapped, _ = await house.wrap()
    assert wrapped.canary is not None
    seen: asyncio.Queue[Observation] = asyncio.Queue()
    prober = Prober(house.settings, seen.put_nowait)
    text = house.file.read_text()

    async def told(code: str, version: str | None) -> None:
        while (found := await seen.get()).code != code or found.root_version != version:
            pass

    try:
        prober.start()
        prober.watch("acme", house.root, house.context(), wrapped.canary)
        await told("ok", "v1")
        house.file.unlink()
        await told("KeyNotFound", None)
        house.file.write_text(text)
        house.file.chmod(0o600)
        await told("ok", "v1")
        house.file.write_text(text + line(2))
        await told("ok", "v2")
        first = prober.pid
        assert prober._process is not None
        prober._process.kill()  # another takes its place, with the same watches
        await until(lambda: prober.pid not in {first, None})
        await told("ok", "v2")
        prober.unwatch("acme")
        while not seen.empty():
            seen.get_nowait()
        await asyncio.sleep(0.2)
        assert seen.empty()
    finally:
        prober.close()


async def test_a_canary_of_another_residence_is_no_proof(house: House) -> None:
    wrapped, _ = await house.wrap()
    assert wrapped.canary is not None
    seen: asyncio.Queue[Observation] = asyncio.Queue()
    prober = Prober(house.settings, seen.put_nowait)
    try:
        prober.start()
        prober.watch("bolt", house.root, house.context("bolt"), wrapped.canary)
        assert (await seen.get()).code == "WrongContext"
    finally:
        prober.close()


async def test_more_watches_than_the_socket_holds_wait_for_a_prober_that_is_slow(house: House) -> None:
    wrapped, _ = await house.wrap()
    assert wrapped.canary is not None
    seen: set[str] = set()
    prober = Prober(house.settings, lambda observation: seen.add(observation.tenant))
    tenants = {f"t{n}" for n in range(500)}
    try:
        prober.start()
        first = prober.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        for tenant in tenants:
            prober.watch(tenant, house.root, house.context(), wrapped.canary)
        prober.unwatch("t499")
        os.kill(first, signal.SIGCONT)
        await until(lambda: prober.pid != first or seen >= tenants - {"t499"})
        assert prober.pid == first
        assert "t499" not in seen
        prober._process.kill()  # type: ignore[union-attr]
        await until(lambda: prober.pid not in {first, None})
        seen.clear()
        await until(lambda: seen >= tenants - {"t499"})  # all of them are told to the next one
    finally:
        prober.close()
