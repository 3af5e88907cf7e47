"""The pages: one that lists tenants and their regions live, and the login (authorization code flow with PKCE)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import jinja2
from litestar import Response, get, post
from litestar.params import FromPath
from litestar.response import Redirect

from openkcm.governance.errors import Unauthenticated
from openkcm.governance.portal.auth import authorize_url
from openkcm.governance.portal.requests import COOKIE, Req, desk_of
from openkcm.governance.portal.sessions import Session

__all__ = ["ROUTES"]

#: Where a login may lead: a path of ours, nothing that a browser could take for another host.
_LOCAL: Final = re.compile(r"/(?![/\\])[A-Za-z0-9/_.?=&%-]{0,300}\Z")
PAGES: Final = Path(__file__).parent.parent / "pages"
FILES: Final = {
    "portal.css": ((PAGES / "portal.css").read_text(encoding="utf-8"), "text/css"),
    "portal.js": ((PAGES / "portal.js").read_text(encoding="utf-8"), "text/javascript"),
}
TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined
)


def _page(name: str, status: int = 200, **values: Any) -> Response[str]:
    html = TEMPLATES.get_template(name).render(values)
    return Response(html, status_code=status, media_type="text/html", headers={"Cache-Control": "no-store"})


@get("/")
async def home(request: Req) -> Response[str]:
    """Show the tenants the reader may see, with their regions."""
    desk = desk_of(request)
    try:
        caller, _ = await desk.caller(request)
    except Unauthenticated:
        return _page("login.html", said=None)
    tenants = [t for t in desk.cmk.views.tenants() if caller.operator or t in caller.roles]
    rows = []
    for tenant in tenants:
        for row in desk.cmk.views.residences(tenant):
            sync = desk.cmk.watch.sync(tenant, row["region"], desk.cmk.registry.now_ms)
            rows.append({**row, "routine": sync["routine"], "critical": sync["critical"], "nodes": sync["nodes"]})
    roles = sorted(caller.roles_in(None))
    return _page("home.html", rows=rows, person=caller.subject, roles=roles, operator=caller.operator)


@get("/static/{name:str}")
async def static(name: FromPath[str]) -> Response[str]:
    """Give a page its style or script."""
    if name not in FILES:
        return Response("", status_code=404, media_type="text/plain")
    text, media_type = FILES[name]
    return Response(text, media_type=media_type, headers={"Cache-Control": "no-cache"})


@get("/login")
async def login(request: Req) -> Response[Any]:
    """Send the browser to the identity provider."""
    desk = desk_of(request)
    metadata = await desk.issuer.metadata()
    onward = request.query_params.get("next", "/")
    onward = onward if _LOCAL.match(onward) else "/"
    begun = desk.sessions.begin(f"{desk.origin(request)}/callback", onward)
    oidc = desk.cmk.configuration.oidc
    answer = Redirect(authorize_url(str(metadata["authorization_endpoint"]), oidc.client_id, begun), status_code=302)
    # Lax, not Strict: the provider's page sends the browser back, and that must be the browser that began.
    answer.set_cookie("openkcm_login", begun.state, httponly=True, samesite="lax", secure=_secure(request), max_age=300)
    return answer


@get("/callback")
async def callback(request: Req) -> Response[str]:
    """Take the provider's answer and open a session."""
    desk = desk_of(request)
    state = request.query_params.get("state", "")
    begun = desk.sessions.take(state)
    if begun is None or request.cookies.get("openkcm_login") != state:
        return _page("login.html", status=400, said="This login was not begun in this browser, or took too long.")
    form = {
        "grant_type": "authorization_code",
        "code": request.query_params.get("code", ""),
        "redirect_uri": begun.redirect_uri,
        "client_id": desk.cmk.configuration.oidc.client_id,
        "code_verifier": begun.verifier,
    }
    try:
        identity = await desk.issuer.identify(await desk.issuer.exchange(form), nonce=begun.nonce)
    except Unauthenticated as no:
        return _page("login.html", status=401, said=str(no))
    # A page, not a redirect: the cookie is Strict, and this navigation began on the provider's site.
    answer = _page("entered.html", onward=begun.onward)
    session = Session(identity.issuer, identity.subject, identity.auth_time_s, identity.expires_s)
    cookie = desk.sessions.open(session)
    answer.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=_secure(request), path="/")
    answer.delete_cookie("openkcm_login")
    return answer


@post("/logout")
async def logout(request: Req) -> Response[Any]:
    """End the session."""
    desk_of(request).sessions.end(request.cookies.get(COOKIE, ""))
    answer = Redirect("/", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


def _secure(request: Req) -> bool:
    configuration = desk_of(request).cmk.configuration
    return configuration.tls is not None if configuration.secure_cookies is None else configuration.secure_cookies


ROUTES = [home, static, login, callback, logout]
