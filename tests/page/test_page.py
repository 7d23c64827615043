"""The page in a real Chromium (scenes.mjs), before a daemon in memory: what is shown, what a press
does, what survives a reload, and what pages from elsewhere cannot do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from node.http.page.files import STATIC
from node.http.server import listen, url_of
from tests.node.twin import RECEIPT, serve_twin
from tests.page.browser import BROWSER, DEADLINE_S, HERE, PACKAGES, needs_browser
from tests.page.twin import PageTwin

VIEWS = (
    "",
    "chat?m=law&m=base",
    "adapters",
    "adapters/law",
    "receipts",
    f"receipts/{RECEIPT.digest}",
    "peers?ban=16Uiu2HAm",
    "engine",
    "datanets",
    "datanets/kitchen",
    f"datanets/kitchen/{'5f' * 32}",
    "factory",
    "factory?see=compare&r=kitchen&r=larder",
    "factory?see=merge",
    "factory/kitchen",
    "factory/new?datanet=kitchen",
    "governance",
    "governance/7",
    "logs",
)

LOOKS_S = 270.0  # it opens all of them twice, and axe goes through each


async def play(scene: str, url: str, *more: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Play a scene; its figures."""
    assert BROWSER is not None
    node, chromium = BROWSER
    with trio.fail_after(deadline_s):
        done = await trio.run_process(
            [node, "scenes.mjs", scene, url, *more],
            cwd=HERE,
            env={
                **os.environ,
                "LORIKEET_CHROMIUM": chromium,
                "LORIKEET_VIEWS": json.dumps(VIEWS),
            },
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@needs_browser
async def test_it_opens_at_once_tells_what_is_wrong_and_speaks_to_nobody_else() -> None:
    async with serve_twin(PageTwin()) as url:
        figures = await play("home", url)
    assert figures["bytes"] < 200_000


@needs_browser
@pytest.mark.timeout(420)
async def test_every_part_is_for_everybody_in_both_themes_and_on_a_phone() -> None:
    async with serve_twin(PageTwin()) as url:
        figures = await play("looks", url, deadline_s=LOOKS_S)
    commands = [one for one in figures["commands"] if one.startswith("lorikeet ")]
    assert len(commands) > 30
    refused = {one: why for one in commands if (why := refuse_command(one))}
    assert not refused


@needs_browser
@pytest.mark.parametrize("scene", ["governance", "posix"])
async def test_decisions_are_shown_and_a_curve_is_drawn_whatever_the_locale(scene: str) -> None:
    async with serve_twin(PageTwin()) as url:
        await play(scene, url)


@needs_browser
async def test_one_question_goes_to_several_adapters_and_a_reload_keeps_the_answers() -> None:
    twin = PageTwin(word_delay_s=0.02)
    async with serve_twin(twin) as url:
        await play("chat", url)
    assert sorted(one.model for one in twin.asked) == ["base", "law"]


@needs_browser
async def test_an_answer_that_is_stopped_ends_in_the_node() -> None:
    twin = PageTwin(word_delay_s=3.0)
    async with serve_twin(twin) as url:
        await play("stop", url)
        with trio.fail_after(DEADLINE_S):
            await twin.cancelled.wait()


@needs_browser
async def test_an_adapter_is_found_fetched_and_the_fetching_cancelled() -> None:
    twin = PageTwin(pull_s=DEADLINE_S)
    async with serve_twin(twin) as url:
        await play("pull", url)
    assert (twin.pulled, twin.pulls_cancelled) == (["recipes"], 1)
    assert twin.searched[-1].words == ("court",)


@needs_browser
async def test_a_training_is_watched_and_paused_and_a_text_judged() -> None:
    twin = PageTwin()
    async with serve_twin(twin) as url:
        await play("factory", url)
    assert twin.training.asked == ["pause", "resume", "finish"]
    assert twin.datanets.judged == ["accept"]


@needs_browser
async def test_peers_texts_and_trainings_are_tended_to() -> None:
    twin = PageTwin()
    async with serve_twin(twin) as url:
        await play("tend", url)
    assert not twin.bans
    assert twin.datanets.dropped == {"salt.txt": b"Salt keeps.\n" * 80_000}
    (said,) = twin.datanets.given
    assert (len(said.files), said.agreed) == (1, True)
    assert twin.training.asked == ["measure", "stop measuring", "merge both"]


@needs_browser
async def test_it_works_without_a_mouse() -> None:
    async with serve_twin(PageTwin()) as url:
        await play("keyboard", url)


@needs_browser
async def test_pages_from_elsewhere_do_and_learn_nothing() -> None:
    twin = PageTwin()
    async with serve_twin(twin) as url, serve_evil() as evil:
        await play("hostile", url, evil)
    assert not twin.withdrawn


@asynccontextmanager
async def serve_evil() -> AsyncIterator[str]:
    """A page of another program on this machine."""
    body = b"<!doctype html><title>evil</title>"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            async for data in stream:
                if b"\r\n\r\n" in data:
                    await stream.send_all(head + body)

    sock = listen("127.0.0.1", 0)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield url_of(sock)
        nursery.cancel_scope.cancel()


def test_every_command_that_the_page_names_is_one() -> None:
    sources = "".join(path.read_text() for path in STATIC.rglob("*.js"))
    named = set(re.findall(r"lorikeet ([a-z-]+)(?: ([a-z-]+))?", sources))
    assert len(named) > 30
    assert not [words for words in named if find_command([*filter(None, words)]) is None]


def find_command(words: list[str]) -> tuple[click.Command, list[str]] | None:
    """The command that these words begin with, and the words behind it."""
    from typer.main import get_command

    from node.cli.app import app

    command: Any = get_command(app)
    while isinstance(command, click.Group):
        if not words:
            return (command, []) if command.invoke_without_command else None
        if words[0] not in command.commands:
            return None
        command, words = command.commands[words[0]], words[1:]
    return command, words


def refuse_command(line: str) -> str:
    """Why a command that the page shows cannot be run as it stands; empty where it can."""
    found = find_command(shlex.split(line)[1:])
    if found is None:
        return "there is no such command"
    if re.search(r"\w…", line):
        return "it is cut short"
    command, words = found
    try:
        command.make_context(line, words)
    except click.BadParameter as error:
        return "" if "does not exist" in error.message else error.message
    except click.UsageError as error:
        return error.message
    return ""


def test_the_libraries_are_those_whose_digests_are_written_down() -> None:
    import hashlib

    folder = STATIC / "vendor"
    told = dict(
        reversed(line.split("  ")) for line in (folder / "DIGESTS").read_text().splitlines()
    )
    here = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "DIGESTS"
    }
    assert here == told


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="no npm packages here")
def test_the_libraries_are_what_the_packages_give() -> None:
    script = HERE.parent.parent / "scripts" / "vendor"
    done = subprocess.run([script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_page_is_in_what_is_installed() -> None:
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(HERE.parent.parent))
    packed = {
        Path(one.distribution_path).as_posix() for one in builder.recurse_selected_project_files()
    }
    folder = HERE.parent.parent
    assert {
        path.relative_to(folder).as_posix() for path in STATIC.rglob("*") if path.is_file()
    } <= packed
