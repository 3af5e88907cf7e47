"""Chromium with a person in front of it: a session, a passkey in a virtual authenticator, and a look at what it asks for."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # patience for a busy machine; nothing here is a measurement
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


class Person:
    """Somebody in a browser of the own; keeps what the page complained about and which hosts it asked."""

    def __init__(self, browser: Browser, base: str, account: str, **context: Any) -> None:
        self.base, self.account = base, account
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **context})
        self.page: Page = self.context.new_page()
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.page.on("request", lambda r: self.hosts.add(urlsplit(r.url).hostname or r.url.partition(":")[0]))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        session = self.context.new_cdp_session(self.page)
        session.send("WebAuthn.enable")
        options = {
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
            "isUserVerified": True, "automaticPresenceSimulation": True,
        }  # fmt: skip
        session.send("WebAuthn.addVirtualAuthenticator", {"options": options})

    def _hear(self, message: Any) -> None:
        if "Content Security Policy" in message.text or message.type == "error":
            self.complaints.append(message.text)

    def sign_in(self) -> None:
        self.page.goto(self.base + "/")
        self.page.get_by_text("Sign in", exact=True).click()
        self.page.get_by_role("button", name=self.account, exact=True).click()
        self.page.wait_for_url(self.base + "/")
        expect(self.page.locator("#live")).to_have_text("Live")

    def go(self, path: str) -> Page:
        self.page.goto(self.base + path)
        return self.page

    def subject(self) -> str:
        return self.go("/me").locator("dd code").first.inner_text()

    def accessible(self) -> None:
        found = Axe().run(self.page, options={"runOnly": {"type": "tag", "values": WCAG}})
        broken = [(v["id"], [n["html"][:160] for n in v["nodes"]]) for v in found.response["violations"]]
        assert not broken, (self.page.url, broken)

    def shoot(self, folder: Path | None, name: str) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=folder / f"{name}.png", full_page=True)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "the pages' tests need chromium (Debian package of that name)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
