"""What a log shows, and what it never does."""

from __future__ import annotations

import base64
import io
import json
import logging
import os

import pytest

from openkcm.contract import logs

KEY = bytes(range(1, 33))
SECRETS = {
    "a key in hex": KEY.hex(),
    "a key in base64": base64.b64encode(bytes(b ^ 0x5A for b in KEY)).decode(),
    "a token": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl",
    "a NATS seed": "SU" + "A" * 56,
    "an AWS key": "AKIAIOSFODNN7EXAMPLE",
    "a password": "password=hunter2",
    "a PIN": "pin: 1234",
    "a bearer token": "Bearer abcdefgh",
    "a password in a URL": "postgres://ann:hunter2@host/",
    "a private key": "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----",
}
PLAIN = (
    "AccessRevoked.1 at epoch 1, sequence 10040: 970610c6-0412-814f-b9d8-9a1c1049e3e1",
    "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "governance seals with 0123456789abcdef0123456789abcdef",
    "kcm.decree.eu-frankfurt.acme.critical.residence.acme",
)


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.parametrize("form", ["text", "json"])
def test_what_has_the_shape_of_a_secret_is_blanked(what, form, monkeypatch):
    monkeypatch.setenv("OPENKCM_LOG", form)
    before, root = logging.getLogger().handlers[:], logging.getLogger()
    out = io.StringIO()
    try:
        logs.start("cmk", out)
        logging.getLogger("openkcm.test").warning("dropped %s of somebody", SECRETS[what])
        try:
            raise RuntimeError(SECRETS[what])  # noqa: TRY301 -- a traceback is wanted
        except RuntimeError:
            logging.getLogger("somebody.elses").exception("went wrong")
    finally:
        root.handlers[:] = before
    said = out.getvalue()
    assert "dropped" in said
    assert "went wrong" in said
    for part in SECRETS[what].replace("\n", " ").split():
        if part.lower().rstrip(":") not in {"bearer", "pin", "-----begin", "private", "-----end", "key-----"}:
            assert part not in said


@pytest.mark.parametrize("line", PLAIN)
def test_what_an_operator_needs_stays(line):
    assert logs.blanked(line) == line


def test_json_entries_are_a_line_each_and_say_who_when_and_what(monkeypatch):
    out = io.StringIO()
    record = logging.LogRecord("openkcm.crew", logging.WARNING, "f", 1, "worker %d\nwent", (3,), None)
    out.write(logs.Formatter("eu-frankfurt-1", as_json=True).format(record))
    entry = json.loads(out.getvalue())
    assert "\n" not in out.getvalue()
    assert (entry["process"], entry["level"], entry["logger"], entry["message"]) == (
        "eu-frankfurt-1", "warning", "openkcm.crew", "worker 3\nwent",
    )  # fmt: skip
    assert entry["at"].endswith("Z")
    assert os.linesep not in entry["at"]
