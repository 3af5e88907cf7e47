"""Checkpoints and notes: the specification's own example, sigstore as an independent reader, and what is refused."""

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from sigstore._internal.rekor.checkpoint import SignedCheckpoint, VerificationError

from openkcm.contract import checkpoint as cp
from openkcm.contract.checkpoint import Checkpoint, CheckpointError, Note
from openkcm.contract.errors import ContractError
from openkcm.contract.seal import Signer

LOG, WITNESS = Signer(b"l" * 32), Signer(b"w" * 32)
ORIGIN = cp.origin_of(cp.ledger_name(b"t" * 32), "eu-frankfurt", 1)
POINT = Checkpoint(origin=ORIGIN, size=42, root=bytes(range(32)), epoch=1, sequence=57)
NOTE = Note(POINT.text(), (cp.sign(POINT.text(), ORIGIN, LOG),))
BY_LOG = cp.verifier_key(ORIGIN, LOG.public_key)
BY_WITNESS = cp.verifier_key("auditor.example/w1", WITNESS.public_key, witness=True)

#: The example of the Go module golang.org/x/mod/sumdb/note, from which signed-note comes.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


class _Ring:
    """Sigstore's key ring, with our key in it."""

    def verify(self, *, key_id, signature, data):
        try:
            Ed25519PublicKey.from_public_bytes(LOG.public_key).verify(signature, data)
        except Exception as bad:
            raise VerificationError(str(bad)) from bad


def test_a_checkpoint_comes_back_as_it_went():
    read = cp.parse_note(str(NOTE))
    assert read == NOTE
    assert read.checkpoint() == POINT
    assert POINT.tree == "eu-frankfurt"
    cp.verify(read, BY_LOG)


def test_sigstore_reads_and_verifies_our_checkpoint():
    theirs = SignedCheckpoint.from_text(str(NOTE))
    assert theirs.checkpoint.origin == ORIGIN
    assert (theirs.checkpoint.log_size, theirs.checkpoint.log_hash) == (42, POINT.root.hex())
    theirs.signed_note.verify(_Ring(), BY_LOG.key)
    with pytest.raises(VerificationError):
        SignedCheckpoint.from_text(str(NOTE).replace("\n42\n", "\n43\n")).signed_note.verify(_Ring(), BY_LOG.key)


def test_a_note_of_another_implementation_verifies():
    note = cp.parse_note(GO_NOTE)
    cp.verify(note, cp.read_verifier(GO_KEY))
    assert str(note) == GO_NOTE
    with pytest.raises(CheckpointError):
        note.checkpoint()


def test_a_verifier_key_has_the_published_form():
    assert cp.read_verifier(str(BY_LOG)) == BY_LOG
    assert cp.read_verifier(str(BY_WITNESS)) == BY_WITNESS
    raw = base64.b64decode(str(BY_WITNESS).rpartition("+")[2])
    assert raw == b"\x04" + WITNESS.public_key
    for wrong in (str(BY_LOG).replace("+", "+0", 1), "name+00000000+AQ==", "no key", str(BY_LOG)[:-4]):
        with pytest.raises(CheckpointError):
            cp.read_verifier(wrong)


def test_a_cosignature_is_of_the_words_and_the_time():
    line = cp.cosign(POINT.text(), BY_WITNESS.name, WITNESS, 1_700_000_000)
    signed = NOTE.with_lines([line])
    assert cp.cosigned_at(cp.verify(cp.parse_note(str(signed)), BY_WITNESS)) == 1_700_000_000
    # c2sp.org/tlog-cosignature: what is signed, written out by hand
    words = b"cosignature/v1\ntime 1700000000\n" + POINT.text().encode()
    Ed25519PublicKey.from_public_bytes(WITNESS.public_key).verify(line.signature[8:], words)
    later = cp.Line(line.name, line.key, (1_700_000_001).to_bytes(8, "big") + line.signature[8:])
    with pytest.raises(CheckpointError, match="does not hold"):
        cp.verify(NOTE.with_lines([later]), BY_WITNESS)


def test_a_log_key_signs_for_no_witness_and_the_other_way_round():
    with pytest.raises(CheckpointError, match="not signed by"):
        cp.verify(NOTE, BY_WITNESS)
    as_log = cp.sign(POINT.text(), BY_WITNESS.name, WITNESS)
    with pytest.raises(CheckpointError, match="not signed by"):
        cp.verify(NOTE.with_lines([as_log]), BY_WITNESS)


def test_a_line_in_a_known_name_that_does_not_hold_is_an_error_not_a_stranger():
    forged = cp.Line(ORIGIN, BY_LOG.key, b"\0" * 64)
    with pytest.raises(CheckpointError, match="does not hold"):
        cp.verify(Note(POINT.text(), (forged,)), BY_LOG)


@given(st.integers(0, len(str(NOTE)) - 1), st.sampled_from("x0\n+ \x00"))
def test_a_changed_note_never_passes(at, char):
    changed = str(NOTE)[:at] + char + str(NOTE)[at + 1 :]
    if changed == str(NOTE):
        return
    with pytest.raises(ContractError):
        cp.verify(cp.parse_note(changed), BY_LOG)


@given(st.text(max_size=400))
def test_any_text_is_read_or_refused(text):
    for whole in (text, text + "\n\n— a " + text + "\n"):
        with contextlib.suppress(CheckpointError):
            cp.parse_note(whole).checkpoint()


@pytest.mark.parametrize(
    ("sequence", "epoch"), [(1, 1), ((2 << 40) - 1, 1), (2 << 40, 2), ((2 << 40) + 9, 2), (7 << 40, 7)]
)
def test_a_sequence_tells_its_epoch(sequence, epoch):
    assert cp.epoch_of(sequence) == epoch
