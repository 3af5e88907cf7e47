"""Golden files: what ledgers and streams out there hold stays readable, byte for byte."""

from pathlib import Path

import msgspec
import pytest

from golden import examples
from openkcm.contract import decrees, envelope, reports

HERE = Path(__file__).resolve().parent
FILES = sorted(p.relative_to(HERE).as_posix() for kind in ("decrees", "reports") for p in (HERE / kind).glob("*.json"))
KEYS = {examples.SIGNER.key_id: examples.SIGNER.public_key}


def test_every_tag_has_a_golden_file_and_every_file_a_tag():
    wanted = {f"decrees/{tag}.json" for tag in decrees.DECREES} | {f"reports/{tag}.json" for tag in reports.REPORTS}
    assert set(FILES) == wanted | {f"reports/{reports.BEAT_TAG}.json"}


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_is_read_and_written_again_byte_for_byte(name):
    raw = (HERE / name).read_bytes()
    sealed = envelope.decode(raw)
    assert f"{sealed.tag}.json" == name.partition("/")[2]
    envelope.verify(sealed, sealed.subject, KEYS)
    if name.startswith("decrees/"):
        value = decrees.read(sealed.tag, sealed.data)
    else:
        value = (
            reports.read_beat(sealed.data) if sealed.tag == reports.BEAT_TAG else reports.read(sealed.tag, sealed.data)
        )
    assert msgspec.json.encode(value) == bytes(sealed.data)
    assert envelope.encode(sealed) == raw
    # Ed25519 is deterministic: sealing the same fields again gives the same 64 bytes, so the signed bytes are pinned.
    assert envelope.seal_envelope(sealed, examples.SIGNER) == sealed


@pytest.mark.parametrize("name", FILES)
def test_the_example_still_makes_the_file(name):
    assert examples.every()[name] == (HERE / name).read_bytes()
