"""Decides what a browser may do here: the page of this node, and no other page.

    a page of another host, or of another program on this machine ──▶ refused, whatever it asks
    a link to the page                                             ──▶ may be followed
    the page itself                                                ──▶ may read; for all else it
                                                                       brings the session's token

A request that no browser sent (a client of an API, the command line) says neither where it comes
from nor brings a token: whoever may run programs here needs no page.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.routing import Route

from .problems import Json, Problem, json_response

SESSION_PATH = "/lorikeet/v1/session"
TOKEN_HEADER = "x-lorikeet-session"
READING = frozenset({"GET", "HEAD"})


class Session:
    """What the page must know to do more than look; anew with each start of a daemon."""

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(32)

    def refusal_of(self, request: Request) -> Problem | None:
        """Return why a browser's request is refused, None where it is not, or no browser's."""
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site")
        if origin is None and site is None:
            return None
        if origin is not None and not is_own(origin, request.headers.get("host", "")):
            told = f"a page from {origin!r} may not use this daemon"
            return Problem(403, "forbidden", told, "origin")
        if site not in (None, "same-origin", "none") and not is_link(request):
            told = f"a page from elsewhere ({site}) may not use this daemon; open / itself"
            return Problem(403, "forbidden", told, "sec-fetch-site")
        if request.method in READING or request.url.path == SESSION_PATH:
            return None
        given = request.headers.get(TOKEN_HEADER, "")
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        told = "the page's session is over (the node was started again); reload the page"
        return Problem(403, "no_session", told, TOKEN_HEADER)

    def routes(self) -> list[Route]:
        """Return the route by which the page learns the token; nobody else can read its answer."""

        async def session(_: Request) -> Json[dict[str, str]]:
            return json_response({"token": self._token}, headers={"cache-control": "no-store"})

        return [Route(SESSION_PATH, session, methods=["POST"])]


def is_own(origin: str, host: str) -> bool:
    """Say whether an Origin is that of the address which was asked."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def is_link(request: Request) -> bool:
    """Say whether somebody follows a link to the page, which then reads for itself."""
    return (
        request.method == "GET"
        and request.url.path == "/"
        and request.headers.get("sec-fetch-mode") == "navigate"
        and request.headers.get("sec-fetch-dest") == "document"
    )
