"""The command line does all that the API does, says it by its exit status, and keeps a person's token to the person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from openkcm.cli import personal, profiles
from openkcm.cli.main import main
from openkcm.cli.verbs import VERBS
from openkcm.governance.portal import openapi  # noqa: F401 -- declares every operation
from openkcm.governance.portal.surface import SURFACE

NOT_FOR_PEOPLE = {"healthz", "readyz", "metrics"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKCM_CONFIG", str(tmp_path))
    return tmp_path


def test_every_operation_of_the_api_is_a_command_with_the_same_method_and_path() -> None:
    surface = {one.name: (one.method, one.path) for one in SURFACE}
    table = {verb.operation: (verb.method, verb.path) for verb in VERBS}
    assert {name: at for name, at in surface.items() if name in table} == table
    assert set(surface) - set(table) - NOT_FOR_PEOPLE == set(personal.SPECIAL_OPERATIONS)


def test_every_command_has_its_help() -> None:
    runner = CliRunner()
    for verb in VERBS:
        shown = runner.invoke(main, [verb.group, verb.name, "--help"])
        assert shown.exit_code == 0, shown.output
        assert verb.says.split(".")[0][:30] in " ".join(shown.output.split())
    assert runner.invoke(main, ["completion", "bash"]).output.startswith("_openkcm_completion")


def test_without_a_profile_it_says_how_to_make_one_and_an_api_that_is_away_is_exit_status_7(home: Path) -> None:
    runner = CliRunner()
    missing = runner.invoke(main, ["tenant", "list"])
    assert (missing.exit_code, "openkcm login" in missing.output) == (2, True)
    profiles.save("default", profiles.Profile(url="http://127.0.0.1:9", issuer="http://127.0.0.1:9", token="t"))
    assert (home / "profiles.json").stat().st_mode & 0o777 == 0o600
    away = runner.invoke(main, ["tenant", "list"])
    assert (away.exit_code, "unreachable" in away.output) == (7, True)


def test_a_services_token_is_made_here_and_its_name_is_its_hash() -> None:
    import hashlib

    made = CliRunner().invoke(main, ["account", "service-token"]).output.split()
    token, person = made[1], made[3]
    assert person == "service-" + hashlib.sha256(token.encode()).hexdigest()


def test_profiles_are_kept_side_by_side() -> None:
    for name in ("one", "two"):
        profiles.save(name, profiles.Profile(url=f"http://{name}.test", issuer="i"))
    assert {n: p.url for n, p in profiles.load().items()} == {"one": "http://one.test", "two": "http://two.test"}
    assert json.loads((Path(profiles._path())).read_text())["one"]["url"] == "http://one.test"
