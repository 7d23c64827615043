"""Serves the page's files, as they came with the installation. There is no build step, and the
policy lets a browser ask no other host.

Every address of the page is `/` and a fragment, which never reaches the node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..problems import Problem, problem_response

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def file_routes() -> list[Route]:
    """Return the routes of the page, whose files are read once, here."""
    file = serve_files(read_files(STATIC), POLICY)
    return [Route("/", file), Route("/page/{name:path}", file)]


def read_files(folder: Path) -> dict[str, bytes]:
    """Read a page's files, by their path in the folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in MEDIA_TYPES
    }


def serve_files(
    files: Mapping[str, bytes], policy: str
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers for a page's files; the one named index is the page itself."""
    tags = {name: f'"{hashlib.sha256(data).hexdigest()[:32]}"' for name, data in files.items()}

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", INDEX)
        if name not in files:
            return problem_response(
                Problem(404, "no_such_file", f"the page has no file {name!r}; it begins at /")
            )
        headers = {**HEADERS, "content-security-policy": policy, "etag": tags[name]}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(files[name], headers=headers, media_type=MEDIA_TYPES[Path(name).suffix])

    return file
