"""What was signed, against the ledger: every checkpoint holds, or the first that does not is named with its place."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from audit.signed_trees import NAME, Folded, cosigned, grown, noted
from governance_ledger import CMK, EU
from governance_ledger import Ledger as Script
from openkcm.audit.noted import NotBorneOut, Shorter, Signed
from openkcm.contract import checkpoint as cp
from openkcm.contract.seal import Signer

WITNESS = Signer(b"w" * 32)
KEY = cp.verifier_key("auditor.example/w1", WITNESS.public_key, witness=True)


class History:
    """A ledger with a checkpoint after every third event."""

    def __init__(self, path: Path) -> None:
        script, folded = Script(), Folded(path)
        self.notes: list[cp.Note] = []
        for _ in range(10):
            grown(script, 3)
            folded.take(script.messages)
            self.notes += [folded.note(EU), folded.note("global")]
        self.messages = script.messages
        folded.writer.close()

    def judged(self, messages=None, notes=None, cosignatures=()):
        signed = Signed(NAME, self.notes if notes is None else notes, cosignatures)
        for m in self.messages if messages is None else messages:
            signed.take(m.sequence, m.subject, m.body)
        return signed.judge([CMK.public_key])


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> History:
    return History(tmp_path_factory.mktemp("noted") / "a.sqlite")


def test_an_unchanged_ledger_bears_out_all_that_was_signed(history: History) -> None:
    eu, world = history.judged()
    assert (eu.tree, eu.size, eu.signed, eu.checkpoints) == (EU, 30, 30, 10)
    assert (world.tree, world.size) == ("global", 2)
    late = cosigned(history.notes[8], KEY, WITNESS)
    (eu, _) = history.judged(cosignatures=[(KEY, cosigned(history.notes[2], KEY, WITNESS)), (KEY, late)])
    assert [(c.name, c.size, c.behind) for c in eu.cosigners] == [(KEY.name, 15, 15)]


@pytest.mark.parametrize("at", range(2, 31))
@pytest.mark.parametrize("how", ["flip", "drop", "swap"])
def test_the_first_checkpoint_that_does_not_hold_brackets_the_event(history: History, at: int, how: str) -> None:
    messages = list(history.messages)
    bad = messages[at]
    if how == "flip":
        messages[at] = msgspec.structs.replace(bad, body=bad.body[:-1] + bytes([bad.body[-1] ^ 1]))
    elif how == "drop":
        del messages[at]
    else:
        other = messages[at - 1 if at > 2 else at + 1]
        a, b = messages.index(other), at
        messages[a], messages[b] = (
            msgspec.structs.replace(bad, sequence=other.sequence),
            msgspec.structs.replace(other, sequence=bad.sequence),
        )
    with pytest.raises(NotBorneOut) as found:
        history.judged(messages)
    touched = {bad.sequence} | ({other.sequence} if how == "swap" else set())
    first = min(touched)
    begin, end = (int(n) for n in re.search(r" from (\d+) to (\d+) ", str(found.value)).groups())
    assert found.value.sequence == begin <= first <= end <= begin + 4
    assert found.value.epoch == 1


def test_a_cut_tail_is_shorter_than_notary_or_witness_knew(history: History) -> None:
    with pytest.raises(Shorter, match="the notary knew") as cut:
        history.judged(history.messages[:-1])
    assert cut.value.sequence == history.messages[-1].sequence
    newest = cosigned(history.notes[-2], KEY, WITNESS)
    with pytest.raises(Shorter, match=rf"shorter than witness {KEY.name} knew"):
        history.judged(history.messages[:-1], notes=history.notes[:4], cosignatures=[(KEY, newest)])


def test_a_tail_that_nobody_signed_cannot_be_seen_and_the_answer_says_so(history: History) -> None:
    (eu, _) = history.judged(history.messages[:-1], notes=history.notes[:4])
    assert (eu.size, eu.signed) == (29, 6)


def test_what_was_signed_of_a_closed_epoch_is_named_and_judged_by_nobody(history: History) -> None:
    again = [msgspec.structs.replace(m, sequence=(2 << 40) + n) for n, m in enumerate(history.messages)]
    signed = Signed(NAME, history.notes)
    for m in again:
        signed.take(m.sequence, m.subject, m.body)
    assert {(t.tree, t.epoch, t.signed) for t in signed.judge([CMK.public_key])} == {(EU, 2, 0), ("global", 2, 0)}
    assert len(signed.closed) == len(history.notes)


def test_what_is_not_signed_by_the_ledgers_own_keys_is_named(history: History) -> None:
    point = history.notes[0].checkpoint()
    stranger = noted(point, Signer(b"s" * 32))
    with pytest.raises(NotBorneOut, match="no key of the ledger's"):
        history.judged(notes=[stranger])
    torn = cp.Note(history.notes[0].text, (cp.Line(point.origin, history.notes[0].lines[0].key, bytes(64)),))
    with pytest.raises(NotBorneOut, match="no key"):
        history.judged(notes=[torn])
    with pytest.raises(NotBorneOut, match="not a signed checkpoint"):
        Signed(NAME, [], [(KEY, history.notes[0])])
    with pytest.raises(NotBorneOut, match="another ledger's"):
        Signed("openkcm-other", history.notes)
