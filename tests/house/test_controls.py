"""docs/controls.md names tests and commands that exist: a row without its evidence is worse than no row."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from openkcm.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "controls.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT))))
def test_every_test_it_names_exists(name):
    assert "def test_" in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted(set(re.findall(r"openkcm ([a-z]+ [a-z-]+)", TEXT))))
def test_every_command_it_names_exists_with_its_options(command):
    shown = CliRunner().invoke(main, [*command.split(), "--help"])
    assert shown.exit_code == 0, shown.output
    for use in re.findall(rf"openkcm {command}([^`|]*)", TEXT):
        for option in re.findall(r"--[a-z-]+", use):
            assert option in shown.output, (command, option)


def test_every_row_has_its_evidence_and_its_test():
    for row in re.findall(r"^\| (?!-)(.*) \|$", TEXT, re.MULTILINE):
        cells = [cell.strip() for cell in row.split(" | ")]
        assert len(cells) in {3, 4}, row
        assert all(cells), row
        if len(cells) == 4 and cells[-1] != "Test":
            assert re.search(r"`tests/|as there", cells[-1]), row
