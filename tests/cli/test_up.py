"""The one-command stack's own hands: what it cannot write down does not end what runs."""

import errno

from rich.console import Console

from openkcm.cli import pki, up


def test_a_full_disk_of_the_supervisors_own_is_said_and_ends_nothing(tmp_path, monkeypatch, caplog):
    stack = up.Stack(up.Options(state=tmp_path), Console())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pki, "write_private", full)
    stack._changed()
    assert "could not be written down: [Errno 28] No space left on device" in caplog.text
