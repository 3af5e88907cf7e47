"""The door: who gets in before a signature is checked, in which turn, and that a revocation waits for nobody's crowd."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from joserfc.jwk import ECKey

from governance_stack import OPERATOR, Idp, Stack, running_cmk
from openkcm.governance.portal import admission, auth, edge
from openkcm.governance.portal.admission import AT_ONCE, FORGED, Admission, Slots, kind_of
from openkcm.governance.portal.auth import Identity
from openkcm.governance.portal.known import KEPT_S, Known
from openkcm.governance.portal.limits import BUDGETS, Budget, Limits, fields
from orbital_fixture import Orbital

SWITCH = "/cmk/v1/tenants/acme/revocations"
READ = "/cmk/v1/tenants/acme"
ANNA = Identity("https://idp", "anna", 2_000_000_000)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture
async def stack(orbital: Orbital, idp: Idp, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_cmk(orbital, idp, tmp_path / "cmk", proxies=("127.0.0.1",)) as running:
        yield running


def door(clock: Clock | None = None) -> Admission:
    return Admission(Limits(clock or Clock()), {"a Bearer anna": ANNA}.get)


def let_in(at: Admission, method: str, path: str, shown: str, address: str, tries: int) -> int:
    return sum(at.judge(method, path, shown, address)[1] is None for _ in range(tries))


# --- who ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", SWITCH, "revoke"), ("GET", SWITCH, "read"), ("POST", f"{SWITCH}/x", "write"), ("PUT", SWITCH, "write"),
        ("POST", "/cmk/v1/revocations", "write"), ("POST", "/x/cmk/v1/tenants/acme/revocations", "write"),
        ("GET", READ, "read"), ("HEAD", "/", "read"), ("GET", "/healthz", "probe"), ("POST", "/healthz", "write"),
        ("BREW", READ, "write"),
    ],
)  # fmt: skip
def test_the_path_alone_tells_the_kind(method: str, path: str, kind: str) -> None:
    assert kind_of(method, path) == kind


def test_a_crowd_of_strangers_is_let_in_by_address_and_never_uses_up_the_switch() -> None:
    at = door()
    assert let_in(at, "GET", READ, "", "10.0.0.1", 5000) == BUDGETS["address", "stranger"].burst
    assert let_in(at, "POST", SWITCH, "a Bearer forged", "10.0.0.1", 5000) == BUDGETS["address", "strange-revoke"].burst
    assert let_in(at, "GET", READ, "", "10.0.0.2", 1) == 1
    assert let_in(at, "GET", READ, "a Bearer anna", "10.0.0.1", 100) == 100
    assert let_in(at, "POST", SWITCH, "a Bearer anna", "10.0.0.1", 1000) == 1000
    assert let_in(at, "GET", "/healthz", "", "10.0.0.1", 10) == 10


def test_who_asks_seldom_gets_in_beside_a_crowd_from_many_addresses() -> None:
    at = door()
    for n in range(60):
        let_in(at, "POST", SWITCH, f"a Bearer forged-{n}", f"10.0.1.{n}", 300)
    assert let_in(at, "POST", SWITCH, "a Bearer forged", "10.0.1.1", 100) == 0
    assert let_in(at, "POST", SWITCH, "a Bearer anna's, seen for the first time", "10.9.9.9", 1) == 1


def test_a_new_token_from_where_somebody_we_know_came_finds_room_beside_a_crowd_that_is_slow_enough_to_be_no_crowd() -> (
    None
):
    at = door()
    at.vouch("10.9.9.9")
    for n in range(2000):  # each of these asks seldom, and all of them together use up what is kept for such
        let_in(at, "POST", SWITCH, f"a Bearer forged-{n}", f"10.1.{n // 250}.{n % 250}", 1)
    assert let_in(at, "POST", SWITCH, "a Bearer new", "10.8.8.8", 1) == 0
    mine = BUDGETS["known", "strange-revoke"].burst
    assert let_in(at, "POST", SWITCH, "a Bearer new", "10.9.9.9", 1000) == mine
    at.vouch("10.7.7.7")  # somebody's whose address a crowd shares, or who is part of it
    for _ in range(FORGED):
        assert at.knows("10.7.7.7")
        at.forged("10.7.7.7")
    assert not at.knows("10.7.7.7")
    assert let_in(at, "POST", SWITCH, "a Bearer new", "10.7.7.7", 1) == 0


def test_an_identity_over_its_budget_is_refused_with_ready_bytes_that_say_when_to_come_back() -> None:
    clock = Clock()
    limits = Limits(clock)
    at = Admission(limits, {"a Bearer anna": ANNA}.get)
    while limits.take("subject", "anna", "read"):
        pass
    kind, refusal = at.judge("GET", READ, "a Bearer anna", "10.0.0.1")
    assert kind == "read"
    assert refusal is admission.TOO_MANY["read"]
    raw = refusal.raw(close=False)
    assert raw.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"retry-after: 1\r\n" in raw
    assert b'ratelimit: "read";r=0;t=3\r\n' in raw
    assert b'ratelimit-policy: "read";q=300;w=3\r\n' in raw
    assert at.judge("POST", SWITCH, "a Bearer anna", "10.0.0.1")[1] is None
    clock.now += 1
    assert at.judge("GET", READ, "a Bearer anna", "10.0.0.1")[1] is None


def test_what_is_said_of_a_budget_is_what_is_left_of_it() -> None:
    assert dict(fields("write", 200)) == {
        b"ratelimit-policy": b'"write";q=200;w=10',
        b"ratelimit": b'"write";r=200;t=0',
    }
    assert dict(fields("write", 0.5))[b"ratelimit"] == b'"write";r=0;t=10'


def test_who_was_recognised_is_known_for_a_minute_and_no_longer_than_the_token_says() -> None:
    clock, wall = Clock(), Clock()
    known = Known(clock, wall)
    known.keep("a Bearer anna", ANNA)
    known.keep("a Bearer short", Identity("https://idp", "bert", 1030))
    assert known.find("a Bearer anna") == ANNA
    assert known.find("a Bearer anna ") is None
    wall.now += 31
    assert known.find("a Bearer short") is None
    clock.now += KEPT_S
    assert known.find("a Bearer anna") is None
    known.keep("a Bearer anna", ANNA)
    known.forget_all()
    assert known.find("a Bearer anna") is None


# --- in which turn --------------------------------------------------------------------------------------------------


async def test_while_a_revocation_is_under_way_nothing_else_begins_and_then_all_go_on() -> None:
    slots, order = Slots(), []

    async def work(name: str, kind: str) -> None:
        assert await slots.enter(kind)  # type: ignore[arg-type]
        order.append(name)
        await asyncio.sleep(0)
        slots.leave(kind)  # type: ignore[arg-type]

    assert await slots.enter("revoke")
    others = [asyncio.create_task(work(f"{kind}-{n}", kind)) for n in range(4) for kind in ("read", "write")]
    await asyncio.sleep(0.01)
    assert order == []
    await work("second revocation", "revoke")
    slots.leave("revoke")
    await asyncio.gather(*others)
    assert order[0] == "second revocation"
    assert len(order) == 9


async def test_a_revocation_that_waits_for_the_hub_holds_others_up_for_a_moment_only() -> None:
    slots = Slots()
    assert await slots.enter("revoke")
    began = time.monotonic()
    assert await slots.enter("read")  # the revocation is still under way
    assert time.monotonic() - began >= admission.HOLD_S * 0.9


async def test_only_so_many_work_at_once_and_the_rest_waits_or_is_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "WAIT_S", 0.05)
    monkeypatch.setattr(admission, "WAITING", 3)
    slots = Slots()
    for _ in range(AT_ONCE["read"]):
        assert await slots.enter("read")
    waiting = [asyncio.create_task(slots.enter("read")) for _ in range(3)]
    await asyncio.sleep(0)
    assert slots.full("read")
    assert not await slots.enter("read")
    slots.leave("read")
    assert await waiting[0]
    assert [await one for one in waiting[1:]] == [False, False]
    assert not slots.full("write")
    assert not slots.full("revoke")


async def test_a_place_is_not_lost_with_somebody_who_goes_away_while_waiting() -> None:
    slots = Slots()
    for _ in range(AT_ONCE["read"]):
        await slots.enter("read")
    gone = asyncio.create_task(slots.enter("read"))
    await asyncio.sleep(0)
    slots.leave("read")  # the place is given to it ...
    gone.cancel()  # ... in the very turn in which it goes
    with contextlib.suppress(asyncio.CancelledError):
        if await gone:
            slots.leave("read")
    assert await asyncio.wait_for(slots.enter("read"), 1)


# --- over the wire --------------------------------------------------------------------------------------------------


class Raw:
    """A connection that says exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, *lines: str, body: str = "") -> tuple[int, bytes]:
        self.writer.write(("\r\n".join((*lines, "Host: x")) + "\r\n\r\n" + body).encode())
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        length = next(int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:"))
        return int(head[9:12]), head + await self.reader.readexactly(length)

    async def closed(self) -> bool:
        with contextlib.suppress(ConnectionError, TimeoutError):
            return await asyncio.wait_for(self.reader.read(), 3) == b""
        return True


@pytest_asyncio.fixture
async def connected(stack: Stack) -> AsyncIterator[Callable[[], Awaitable[Raw]]]:
    url, opened = stack.client.base_url, []

    async def connect() -> Raw:
        opened.append(Raw(*await asyncio.open_connection(url.host, url.port)))
        return opened[-1]

    yield connect
    for one in opened:
        one.writer.close()
        with contextlib.suppress(ConnectionError):
            await one.writer.wait_closed()


async def test_a_refused_connection_is_not_read_for_a_second_and_one_that_goes_on_is_closed(
    connected: Callable[[], Awaitable[Raw]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUDGETS, ("address", "stranger"), Budget(1, 0.5))
    calm = await connected()
    assert (await calm.ask("GET / HTTP/1.1"))[0] == 200
    began = time.monotonic()
    assert (await calm.ask("GET / HTTP/1.1"))[0] == 429
    assert (await calm.ask("GET / HTTP/1.1"))[0] == 429  # read only when the second is over
    assert time.monotonic() - began >= 0.9
    hasty = await connected()
    status, raw = await hasty.ask("GET / HTTP/1.1", "Host: x", "", "GET / HTTP/1.1")  # two at once
    assert (status, b'"code":"too-many-requests"' in raw) == (429, True)
    assert await hasty.closed()
    posting = await connected()
    status, raw = await posting.ask("POST /cmk/v1/tenants HTTP/1.1", "Content-Length: 2", body="{}")
    assert (status, b"connection: close" in raw) == (429, True)
    assert await posting.closed()


async def test_forged_tokens_at_the_switch_and_a_crowd_elsewhere_do_not_keep_the_switch_from_anybody(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known and new tokens pull it while every budget of strangers is spent; only the address's own crowd is in its way."""
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/cmk/v1/tenants/{tenant}"
    token = stack.idp.token(admin)
    assert (await stack.ask(None, "GET", path, token=token)).status_code == 200
    monkeypatch.setitem(BUDGETS, ("all", "strange-revoke"), Budget(5, 0.001))
    monkeypatch.setitem(BUDGETS, ("address", "strange-revoke"), Budget(6, 0.001))
    forged = base64.urlsafe_b64encode(secrets.token_bytes(60)).decode()
    answers: Counter[int] = Counter()
    for n in range(60):  # a crowd from many addresses, behind a proxy of ours
        address = {"X-Forwarded-For": f"10.0.0.{n % 10}"}
        answer = await stack.ask(None, "POST", f"{path}/revocations", {}, token=f"{forged}{n}", headers=address)
        answers[answer.status_code] += 1
    assert set(answers) <= {401, 429}
    assert answers[429] > 0
    for good in (token, stack.idp.token(admin)):  # one that was seen before, one that was not
        pulled = await stack.ask(
            None, "POST", f"{path}/revocations", {}, token=good, headers={"X-Forwarded-For": "10.1.1.1"}
        )
        assert pulled.status_code == 202, pulled.text


async def test_who_may_not_pull_a_switch_soon_stops_being_heard_there_and_only_there(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUDGETS, ("subject", "refused"), Budget(3, 0.001))
    tenant, other = await stack.tenant(), await stack.tenant()
    token = stack.idp.token(f"{tenant}-admin")
    foreign = [
        (await stack.ask(None, "POST", f"/tenants/{other}/revocations", {}, token=token)).status_code for _ in range(6)
    ]
    assert foreign == [404, 404, 404, 429, 429, 429]
    assert (await stack.ask(None, "POST", f"/tenants/{tenant}/revocations", {}, token=token)).status_code == 202


async def test_what_is_left_of_a_budget_is_said_with_every_answer(stack: Stack) -> None:
    tenant = await stack.tenant()
    answer = await stack.ask(f"{tenant}-admin", "GET", f"/tenants/{tenant}")
    assert answer.headers["ratelimit-policy"] == '"read";q=300;w=3'
    assert answer.headers["ratelimit"].startswith('"read";r=29')
    pulled = await stack.ask(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {})
    assert pulled.headers["ratelimit-policy"].startswith('"revoke";q=2000')


async def test_connections_that_show_nothing_make_way_for_new_ones_and_nobody_s_we_know(
    stack: Stack, connected: Callable[[], Awaitable[Raw]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "STRANGE_CONNECTIONS", 8)
    known = await connected()
    who = f"Authorization: Bearer {stack.idp.token(OPERATOR)}"
    assert (await known.ask("GET /cmk/v1/tenants HTTP/1.1", who))[0] == 200
    crowd = [await connected() for _ in range(20)]  # they say nothing
    for one in crowd[:8]:
        assert await one.closed()
    assert (await crowd[-1].ask("GET /healthz HTTP/1.1"))[0] == 200
    assert (await known.ask("GET /cmk/v1/tenants HTTP/1.1", who))[0] == 200


async def test_a_token_that_was_good_is_refused_as_soon_as_the_issuer_has_other_keys(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REFRESH_S", 0.0)
    old, kept = stack.idp.token(OPERATOR), stack.idp.key
    assert (await stack.ask(None, "GET", "/tenants", token=old)).status_code == 200
    other = ECKey.generate_key("P-256").as_dict(private=True)
    stack.idp.key = ECKey.import_key({**other, "kid": "k2", "use": "sig", "alg": "ES256"})
    try:
        assert (
            await stack.ask(None, "GET", "/tenants", token=old)
        ).status_code == 200  # recognised, and nobody said no
        assert (await stack.ask(None, "GET", "/tenants", token=stack.idp.token(OPERATOR, kid="k2"))).status_code == 200
        assert (await stack.ask(None, "GET", "/tenants", token=old)).status_code == 401
    finally:
        stack.idp.key = kept


async def test_what_the_end_of_the_process_cuts_off_is_told_to_come_back_and_not_that_something_is_wrong() -> None:
    at, sent = edge.Edge(door()), []

    async def app(*_: object) -> None:
        await asyncio.sleep(60)

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "state": {"kind": "write"}}
    task = asyncio.create_task(at.guarded(app)(scope, None, send))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()  # as the server does when it has waited long enough
    await task
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert await at.admission.slots.enter("write")
