"""One stack a directory."""

import os

import pytest

from openkcm.cli import background


def test_a_directory_is_held_by_one_stack_at_a_time(tmp_path):
    with (
        background.held(tmp_path),
        pytest.raises(background.AlreadyRunning, match="runs on"),
        background.held(tmp_path),
    ):
        pass
    with background.held(tmp_path):
        assert (tmp_path / "run" / "up.lock").read_text() == str(os.getpid())


def test_stopping_what_does_not_run_says_so(tmp_path, capsys):
    assert background.stop(tmp_path) == 0
    assert "no stack runs" in capsys.readouterr().out


def test_a_directory_without_a_stack_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stack was started"):
        background.saved_layout(tmp_path)
