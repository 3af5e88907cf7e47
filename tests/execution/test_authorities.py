"""A tenant's own CA vouches for that tenant's workloads and for nobody else's: judged, and tried on a real node."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from custody.residence_bench import serving_node
from node_bench import Governor, RunningNode, new_key_file, onboarding
from openkcm.cli.endpoints import Kmip, Workload
from openkcm.cli.load import Load, Task, make_key
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import statements
from openkcm.contract.authority import NotARootCa, check_root_ca, name_of
from openkcm.execution.authorities import Trust
from openkcm.execution.inputs import Arrived
from openkcm.execution.judge import judged
from openkcm.execution.residence_state import State
from own_ca import OwnCa, weak
from press import Press, new_id, sign

REGION = "eu-frankfurt"


def trusted(
    press: Press, tenant: str, ca: OwnCa, authority: str, *, people=None, approval=None, certificate=None, **how
):
    approval = approval or new_id("approval")
    words = statements.authority_statement(tenant, press.region, approval, ca.der)
    decree = d.WorkloadAuthorityTrusted(
        authority=authority, certificate=certificate or ca.der, approval=approval,
        signatures=sign(words, press.people if people is None else people),
    )  # fmt: skip
    return press.residence(tenant, decree, **how)


def enrolled(press: Press, tenant: str, name: str, spiffe: str, authority: str | None):
    registration = f"reg-{tenant}-payments"
    return press.residence(
        tenant,
        d.WorkloadEnrolled(
            workload=name, system="payments", registration=registration, enrolment=f"enr-{tenant}-{name}",
            spiffe=spiffe, authority=authority,
        ),
    )  # fmt: skip


class World:
    """A node's state, fed by a press."""

    def __init__(self) -> None:
        self.press = Press()
        self.state = State(node="n-1", region=REGION, boot_id="b", trust_root=self.press.root.public_key)
        self.sequence = 0
        for e in self.press.opening(("n-1", REGION)):
            self.take(e)
        for tenant in ("acme", "bolt"):
            for e in self.press.onboarded(tenant):
                self.take(e)

    def take(self, e: env.Envelope) -> list:
        self.sequence += 1
        source = "critical" if ".critical." in e.subject else "routine"
        arrived = Arrived(
            source=source, subject=e.subject, body=env.encode(e), sequence=self.sequence, now_ns=1, final=True
        )
        self.state, effects = judged(self.state, arrived)
        return effects

    def refusal(self, tenant: str = "acme") -> str | None:
        return self.state.residences[tenant].refusal


@pytest.fixture
def world() -> World:
    return World()


# --- judged ---------------------------------------------------------------------------------------------------------


def test_two_people_let_a_ca_in_and_one_nobody_or_a_changed_certificate_does_not(world: World) -> None:
    ca, p = OwnCa("acme root"), world.press
    for bad in (
        trusted(p, "acme", ca, "aut-00000001", people={}),
        trusted(p, "acme", ca, "aut-00000001", people={"p-ann": p.people["p-ann"]}),
        trusted(p, "acme", ca, "aut-00000001", people={"p-ann": p.people["p-ann"], "p-bob": p.people["p-ann"]}),
        trusted(p, "acme", ca, "aut-00000001", certificate=OwnCa("other").der),
    ):
        world.take(bad)
        assert world.refusal() == "AuthorityRefused"
        assert world.state.residences["acme"].authorities == {}
    effects = world.take(trusted(p, "acme", ca, "aut-00000001", approval="approval-once"))
    assert world.refusal() is None
    assert "trust" in [e.kind for e in effects]
    world.take(trusted(p, "acme", OwnCa("acme two"), "aut-00000002", approval="approval-once"))
    assert world.refusal() == "AuthorityRefused"  # an approval counts once
    assert world.state.residences["acme"].authorities == {"aut-00000001": ca.der}


@pytest.mark.parametrize(
    "der",
    [
        OwnCa("leaf", ca=False).der, OwnCa("signs nothing", signs=False).der, weak().der, b"0" * 200,
        OwnCa("below", issuer=OwnCa("above")).der, OwnCa("same name", issuer=OwnCa("same name")).der,
    ],
    ids=["no CA", "no keyCertSign", "1024 bits", "no certificate", "intermediate", "issued by its namesake"],
)  # fmt: skip
def test_only_a_root_that_signed_itself_with_a_strong_key_is_taken(der: bytes) -> None:
    with pytest.raises(NotARootCa):
        check_root_ca(der)


def test_a_name_belongs_to_the_tenant_that_had_it_first_however_it_is_spelled(world: World) -> None:
    p = world.press
    world.take(trusted(p, "acme", OwnCa("Acme  Root"), "aut-00000001"))
    world.take(trusted(p, "bolt", OwnCa("acme root"), "aut-00000002"))
    assert world.refusal("bolt") == "AuthorityTaken"
    assert world.state.residences["bolt"].authorities == {}
    world.take(p.residence("acme", d.WorkloadAuthoritiesRemoved(authorities=("aut-00000001",))))
    world.take(trusted(p, "bolt", OwnCa("acme root"), "aut-00000003"))
    assert world.refusal("bolt") == "AuthorityTaken"  # a worker may hold the old one still
    world.take(trusted(p, "acme", OwnCa("acme root"), "aut-00000004"))  # a new key under one's own name
    assert world.refusal("acme") is None


def test_an_enrolment_under_an_authority_that_is_not_there_changes_nothing(world: World) -> None:
    world.take(enrolled(world.press, "acme", "app2", "spiffe://acme.example/app", "aut-00000009"))
    assert world.refusal() == "UnknownAuthority"


def test_removing_an_authority_cuts_what_was_enrolled_under_it_and_it_never_comes_back(world: World) -> None:
    ca, p = OwnCa("acme root"), world.press
    world.take(trusted(p, "acme", ca, "aut-00000001"))
    world.take(enrolled(p, "acme", "app2", "spiffe://acme.example/app", "aut-00000001"))
    assert len(world.state.residences["acme"].serving_workloads()) == 2
    effects = world.take(p.residence("acme", d.WorkloadAuthoritiesRemoved(authorities=("aut-00000001",))))
    cut = next(e for e in effects if e.kind == "cut")
    assert "enr-acme-app2" in cut.names
    assert [w.workload for w in world.state.residences["acme"].serving_workloads()] == ["app"]
    world.take(trusted(p, "acme", ca, "aut-00000001"))
    assert world.refusal() == "AuthorityRefused"


def test_a_chain_speaks_only_for_what_was_enrolled_under_the_ca_it_ends_in() -> None:
    region, acme, bolt = OwnCa("region"), OwnCa("acme root"), OwnCa("bolt root")
    trust = Trust([region.der])
    ends = {ca: hashlib.sha256(ca.der).hexdigest() for ca in (region, acme, bolt)}
    assert trust.vouches(ends[region], None)
    assert trust.vouches(ends[acme], acme.der)
    assert not trust.vouches(ends[acme], None)
    assert not trust.vouches(ends[acme], bolt.der)
    assert not trust.vouches(ends[region], acme.der)
    assert not trust.vouches(ends[region], region.der)  # whoever registers the region's own CA has no part in it
    assert not trust.vouches("", None)
    assert trust.names == {name_of(region.der)}


# --- on a real node -------------------------------------------------------------------------------------------------


async def test_a_tenants_ca_serves_its_own_workloads_and_is_of_no_use_against_another(tmp_path) -> None:
    async with serving_node(tmp_path) as (governor, node):
        new_key_file(node.key_file)
        await _on_a_node(governor, node, governor.press, tmp_path)


async def _on_a_node(governor: Governor, node: RunningNode, press: Press, folder) -> None:
    for tenant in ("acme", "bolt"):
        for e in onboarding(press, tenant, node.key_file):
            await governor.append(e)
    counters = {"acme": 5, "bolt": 5}
    ids = {t: f"spiffe://{t}.example/app" for t in counters}
    roots = {t: OwnCa(f"{t} root") for t in counters}

    async def order(tenant: str, e) -> str | None:
        counters[tenant] += 1
        await governor.append(e)
        ack = await governor.until(lambda: governor.acked(tenant, "routine", counters[tenant]))
        return ack.failure

    def asks(cert, key) -> str | None:
        return make_key(
            Kmip(host="127.0.0.1", port=node.port), Workload(cert=str(cert), key=str(key), ca=str(node.authority.ca))
        )

    async def serves(files, *, timeout_s: float = 3.0) -> bool:
        for _ in range(int(timeout_s / 0.1)):
            if await asyncio.to_thread(asks, *files) is not None:
                return True
            await asyncio.sleep(0.1)
        return False

    below = OwnCa("acme issuing", issuer=roots["acme"])
    good = below.issue(folder, "acme-app", ids["acme"])
    assert await asyncio.to_thread(asks, *good) is None  # nobody knows this CA yet
    for tenant in counters:  # (1) each tenant registers its own CA and enrols its workload under it; no restart
        await order(tenant, trusted(press, tenant, roots[tenant], f"aut-{tenant}-0001"))
        await order(tenant, enrolled(press, tenant, "own", ids[tenant], f"aut-{tenant}-0001"))
    assert await serves(good)
    assert await serves(roots["bolt"].issue(folder, "bolt-app", ids["bolt"]))
    # (2) a CA names another tenant's workload, in every way it can
    namesake = OwnCa("bolt root")  # the very name, its own key
    impostors = {
        "the other's id": roots["acme"].issue(folder, "x1", ids["bolt"]),
        "by an intermediate": below.issue(folder, "x2", ids["bolt"]),
        "a CA of the other's name": namesake.issue(folder, "x3", ids["bolt"]),
        "a CA that nobody knows": OwnCa("stranger").issue(folder, "x4", ids["acme"]),
    }
    for why, files in impostors.items():
        assert await asyncio.to_thread(asks, *files) is None, why
    cert, key = node.authority.issue_workload("bolt", "app", spiffe=True)  # by the region's CA, the id of nobody's
    assert await asyncio.to_thread(asks, cert, key) is None
    # both ids in one certificate: it is the CA's own tenant that is served, never the other
    both = roots["acme"].issue(folder, "x5", ids["bolt"], ids["acme"])
    uid = await asyncio.to_thread(asks, *both)
    assert uid is not None
    # a CA of the other's name is not let in at all, so it breaks nobody's handshake
    assert await order("acme", trusted(press, "acme", namesake, "aut-acme-0002")) == "AuthorityTaken"
    assert await asyncio.to_thread(asks, *namesake.issue(folder, "x6", ids["acme"])) is None
    assert await serves(roots["bolt"].issue(folder, "bolt-app2", ids["bolt"]))
    # (3) removed: a live session is cut, a new one is refused, and the other tenant's CA goes on
    task = Task(kmip=Kmip(host="127.0.0.1", port=node.port), uid=uid, rate=50, connections=1,
                workload=Workload(cert=str(good[0]), key=str(good[1]), ca=str(node.authority.ca)))  # fmt: skip
    with await asyncio.to_thread(Load, task) as load:
        await asyncio.sleep(1)
        await governor.append(press.residence("acme", d.WorkloadAuthoritiesRemoved(authorities=("aut-acme-0001",))))
        ack = await governor.until(lambda: governor.acked("acme", "critical", 1))
        assert ack.state == "active"
        await asyncio.sleep(0.5)
        records = await asyncio.to_thread(load.end)
    assert records[0].outcome == "served", records[0]
    assert records[-1].outcome in {"lost", "refused"}, records[-1]
    assert await asyncio.to_thread(asks, *good) is None
    assert await serves(roots["bolt"].issue(folder, "bolt-app3", ids["bolt"]))
    # (4) after a restart the CAs that count are there again, the removed one is not
    node.kill()
    node.start()
    await node.wait_ready()
    assert await serves(roots["bolt"].issue(folder, "bolt-app4", ids["bolt"]), timeout_s=15)
    assert await asyncio.to_thread(asks, *good) is None
