"""Serves adapters and the base as a hub of models does, so that programs made for one take them
from the swarm: `HF_ENDPOINT=http://127.0.0.1:4180/hub`.

Decides what a repository, its revisions and its files are: an adapter by NAME, PEER/NAME or CID;
`main`, its versions, and its commit, the first 40 hex digits of its manifest's digest; the files of
its manifest. The base is `base`, or its name, PEER/NAME, digest or its card's CID; `main`, and
the first 40 hex digits of its index's digest. Does not know how either is fetched: the daemon does
that on the first request, and keeps an adapter as a guest. What the swarm does not have an origin
is asked for, where there is one (origin.py); the swarm's names win, and each answer says whose it
is.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ..api.daemon import Daemon
from ..api.status import FileInfo, FilesInfo
from ..errors import NodeError, UnknownModel
from .origin import FROM, Origin, OriginFailed
from .problems import json_response, problem_of

PREFIX = "/hub"
MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
COMMIT_CHARS = 40
MAX_REPO_CHARS = 256
MAX_AT_ONCE = 32
"""How many adapters are looked up or fetched at a time; further requests wait."""
MAX_MESSAGE_CHARS = 1024
ABSENT_S = 20.0
"""For how long a name that the swarm did not have is asked of the origin at once."""
MAX_ABSENT = 1024
BASES = "; the base is called as `lorikeet base show` says"

Endpoint = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)


class NotThere(Exception):
    """What was asked for does not exist; `code` is a hub's word for what is missing."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers or {}


class Elsewhere:
    """Has an origin answer for what the swarm does not have, and says which side answered."""

    def __init__(self, origin: Origin | None, log: Callable[[str], None]) -> None:
        self._origin = origin
        self._log = log
        self._absent: dict[str, tuple[str, float]] = {}

    def beside(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that answers out of the swarm, else out of the origin."""

        async def wrapped(request: Request) -> Response:
            try:
                response = await self._answer(endpoint, request)
            except OriginFailed as error:
                self._log(f"hub: {error}")
                raise
            if "file" in request.path_params and request.method == "GET":
                path = request.url.path.removeprefix(PREFIX)
                self._log(f"hub: {path} ({response.status_code}) from {response.headers[FROM]}")
            return response

        return wrapped

    async def rest(self, request: Request) -> Response:
        """Answer what only an origin has: data sets, whose token that is."""
        assert self._origin is not None
        return await self._origin.answer(request, PREFIX)

    async def _answer(self, endpoint: Endpoint, request: Request) -> Response:
        name = named_by(request)
        missing, until = self._absent.get(name, ("", 0.0))
        if self._origin is not None and trio.current_time() < until:
            return await self._origin.answer(request, PREFIX, missing)
        try:
            response = await endpoint(request)
        except NotThere as error:
            if self._origin is None or error.code == "EntryNotFound":
                raise
            if len(self._absent) >= MAX_ABSENT:
                self._absent.clear()
            self._absent[name] = (str(error), trio.current_time() + ABSENT_S)
            return await self._origin.answer(request, PREFIX, str(error))
        response.headers[FROM] = "swarm"
        return response


class Hub:
    """Answers a hub's questions about the adapters of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._places = trio.CapacityLimiter(MAX_AT_ONCE)

    async def info(self, request: Request) -> Response:
        """Describe an adapter as a repository."""
        repo, adapter = await self._find(request)
        return json_response(describe(repo, adapter), headers=commit_of(adapter))

    async def tree(self, request: Request) -> Response:
        """List an adapter's files; it has no folders."""
        _, adapter = await self._find(request)
        folder = request.path_params.get("folder", "")
        if folder.strip("/"):
            raise no_entry(folder, adapter)
        return json_response(
            [tree_entry(file) for file in adapter.files], headers=commit_of(adapter)
        )

    async def file(self, request: Request) -> Response:
        """Give a file, or the ranges of it that are asked for."""
        _, adapter = await self._find(request)
        name = request.path_params["file"]
        for file in adapter.files:
            if file.name == name:
                headers = {"etag": f'"{file.sha256}"', **commit_of(adapter)}
                return FileResponse(
                    file.path, headers=headers, media_type="application/octet-stream"
                )
        raise no_entry(name, adapter)

    async def _find(self, request: Request) -> tuple[str, FilesInfo]:
        """Have the adapter here that a request names. Raises NotThere, NodeError."""
        repo = request.path_params["repo"][:MAX_REPO_CHARS]
        revision = request.path_params.get("revision", MAIN)[:MAX_REPO_CHARS]
        try:
            async with self._places:
                return repo, await self._find_revision(repo, revision)
        except UnknownModel as error:
            code = "RepoNotFound" if is_stable(revision) else "RevisionNotFound"
            raise NotThere(code, f"{error}{BASES}") from error

    async def _find_revision(self, repo: str, revision: str) -> FilesInfo:
        if revision == MAIN:
            return await self._daemon.files(repo)
        if not is_stable(revision):
            return await self._daemon.files(f"{repo}@{revision}")
        adapter = await self._daemon.files(repo, revision)
        if not adapter.digest.startswith(revision):
            raise NotThere("RevisionNotFound", f"{repo!r} has no commit {revision} that is known")
        return adapter


def routes(
    daemon: Daemon, origin: Origin | None = None, log: Callable[[str], None] = logger.info
) -> list[Route]:
    """Return the routes that a hub's client reads from; `log` hears which side gave a file."""
    hub = Hub(daemon)
    elsewhere = Elsewhere(origin, log)
    model = f"{PREFIX}/api/models/{{repo:path}}"
    endpoints = {
        f"{model}/revision/{{revision:path}}": hub.info,
        f"{model}/tree/{{revision}}": hub.tree,
        f"{model}/tree/{{revision}}/{{folder:path}}": hub.tree,
        model: hub.info,
        f"{PREFIX}/{{repo:path}}/resolve/{{revision}}/{{file:path}}": hub.file,
    }
    beside = {path: elsewhere.beside(endpoint) for path, endpoint in endpoints.items()}
    if origin is not None:
        beside[f"{PREFIX}/{{path:path}}"] = elsewhere.rest
    return [Route(path, reporting(endpoint)) for path, endpoint in beside.items()]


def reporting(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint whose errors are told as a hub tells them."""

    async def wrapped(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NotThere as error:
            return refuse(404, error.code, str(error), {FROM: "swarm", **error.headers})
        except OriginFailed as error:
            return refuse(502, "OriginFailed", str(error))
        except NodeError as error:
            problem = problem_of(error)
            return refuse(problem.status, problem.code, problem.message)

    return wrapped


def refuse(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error; a client that asks by HEAD reads it in the headers."""
    line = "".join(char if " " <= char <= "~" else "?" for char in message[:MAX_MESSAGE_CHARS])
    told = {"x-error-code": code, "x-error-message": line, **(headers or {})}
    return json_response({"error": message}, status, headers=told)


def named_by(request: Request) -> str:
    """Return what of the swarm a request names."""
    params = request.path_params
    return f"{params['repo']}@{params.get('revision', MAIN)}"[:MAX_REPO_CHARS]


def no_entry(name: str, adapter: FilesInfo) -> NotThere:
    """Return the error for a file that an adapter does not have."""
    return NotThere("EntryNotFound", f"{adapter.name!r} has no {name!r}", commit_of(adapter))


def is_stable(revision: str) -> bool:
    """Say whether a revision is the one that every adapter has, or a commit; else it is a version's
    name.
    """
    return revision == MAIN or COMMIT.fullmatch(revision) is not None


def commit_of(adapter: FilesInfo) -> dict[str, str]:
    """Return the header that names an adapter's content."""
    return {"x-repo-commit": adapter.digest[:COMMIT_CHARS]}


def describe(repo: str, adapter: FilesInfo) -> dict[str, Any]:
    """Return what a hub tells of a repository."""
    tags = ("transformers",) if adapter.is_base else ("peft", "lora")
    return {
        "id": repo,
        "modelId": repo,
        "author": adapter.creator,
        "sha": adapter.digest[:COMMIT_CHARS],
        "private": False,
        "gated": False,
        "disabled": False,
        "library_name": "transformers" if adapter.is_base else "peft",
        "tags": [*tags, f"license:{adapter.licence}", f"lorikeet:{adapter.cid}"],
        "siblings": [sibling(file) for file in adapter.files],
    }


def sibling(file: FileInfo) -> dict[str, Any]:
    """Return a file as a repository's description lists it."""
    pointer = pointer_to(file)
    lfs = {"sha256": file.sha256, "size": file.size_bytes, "pointerSize": len(pointer)}
    return {
        "rfilename": file.name,
        "size": file.size_bytes,
        "blobId": blob_id(pointer),
        "lfs": lfs,
    }


def tree_entry(file: FileInfo) -> dict[str, Any]:
    """Return a file as a listing of a folder has it."""
    pointer = pointer_to(file)
    lfs = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": len(pointer)}
    return {
        "type": "file",
        "path": file.name,
        "size": file.size_bytes,
        "oid": blob_id(pointer),
        "lfs": lfs,
    }


def pointer_to(file: FileInfo) -> bytes:
    """Return what a git repository holds in place of a large file (git-lfs, specification 1); here
    every file is one, so that its hash is a sha-256.
    """
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{file.sha256}\nsize {file.size_bytes}\n"
    ).encode()


def blob_id(data: bytes) -> str:
    """Return git's name for some bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
