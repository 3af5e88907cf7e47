"""A little fuzzing of each decoder; `just fuzz` runs ten million executions of one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.elements import mutator
from openkcm.kmip import KmipError, json_text, xml_text
from openkcm.kmip.errors import MalformedMessage

RUN = Path(__file__).parents[1] / "fuzz" / "run.py"
RUNS = 4000


@pytest.mark.parametrize("target", ["ttlv", "json", "xml", "http"])
def test_whatever_comes_only_the_codecs_own_error_leaves(target, tmp_path):
    done = subprocess.run(
        [sys.executable, RUN, target, f"-runs={RUNS}", "-print_final_stats=1"],
        cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, errors="replace",
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(re.search(r"number_of_executed_units: (\d+)", done.stderr)[1]) >= RUNS
    assert int(re.search(r"(\d+) real messages", done.stderr)[1]) > 100


XML = b"""<RequestMessage><RequestHeader><ProtocolVersion><ProtocolVersionMajor type="Integer" value="1"/></ProtocolVersion>
<BatchCount type="Integer" value="1"/></RequestHeader><BatchItem><Operation type="Enumeration" value="Query"/>
<RequestPayload><Name type="TextString" value="a &amp; b"/></RequestPayload></BatchItem></RequestMessage>"""


def test_mutated_elements_are_read_often_enough_to_reach_what_is_behind_and_differ():
    """Of mutated bytes four in a hundred are."""
    mutated = mutator([XML], [b"Name", b"Integer", b"TextString"], lambda raw, size: raw[::-1][:size])
    made = [mutated(XML, 4096, seed) for seed in range(1000)]
    assert made == [mutated(XML, 4096, seed) for seed in range(1000)]  # a run can be repeated
    assert len({*made}) > 500
    assert all(len(mutated(XML, 500, seed)) <= 500 for seed in range(300))
    assert mutated(b"<", 10, 1) == b"<"  # no element: as bytes
    read = 0
    for one in made:
        try:
            xml_text.read(one)
        except KmipError:
            continue
        read += 1
    assert read > 250


@pytest.mark.parametrize("kind", ["[]", "{}", "[[]]", "null", "1", "true"])
def test_a_type_that_is_no_text_is_malformed(kind):
    """Found by the fuzzer after 380,000 executions: a list as a type left the decoder as TypeError."""
    with pytest.raises(MalformedMessage):
        json_text.read(
            b'{"tag":"RequestMessage","value":[{"tag":"RequestHeader","type":%s,"value":[]}]}' % kind.encode()
        )
