"""A witness signs what grows, remembers over restarts, and refuses every other history; alone, and over the real API."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from audit.signed_trees import NAME, Folded, grown, noted
from governance_ledger import CMK, EU, TRUST
from governance_ledger import Ledger as Script
from governance_stack import Idp, issuer, running_cmk
from openkcm.audit.notary import Notary
from openkcm.audit.verify import AuditError
from openkcm.audit.witness import Fork, History, NotGenuine, TrustEvents, Witness
from openkcm.bus.checkpoints import Checkpoints
from openkcm.cli import witness as program
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import subjects
from openkcm.contract.seal import Signer
from openkcm.projector.trees import StoredTree  # noqa: F401 -- what the API proves with
from orbital_fixture import Orbital

SIGNER = Signer(b"w" * 32)
WHO = "auditor.example/w1"


class Bench:
    def __init__(self, home: Path) -> None:
        self.home, self.script, self.told = home, grown(Script(), 5), Folded(home / "a.sqlite")
        self.told.take(self.script.messages)

    @property
    def trust(self) -> TrustEvents:
        return TrustEvents(TRUST.public_key, [m.body for m in self.script.messages[:2]])

    def witness(self, prove=None) -> Witness:
        history = History(self.home / "history.ndjson")
        return Witness(
            WHO, SIGNER, TRUST.public_key, history, prove=prove or self.told.prove, now_s=lambda: 1_700_000_000
        )

    def grow(self, count: int) -> None:
        grown(self.script, count)
        self.told.take(self.script.messages)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_it_cosigns_what_grows_once_and_remembers_it_over_a_restart(bench: Bench) -> None:
    for count in (0, 3, 9):
        bench.grow(count)
        signed = bench.witness().see(str(bench.told.note()), bench.trust)
        assert signed is not None
        cp.verify(signed, cp.verifier_key(WHO, SIGNER.public_key, witness=True))
        assert bench.witness().see(str(bench.told.note()), bench.trust) is None
    assert bench.witness().known(EU) == bench.told.point()
    assert len(History(bench.home / "history.ndjson").entries) == 3


def test_another_history_is_refused_named_and_never_signed_again(bench: Bench, tmp_path: Path) -> None:
    first = bench.told.point()
    bench.witness().see(str(bench.told.note()), bench.trust)
    other = msgspec.structs.replace(first, root=bytes(32))
    with pytest.raises(Fork, match=r"two roots of one size") as forked:
        bench.witness().see(str(noted(other)), bench.trust)
    assert str(first) in str(forked.value)
    assert str(other) in str(forked.value)
    bench.grow(2)
    with pytest.raises(Fork, match="has forked before"):
        bench.witness().see(str(bench.told.note()), bench.trust)
    entries = History(tmp_path / "history.ndjson").entries
    assert [e.fork is None for e in entries] == [True, False]
    assert cp.parse_note(entries[1].fork).checkpoint() == other, "the proof of the fork is kept"


def test_a_ledger_that_shrank_is_a_fork(bench: Bench) -> None:
    small = bench.told.note()
    bench.grow(4)
    bench.witness().see(str(bench.told.note()), bench.trust)
    with pytest.raises(Fork, match="shrank"):
        bench.witness().see(str(small), bench.trust)


def test_a_larger_tree_that_does_not_begin_with_ours_is_not_signed(bench: Bench, tmp_path: Path) -> None:
    bench.witness().see(str(bench.told.note()), bench.trust)
    liar = Folded(tmp_path / "b.sqlite")
    script = grown(Script(), 12, lease_s=99)
    liar.take(script.messages)
    for prove in (liar.prove, lambda *_: [], lambda *_: [bytes(32)] * 3):
        with pytest.raises(NotGenuine, match="not shown to follow"):
            bench.witness(prove).see(str(liar.note()), bench.trust)
    assert bench.witness().known(EU) == bench.told.point()
    bench.grow(1)
    assert bench.witness().see(str(bench.told.note()), bench.trust) is not None


def test_what_is_not_governances_or_not_this_ledgers_proves_nothing(bench: Bench) -> None:
    stranger = Signer(b"s" * 32)
    point = bench.told.point()
    for text, trust in (
        (str(bench.told.note(signer=stranger)), bench.trust),
        (str(bench.told.note()), TrustEvents(TRUST.public_key, [])),
        (str(noted(msgspec.structs.replace(point, origin="openkcm-x/eu-frankfurt/1"))), bench.trust),
        ("no note", bench.trust),
    ):
        with pytest.raises(NotGenuine):
            bench.witness().see(text, trust)
    rotated = bench.script.add(
        subjects.ledger_aggregate(),
        d.SigningKeyRotated(key=stranger.key_id, public_key=stranger.public_key, retires=(CMK.key_id,)),
        signer=TRUST,
    )
    after = TrustEvents(TRUST.public_key, [*(m.body for m in bench.script.messages[:2]), env.encode(rotated)])
    with pytest.raises(NotGenuine, match="no key"):
        bench.witness().see(str(bench.told.note()), after)  # its key is retired
    assert bench.witness().see(str(bench.told.note(signer=stranger)), after) is not None
    forged = bench.script.add(
        subjects.ledger_aggregate(), d.SigningKeyRotated(key=CMK.key_id, public_key=CMK.public_key), signer=CMK
    )
    with pytest.raises(NotGenuine):
        TrustEvents(TRUST.public_key, [env.encode(forged)])
    assert not (bench.home / "history.ndjson").read_text().count("fork")


def test_a_new_epoch_takes_the_trust_roots_word(bench: Bench) -> None:
    bench.witness().see(str(bench.told.note()), bench.trust)
    point = msgspec.structs.replace(
        bench.told.point(), origin=cp.origin_of(NAME, EU, 2), epoch=2, size=1, sequence=2 << 40
    )
    with pytest.raises(NotGenuine, match="not opened epoch 2"):
        bench.witness().see(str(noted(point)), bench.trust)
    decree = d.LedgerOpened(epoch=2, first_sequence=2 << 40, closes=("epoch 1: lost after 57",))
    opened = bench.script.add(subjects.ledger_aggregate(), decree, signer=TRUST, epoch=2)
    trust = TrustEvents(TRUST.public_key, [*(m.body for m in bench.script.messages[:2]), env.encode(opened)])
    assert bench.witness().see(str(noted(point)), trust) is not None
    assert History(bench.home / "history.ndjson").entries[-1].opened == ("epoch 1: lost after 57",)
    with pytest.raises(NotGenuine, match="closed epoch"):
        bench.witness().see(str(bench.told.note()), trust)


def test_a_history_cut_in_the_middle_of_a_line_goes_on_and_a_damaged_one_does_not(bench: Bench) -> None:
    path = bench.home / "history.ndjson"
    bench.witness().see(str(bench.told.note()), bench.trust)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    bench.grow(1)
    assert bench.witness().see(str(bench.told.note()), bench.trust) is not None
    assert len(History(path).entries) == 2
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(AuditError, match="line 1"):
        History(path)


@pytest.fixture(scope="module")
def idp() -> Iterator[Idp]:
    with issuer() as running:
        yield running


async def test_the_program_cosigns_over_the_api_and_stops_at_a_fork(
    orbital: Orbital, idp: Idp, tmp_path: Path, capsys
) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        tenant = await stack.tenant()
        cmk = stack.cmk
        notary = Notary(cmk.ledger, Checkpoints(cmk.connection), cmk.views.reader, lambda: CMK, TRUST.public_key)
        await cmk.projected((await cmk.ledger.info()).last)
        await notary.round()
        token, key, history = tmp_path / "token", tmp_path / "w.key", tmp_path / "history.ndjson"
        token.write_text(idp.token(f"{tenant}-auditor"))
        assert program.new_key(key, WHO) == 0
        verifier = capsys.readouterr().out.strip()
        options = program.Options(
            url=str(stack.client.base_url), token=token, key=key, name=WHO, history=history,
            trust_root=base64.b64encode(TRUST.public_key).decode(),
        )  # fmt: skip

        async def once(**changed: object) -> int:
            return await asyncio.to_thread(program.run, msgspec.structs.replace(options, **changed))

        assert await once() == 0
        shown = (await stack.must(f"{tenant}-auditor", "GET", "/checkpoints"))["value"]
        assert {t["tree"] for t in shown if [w["verifier"] for w in t["witnesses"]] == [verifier]} >= {EU, "global"}
        await stack.tenant()
        await cmk.projected((await cmk.ledger.info()).last)
        await notary.round()
        assert await once() == 0
        signed = program.history_of(history, cp.read_verifier(verifier))
        sizes = [note.checkpoint().size for _, note in signed if note.checkpoint().tree == EU]
        assert len(sizes) == 2
        assert sizes[0] < sizes[1]
        # a witness that knew more than this ledger has: what it signed comes from another history
        entry = History(history).entries[-1]
        point = cp.parse_note(entry.note).checkpoint()
        History(history).append(
            msgspec.structs.replace(entry, note=str(noted(msgspec.structs.replace(point, size=point.size + 5))))
        )
        assert await once() == program.FORKED
        assert await once(trust_root=base64.b64encode(b"x" * 32).decode()) == program.NOT_DONE
        assert await once(url="http://127.0.0.1:9") == program.NOT_DONE
