"""`openkcm ledger snapshot`: the read model's ledger tables as a file, signed with governance's key. Judges nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from openkcm.contract import checkpoint as cp
from openkcm.contract import snapshot
from openkcm.governance.configuration import Configuration, ConfigurationError, read_configuration
from openkcm.governance.sealing import signer_of
from openkcm.governance.snapshot import FILE, NOTE
from openkcm.projector import ProjectorError, open_reader
from openkcm.projector.copying import copied, described
from openkcm.projector.trees import keys_in_force

__all__ = ["make", "write"]

FAILED: Final = 1


def make(state: Path, folder: Path) -> int:
    """Write a snapshot of a stack's read model, running or not; return the exit status."""
    try:
        made = write(read_configuration(state / "cmk" / "cmk.json"), folder)
    except (ConfigurationError, ProjectorError, OSError) as bad:
        print(f"no snapshot: {bad}", file=sys.stderr)
        return FAILED
    size = (folder / FILE).stat().st_size
    trees = ", ".join(f"{tree.tree} {tree.size}" for tree in made.trees)
    print(f"{folder}: {made.ledger} up to sequence {made.sequence} ({trees}), {size >> 20} MiB")
    print("put it beside a CMK's tables, as the folder `snapshot`: a CMK that has none starts from it")
    return 0


def write(configuration: Configuration, folder: Path) -> snapshot.Snapshot:
    """Write the file and its signed note.

    Raises:
        ProjectorError, OSError: It cannot be read, or the folder is there already.
    """
    reader = open_reader(Path(configuration.registry))
    try:
        signer = signer_of(Path(configuration.signing_seed), keys_in_force(reader))
    finally:
        reader.close()
    folder.mkdir(mode=0o700, parents=True)
    copied(Path(configuration.registry), folder / FILE)
    made = described(folder / FILE, cp.ledger_name(configuration.trust_root))
    (folder / NOTE).write_text(snapshot.signed(made, signer), encoding="utf-8")
    return made
