"""The sealing key's word over a signed tree: what it spares, what it does not, and what it is worth."""

import base64
import hashlib
import json

import msgspec
import pytest

from audit.evidence import examined, exported, life, replayed
from audit.evidence import signed as signed_notes
from audit.mutations import STRANGER
from audit.sealed_ledger import CMK, ROOT, SealedLedger
from openkcm.audit import export
from openkcm.audit.replay import Line, Replay
from openkcm.audit.trees import Leaf, SignedTrees
from openkcm.audit.verify import BadEvent
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope, merkle
from openkcm.contract.seal import Signer

NEXT = Signer(b"\x08" * 32)


def by(ledger, signer):
    return sum(envelope.decode(body).key == signer.key_id for _, _, body, _ in ledger.entries)


def written(ledger, folder, notes=None):
    with replayed(ledger) as replay:
        export.write(folder, replay.writer, ROOT.public_key, notes or signed_notes(replay), tenant=None, made_at="x")
    return folder


def resigned(ledger, lines):
    with replayed(ledger) as replay:
        return {place: cp.Note(note.text, lines(note)) for place, note in signed_notes(replay).items()}


def test_only_what_the_key_itself_sealed_is_spared(tmp_path):
    ledger, _ = life()
    folder = exported(ledger, tmp_path / "export")
    result, proven = examined(folder)
    assert result.events == proven == len(ledger.entries)
    assert result.vouched == by(ledger, CMK) == len(ledger.entries) - by(ledger, ROOT)
    assert examined(folder, every_seal=True)[0].vouched == 0


def test_without_its_word_or_with_another_keys_every_seal_is_checked(tmp_path):
    ledger, _ = life()

    def flipped(note):
        line = note.lines[1]
        return note.lines[0], cp.Line(line.name, line.key, bytes([line.signature[0] ^ 1]) + line.signature[1:])

    wrong = {
        "none": lambda note: note.lines[:1],
        "flipped": flipped,
        "another's": lambda note: (note.lines[0], cp.vouch(note.text, note.checkpoint().origin, STRANGER)),
        "the log's own": lambda note: (note.lines[0], cp.Line(note.lines[1].name, note.lines[1].key, note.lines[0].signature)),
        "of another text": lambda note: (note.lines[0], cp.vouch(note.text + " ", note.checkpoint().origin, CMK)),
    }  # fmt: skip
    for name, lines in wrong.items():
        folder = written(ledger, tmp_path / name, resigned(ledger, lines))
        assert examined(folder)[0].vouched == 0, name


def test_an_export_that_lies_about_the_keys_spares_nothing(tmp_path):
    ledger, _ = life()
    notes = resigned(ledger, lambda note: (note.lines[0], cp.vouch(note.text, note.checkpoint().origin, STRANGER)))
    folder = written(ledger, tmp_path / "export", notes)
    keys = json.loads((folder / "keys.json").read_text())
    keys["governance"][0]["public_key"] = base64.b64encode(STRANGER.public_key).decode()
    raw = json.dumps(keys).encode()
    (folder / "keys.json").write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["keys.json"] = hashlib.sha256(raw).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert examined(folder)[0].vouched == 0


def test_what_another_key_sealed_before_a_rotation_is_checked_one_by_one(tmp_path):
    ledger = SealedLedger().open()
    ledger.ledger(d.SigningKeyRotated(key=NEXT.key_id, public_key=NEXT.public_key, retires=(CMK.key_id,)))
    for _ in range(3):
        ledger.residence(d.TenantConfigurationUpdated(), signer=NEXT)
    with replayed(ledger) as replay:
        notes = signed_notes(replay, NEXT)
    result, _ = examined(written(ledger, tmp_path / "export", notes))
    assert (result.vouched, by(ledger, NEXT)) == (3, 3)


def test_what_came_after_the_checkpoint_is_checked_one_by_one(tmp_path):
    ledger, _ = life()
    with replayed(ledger) as replay:
        notes = signed_notes(replay)
    before = by(ledger, CMK)
    for _ in range(4):
        ledger.residence(d.TenantConfigurationUpdated())
    result, proven = examined(written(ledger, tmp_path / "export", notes))
    assert (result.vouched, proven) == (before, len(ledger.entries) - 4)


@pytest.mark.parametrize("sequences", [(1, 2, 3, 4), (1, 2, 4), (1, 3, 4)])
def test_its_word_holds_for_what_lies_in_the_tree_and_for_nothing_between(sequences):
    grown, leaf = merkle.Growing(), bytes(32)
    for _ in sequences:
        grown.append(leaf)
    origin = cp.origin_of(cp.ledger_name(ROOT.public_key), "global", 1)
    point = cp.Checkpoint(origin=origin, size=len(sequences), root=grown.root(), epoch=1, sequence=sequences[-1])
    note = cp.Note(point.text(), (cp.vouch(point.text(), origin, CMK),))
    leaves = [Leaf(sequence=n, tree="global", epoch=1, index=i, leaf=leaf) for i, n in enumerate(sequences)]
    trees = SignedTrees({("global", 1): note}, leaves, {CMK.key_id: CMK.public_key})
    subject = "kcm.decree.global._.routine.ledger.main"
    assert [n for n in range(7) if trees.vouched(n, subject, CMK.key_id)] == list(sequences)


def test_a_key_that_gives_its_word_for_a_seal_that_is_not_its_own_is_only_found_by_every_seal(tmp_path):
    """What the word is worth, and why the notary must not give it then: see test_notary."""
    ledger, _ = life()
    at = next(n for n, e in enumerate(ledger.entries) if envelope.decode(e[2]).key == CMK.key_id)
    sequence, subject, body, id_ = ledger.entries[at]
    e = envelope.decode(body)
    forged = msgspec.structs.replace(e, seal=STRANGER.sign(e.signed_bytes()))
    whole = written(ledger, tmp_path / "before")
    keys = (whole / "keys.json").read_bytes()
    ledger.entries[at] = sequence, subject, envelope.encode(forged), id_
    with Replay(ROOT.public_key) as replay:  # folded as if it were good: who signs here is the liar
        lines = [Line(sequence=n, subject=s, body=b, id=i) for n, s, b, i in ledger.entries]
        replay.take(lines, {line.sequence for line in lines})
        folder = tmp_path / "forged"
        export.write(folder, replay.writer, ROOT.public_key, signed_notes(replay), tenant=None, made_at="x")
    assert (folder / "keys.json").read_bytes() == keys
    assert examined(folder)[0].vouched == by(ledger, CMK)
    with pytest.raises(BadEvent) as bad:
        examined(folder, every_seal=True)
    assert (bad.value.sequence, bad.value.code) == (sequence, "seal")
