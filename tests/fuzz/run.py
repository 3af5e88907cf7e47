"""Fuzz one decoder with atheris: `run.py TARGET [libFuzzer's options]`, targets: ttlv, json, xml, http.

`just fuzz ttlv` runs ten million executions. A finding is written to the working directory by libFuzzer and shown with
its trace; the exit status is not 0 then.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import warnings
from pathlib import Path
from types import FunctionType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import atheris

SLOW_S = 5  # no input of 4 KiB takes longer: slower is a finding
MAX_LEN = 4096
RSS_MB = 1024


def main(target: str, options: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["openkcm.kmip"]):
        from fuzz.elements import mutator
        from fuzz.seeds import dictionary, names, plant
        from fuzz.targets import TARGETS
    for function in gc.get_objects():  # generated code is no import
        if isinstance(function, FunctionType) and function.__code__.co_filename.startswith("<kmip "):
            atheris.instrument_func(function)
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    count = plant(target, corpus)
    dictionary(target, folder / "words")
    sys.stderr.write(f"{target}: {count} real messages to begin with, in {corpus}\n")
    given = [f"-dict={folder / 'words'}", f"-timeout={SLOW_S}", f"-max_len={MAX_LEN}", f"-rss_limit_mb={RSS_MB}"]
    own: dict[str, Any] = {}
    if target == "xml":
        documents = [file.read_bytes() for file in sorted(corpus.iterdir())]
        mutate = lambda raw, size: atheris.Mutate(raw, size)  # noqa: E731, PLW0108 -- `Fuzz` puts another in its place
        own["custom_mutator"] = mutator(documents, names(), mutate)
    gc.freeze()  # what is there now stays
    atheris.Setup([sys.argv[0], *given, *options, str(corpus)], TARGETS[target], **own)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
