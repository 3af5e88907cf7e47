"""Whatever is done to an export is found, at the first event that is not what it was; what is whole passes.

CI takes a share; `just mutations` takes as many as it is told.
"""

import os
import random

import pytest

from audit.evidence import exported, life, verify
from audit.mutations import MUTATIONS, first_difference, rewrite
from audit.sealed_ledger import ROOT
from openkcm.audit.examine import examine
from openkcm.audit.exported import Export
from openkcm.audit.replay import Line
from openkcm.audit.trees import Tampered
from openkcm.audit.verify import BadEvent
from openkcm.contract import decrees as d

ROUNDS = int(os.environ.get("OPENKCM_MUTATIONS", "4"))  # of each kind


@pytest.fixture(scope="module")
def ledger():
    made, _ = life()
    for n in range(20):
        made.residence(d.TenantConfigurationUpdated(labels={"n": str(n)}))
    return made


@pytest.fixture(scope="module")
def export(ledger, tmp_path_factory):
    return exported(ledger, tmp_path_factory.mktemp("mutations") / "export")


def test_the_controls_pass(ledger, export, tmp_path):
    assert verify(export) == (len(ledger.entries), len(ledger.entries), ())
    assert verify(rewrite(export, tmp_path / "same", list(ledger.entries))) == verify(export)


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda m: m.__name__)
def test_every_mutation_is_found_where_it_is(ledger, export, tmp_path, mutate, seed):
    entries = list(ledger.entries)
    mutate(entries, random.Random(f"{mutate.__name__}/{seed}"))
    wrong = first_difference(ledger.entries, entries)
    folder = rewrite(export, tmp_path / "bad", entries)
    if wrong is None:
        assert verify(folder)[0] == len(entries)
        return
    for every_seal in (False, True):
        with pytest.raises((BadEvent, Tampered)) as found:
            verify(folder, every_seal=every_seal)
        assert found.value.sequence == wrong, found.value


def test_an_export_that_was_verified_spares_its_seals_and_nothing_else(ledger, export):
    def again(entries):
        trees = Export(export).trees()
        result = examine(
            [Line(sequence=n, subject=s, body=b, id=i) for n, s, b, i in entries], ROOT.public_key, see=[trees.see],
            vouched=lambda sequence, _subject, _key: trees.signed(sequence),
        )  # fmt: skip
        return trees.check(result.keys)

    assert again(ledger.entries) == len(ledger.entries)
    for mutate in MUTATIONS:
        entries = list(ledger.entries)
        mutate(entries, random.Random(f"spared/{mutate.__name__}"))
        wrong = first_difference(ledger.entries, entries)
        with pytest.raises((BadEvent, Tampered)) as found:
            again(entries)
        assert found.value.sequence == wrong
    later = [*ledger.entries, (len(ledger.entries) + 1, *ledger.entries[-1][1:])]
    with pytest.raises(BadEvent):  # what came after the export is checked as ever
        again(later)
