"""Which requests of a browser come in: those of the page of this node, and no other's."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from node.http.page.files import STATIC
from tests.node.twin import Twin, serve_twin

WITHDRAW = "/lorikeet/v1/withdraw"
SESSION = "/lorikeet/v1/session"
BODY = {"channel": None}


async def ask(
    url: str, path: str, headers: Mapping[str, str], method: str = "POST"
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        body = BODY if method == "POST" else None
        return await client.request(method, path, json=body, headers=headers)


async def test_the_page_learns_a_token_and_does_with_it_what_it_may_not_do_without() -> None:
    async with serve_twin(Twin()) as url:
        page = {"origin": url, "sec-fetch-site": "same-origin"}
        told = (await ask(url, SESSION, page)).json()["token"]
        done = await ask(url, WITHDRAW, {**page, "x-lorikeet-session": told})
        without = await ask(url, WITHDRAW, page)
        wrong = await ask(url, WITHDRAW, {**page, "x-lorikeet-session": told[:-1] + "!"})
        looked = await ask(url, "/lorikeet/v1/status", page, "GET")
    assert [one.status_code for one in (done, without, wrong, looked)] == [200, 403, 403, 200]
    assert without.json()["error"]["code"] == "no_session"
    assert "reload" in without.json()["error"]["message"]


async def test_each_start_has_a_token_of_its_own() -> None:
    tokens = []
    for _ in range(2):
        async with serve_twin(Twin()) as url:
            tokens.append((await ask(url, SESSION, {"origin": url})).json()["token"])
    assert tokens[0] != tokens[1]
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize("path", [SESSION, WITHDRAW, "/v1/chat/completions"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},  # another program of this machine
        {"origin": "http://localhost"},
        {"origin": "null"},  # a sandboxed frame, a file
        {"origin": "http://[::1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example"},  # a name that was made to mean this machine
    ],
)
async def test_pages_from_elsewhere_are_refused(path: str, headers: dict[str, str]) -> None:
    async with serve_twin(Twin()) as url:
        found = await ask(url, path, headers)
    assert found.status_code == 403
    assert "token" not in found.text
    assert not [name for name in found.headers if name.startswith("access-control")]


async def test_a_link_leads_to_the_page_and_to_nothing_else() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    async with serve_twin(Twin()) as url:
        page = await ask(url, "/", {**link, "sec-fetch-dest": "document"}, "GET")
        framed = await ask(url, "/", {**link, "sec-fetch-dest": "iframe"}, "GET")
        status = await ask(
            url, "/lorikeet/v1/status", {**link, "sec-fetch-dest": "document"}, "GET"
        )
    assert [one.status_code for one in (page, framed, status)] == [200, 403, 403]


async def test_clients_that_are_no_browsers_need_no_token() -> None:
    async with serve_twin(Twin()) as url:
        done = await ask(url, WITHDRAW, {"sec-fetch-mode": "cors"})  # as Node's fetch says
    assert done.status_code == 200


async def test_the_page_runs_its_own_files_alone_and_what_routes_say_runs_nowhere() -> None:
    async with serve_twin(Twin()) as url:
        page = await ask(url, "/", {}, "GET")
        same = await ask(url, "/", {"if-none-match": page.headers["etag"]}, "GET")
        script = await ask(url, "/page/app.js", {}, "GET")
        status = await ask(url, "/lorikeet/v1/status", {}, "GET")
        gone = [
            await ask(url, f"/page/{name}", {}, "GET")
            for name in ("", "../live.py", "%2e%2e/live.py", "/etc/passwd")
        ]
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert same.status_code == 304
    assert script.headers["content-type"].startswith("text/javascript")
    assert "sandbox" in status.headers["content-security-policy"]
    assert {one.headers["x-content-type-options"] for one in (page, script, status)} == {"nosniff"}
    assert [one.status_code for one in gone] == [404] * 4


def test_nothing_of_the_page_names_another_host_or_carries_a_script_inside() -> None:
    index = (STATIC / "index.html").read_text()
    assert "<style" not in index
    assert 'style="' not in index
    assert index.count("<script") == index.count('<script type="module" src="/page/')
    for path in STATIC.rglob("*"):
        if path.suffix in (".html", ".js", ".css") and path.parent.name != "vendor":
            text = path.read_text().replace("http://www.w3.org/", "")
            assert "://" not in text, path.name
