"""The pages' files, and the login (authorization code flow with PKCE)."""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.response import Redirect

from openkcm.governance.errors import Unauthenticated
from openkcm.governance.portal.auth import authorize_url
from openkcm.governance.portal.requests import COOKIE, Req, desk_of
from openkcm.governance.portal.routes.pages import PAGES, other_host, rendered
from openkcm.governance.portal.sessions import Session

__all__ = ["ROUTES"]

#: Where a login may lead: a path of ours, nothing that a browser could take for another host.
_LOCAL: Final = re.compile(r"/(?![/\\])[A-Za-z0-9/_.?=&%-]{0,300}\Z")
#: What browsers may ask for, with its type; nothing else in the folder is served.
FILES: Final = {
    "portal.css": "text/css",
    "portal.js": "text/javascript",
    "vendor/htmx.min.js": "text/javascript",
    "vendor/pico.min.css": "text/css",
}
STATIC: Final = {
    name.rpartition("/")[2]: ((PAGES / name).read_text(encoding="utf-8"), media_type)
    for name, media_type in FILES.items()
}


@get("/static/{name:str}")
async def static(name: FromPath[str]) -> Response[str]:
    """Give a page its style or script."""
    if name not in STATIC:
        return Response("", status_code=404, media_type="text/plain")
    text, media_type = STATIC[name]
    return Response(text, media_type=media_type, headers={"Cache-Control": "no-cache"})


@get("/login")
async def login(request: Req) -> Response[Any]:
    """Send the browser to the identity provider."""
    desk = desk_of(request)
    elsewhere = other_host(desk, request)
    if elsewhere is not None:
        return elsewhere
    metadata = await desk.issuer.metadata()
    onward = request.query_params.get("next", "/")
    onward = onward if _LOCAL.match(onward) else "/"
    begun = desk.sessions.begin(f"{desk.origin(request)}/callback", onward)
    oidc = desk.cmk.configuration.oidc
    again = request.query_params.get("again") == "1"
    where = authorize_url(str(metadata["authorization_endpoint"]), oidc.client_id, begun, again=again)
    answer = Redirect(where, status_code=302)
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
        return rendered(
            "login.html", status=400, onward="/", said="This login was not begun in this browser, or took too long."
        )
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
        return rendered("login.html", status=401, onward="/", said=str(no))
    # A page, not a redirect: the cookie is Strict, and this navigation began on the provider's site.
    answer = rendered("entered.html", onward=begun.onward)
    session = Session(identity.issuer, identity.subject, identity.auth_time_s, identity.expires_s)
    cookie = desk.sessions.open(session)
    answer.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=_secure(request), path="/")
    answer.delete_cookie("openkcm_login")
    return answer


@post("/logout")
async def logout(request: Req) -> Response[Any]:
    """End the session, from a page of ours."""
    desk = desk_of(request)
    form = await request.form()
    if desk.session(request) is not None:
        desk.check_own_page(request, str(form.get("csrf", "")))
    desk.sessions.end(request.cookies.get(COOKIE, ""))
    answer = Redirect("/", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


def _secure(request: Req) -> bool:
    configuration = desk_of(request).cmk.configuration
    return configuration.tls is not None if configuration.secure_cookies is None else configuration.secure_cookies


ROUTES = [static, login, callback, logout]
