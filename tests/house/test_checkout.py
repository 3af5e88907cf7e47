"""The checkout itself: nothing in it names where to download from, and what the README tells people to type exists."""

import re
import subprocess
from pathlib import Path

import click
import pytest

from openkcm.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
# Spelled in pieces, so that this file is not its own finding.
HOSTS = [".".join(p) for p in (("files", "pythonhosted", "org"), ("pypi", "org"), ("registry", "npmjs", "org"))]
LOCKS = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"}


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_download_address():
    found = []
    for path in tracked():
        text = path.read_bytes()
        found += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host.encode() in text]
        if path.name in LOCKS:
            found.append(f"{path.relative_to(ROOT)}: a lock that carries addresses")
        if path.name == "package-lock.json" and b'"resolved"' in text:
            found.append(f"{path.relative_to(ROOT)}: resolved addresses")
    assert found == []


def test_the_lock_pins_every_requirement_by_hash():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text))
    assert len(entries) > 20
    assert [e.split()[0] for e in entries if "==" not in e.split()[0] or "--hash=sha256:" not in e] == []


def readme_commands():
    text = (ROOT / "README.md").read_text()
    lines = [
        line.removeprefix("$ ").split("#")[0].strip()
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    return [line for line in lines if line]


def test_the_readme_has_commands():
    assert len(readme_commands()) >= 6


@pytest.mark.parametrize("line", readme_commands())
def test_what_the_readme_tells_people_to_type_exists(line):
    words = line.split()
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # NAME=value before a command
        words = words[1:]
    program = words[0]
    if program.startswith("scripts/"):
        assert (ROOT / program).stat().st_mode & 0o111
        if program == "scripts/up":
            check_options(main.commands["up"], words[1:])
    elif program.endswith("just"):
        assert re.search(rf"(?m)^{re.escape(words[1])}\b.*:", (ROOT / "justfile").read_text())
    elif program.endswith("openkcm"):
        command, rest = main, words[1:]
        while isinstance(command, click.Group):
            assert rest, f"{line}: no subcommand"
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        check_options(command, rest)
    else:
        assert program in {"git", "cd", "ls", "cat", "tail", "export", "openssl", "curl"}, line


def check_options(command, words):
    known = {option for parameter in command.params for option in parameter.opts}
    assert {w.partition("=")[0] for w in words if w.startswith("--")} - {"--help"} <= known


def test_every_recipe_says_what_it_does():
    lines = (ROOT / "justfile").read_text().splitlines()
    recipes = [i for i, line in enumerate(lines) if re.match(r"^[a-z-]+[^:=]*:(?!=)", line)]
    assert len(recipes) >= 6
    assert [lines[i] for i in recipes if not lines[i - 1].startswith("# ")] == []
