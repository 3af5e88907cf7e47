"""Golden files: what ledgers and streams out there hold stays readable, byte for byte."""

from pathlib import Path

import msgspec
import pytest

from golden import examples
from openkcm.contract import decrees, envelope, reports
from openkcm.contract.retired import RETIRED, RETIRED_REPORTS

HERE = Path(__file__).resolve().parent
FILES = sorted(p.relative_to(HERE).as_posix() for kind in ("decrees", "reports") for p in (HERE / kind).glob("*.json"))
OLD = {**RETIRED, **RETIRED_REPORTS}
BEATS = (reports.BEAT_TAG, reports.WITHHOLDING_TAG)
KEYS = {examples.SIGNER.key_id: examples.SIGNER.public_key}


def test_every_tag_has_a_golden_file_and_every_file_a_tag():
    wanted = {f"decrees/{tag}.json" for tag in decrees.KNOWN_TAGS}
    wanted |= {f"reports/{tag}.json" for tag in reports.KNOWN_TAGS}
    assert set(FILES) == wanted | {f"reports/{tag}.json" for tag in (*BEATS, reports.RECHECK_TAG)}


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_is_read_and_written_again_byte_for_byte(name):
    raw = (HERE / name).read_bytes()
    sealed = envelope.decode(raw)
    assert f"{sealed.tag}.json" == name.partition("/")[2]
    envelope.verify(sealed, sealed.subject, KEYS)
    if name.startswith("decrees/"):
        value = decrees.read(sealed.tag, sealed.data)
    else:
        read = reports.read_beat if sealed.tag in BEATS else reports.read
        recheck = sealed.tag == reports.RECHECK_TAG
        value = reports.read_recheck(sealed.data) if recheck else read(sealed.tag, sealed.data)
    if sealed.tag not in OLD:
        assert msgspec.json.encode(value) == bytes(sealed.data)
    assert envelope.encode(sealed) == raw
    # Ed25519 is deterministic: sealing the same fields again gives the same 64 bytes, so the signed bytes are pinned.
    assert envelope.seal_envelope(sealed, examples.SIGNER) == sealed


@pytest.mark.parametrize("name", [name for name in FILES if name[8:-5] not in OLD])
def test_the_example_still_makes_the_file(name):
    assert examples.every()[name] == (HERE / name).read_bytes()


@pytest.mark.parametrize("tag", RETIRED)
def test_a_retired_shape_comes_back_as_its_successor_and_loses_nothing(tag):
    sealed = envelope.decode((HERE / "decrees" / f"{tag}.json").read_bytes())
    value = decrees.read(tag, sealed.data)
    assert type(value) is decrees.kind_of(tag).decree
    old, new = msgspec.json.decode(sealed.data), msgspec.json.decode(msgspec.json.encode(value))
    assert {name: new.get(name) for name in old} == old


def test_a_retired_tag_is_of_its_successors_kind_and_never_written_again():
    for tag, old in RETIRED.items():
        assert tag not in decrees.DECREES
        assert old.successor in decrees.KNOWN_TAGS
        assert decrees.kind_of(tag) == decrees.kind_of(old.successor)


@pytest.mark.parametrize("tag", RETIRED_REPORTS)
def test_a_retired_report_comes_back_as_its_successor_and_loses_nothing(tag):
    sealed = envelope.decode((HERE / "reports" / f"{tag}.json").read_bytes())
    value = reports.read(tag, sealed.data)
    assert reports.tag_of(value) == RETIRED_REPORTS[tag].successor
    assert tag not in reports.REPORTS
    whole = msgspec.json.decode(msgspec.json.encode(value))
    parts = [part[0] for part in whole.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    said = whole | {k: v for part in parts for k, v in part.items()}
    assert msgspec.json.decode(sealed.data).items() <= said.items()
