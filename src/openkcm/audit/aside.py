"""A replay in a process of its own: one core verifies while another folds. Run as a module it is that process.

Messages go through a pipe in frames: 4 bytes of length (big-endian), then msgpack of [messages, good], a message being
[sequence, subject, body] and, where they are there, the leaf's hash and what is `Known` of it; `good` are the sequences
whose seal holds. The end of the pipe ends the replay.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Container, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from queue import Queue
from typing import IO, Final

import msgspec

from openkcm.audit.verify import AuditError
from openkcm.contract.resources import ROOT
from openkcm.contract.stored import Message
from openkcm.projector import ProjectorError, open_writer
from openkcm.projector.ledger import Known, Projection

__all__ = ["Aside"]

#: Frames in one transaction, for each writes the pages anew that it touches; as many are sent in one go, for the thread
#: that sends them waits for its turn each time.
TOGETHER: Final = 64
AHEAD: Final = 2  # of those, how many wait for the other process
PIPE_BYTES: Final = 1 << 20  # the most that Linux gives without privilege; with less the two wait for one another
_LENGTH: Final = 4


class _Message(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    subject: str
    body: bytes
    leaf: bytes | None = None
    known: Known | None = None


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    messages: list[_Message]
    good: set[int]


class Aside:
    """Folds into a read model's file elsewhere. Give it batches in order, then `finish`.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, path: Path, trust_root: bytes) -> None:
        command = [sys.executable, "-m", "openkcm.audit.aside", str(path), trust_root.hex()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=PIPE_BYTES)
        self._frames: Queue[bytes | None] = Queue(AHEAD)
        self._encoder = msgspec.msgpack.Encoder()
        self._waiting: list[bytes] = []
        self._sending = threading.Thread(target=self._send, name="replay", daemon=True)
        self._sending.start()

    def take(
        self, messages: Sequence[Message], good: Container[int], leaves: Sequence[bytes] = (),
        known: Sequence[Known] = (),
    ) -> None:  # fmt: skip
        """Fold the next messages; returns before it is done. `leaves`, `known`: of each, or nothing."""
        checked = [] if known else [m.sequence for m in messages if m.sequence in good]
        sent = [(m.sequence, m.subject, m.body, leaf, one) for m, leaf, one in zip_longest(messages, leaves, known)]
        frame = self._encoder.encode((sent, checked))
        self._waiting += len(frame).to_bytes(_LENGTH, "big"), frame
        if len(self._waiting) >= 2 * TOGETHER:
            self._frames.put(b"".join(self._waiting))
            self._waiting.clear()

    def finish(self) -> None:
        """Return when all of it is in the file.

        Raises:
            AuditError: The replay failed, with its own words.
        """
        self._frames.put(b"".join(self._waiting))
        self._frames.put(None)
        self._sending.join()
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip()
        self._process.stderr.close()
        if self._process.wait() != 0:
            raise AuditError(f"the replay failed: {said.splitlines()[-1] if said else self._process.returncode}")

    def stop(self) -> None:
        """End it; what it has made is of no use."""
        self._process.kill()
        self._frames.put(None)
        self._sending.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process.wait()

    def _send(self) -> None:
        assert self._process.stdin is not None
        broken = False
        while (frames := self._frames.get()) is not None:
            if not broken:
                try:
                    self._process.stdin.write(frames)
                except OSError:  # it ended: `finish` says why; whoever fills the queue must not wait for ever
                    broken = True
        try:
            self._process.stdin.close()
        except OSError:
            return


def _frames(source: IO[bytes]) -> Iterator[_Frame]:
    decoder = msgspec.msgpack.Decoder(_Frame)
    while len(head := source.read(_LENGTH)) == _LENGTH:
        yield decoder.decode(source.read(int.from_bytes(head, "big")))


def main() -> None:
    """Fold what comes on standard input into the file that is named."""
    gc.disable()  # what is made here is dropped by its last reference; looking for cycles among it costs a tenth
    try:
        writer = open_writer(Path(sys.argv[1]), ROOT / "projections" / "cmk", synchronous="OFF")
        projection = Projection(writer, bytes.fromhex(sys.argv[2]))
        frames = _frames(sys.stdin.buffer)
        while some := list(islice(frames, TOGETHER)):
            messages = [message for frame in some for message in frame.messages]
            projection.apply(messages, checked=set().union(*(frame.good for frame in some)))
        writer.close()
    except (ProjectorError, msgspec.MsgspecError, OSError) as bad:
        sys.exit(str(bad))


if __name__ == "__main__":
    main()
