"""The commands and routes of datanets, against a real daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from typer.testing import Result

from node.cli.client import CliError
from node.daemon import NodeDaemon

from .. import faces
from ..faces import shown
from .people import daemon, write_text

NET = ("our kitchen",)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[NodeDaemon, str]]:
    """A daemon with its HTTP face, and a home in which commands find it."""
    home = folder / "home"
    async with daemon(home) as running, shown(running, home) as url:
        yield running, url


async def command(folder: Path, *arguments: str) -> Result:
    """`lorikeet datanet …`."""
    return await faces.command(folder / "home", "datanet", *arguments)


async def told(folder: Path, *arguments: str) -> Any:
    """What a command prints as JSON; it must do well."""
    return await faces.told(folder / "home", "datanet", *arguments)


async def test_a_newcomer_types_all_of_it(tmp_path: Path) -> None:
    text = write_text(tmp_path / "notes.txt", 3, paragraphs=6)
    async with serving(tmp_path) as (_, url):
        made = await told(
            tmp_path, "create", "our kitchen", "--language", "en", "--min-words", "10"
        )
        assert made["role"] == "owner"
        assert (await command(tmp_path, "invite", "our kitchen")).stdout.startswith("datanet1-")

        changed = await told(tmp_path, "charter", "our kitchen", "--purpose", "How we cook")
        assert (changed["purpose"], changed["seq"]) == ("How we cook", 1)
        assert "nothing is said" in str((await command(tmp_path, "charter", *NET)).exception)

        unasked = await command(tmp_path, "give", "our kitchen", str(text))
        assert isinstance(unasked.exception, CliError)
        assert "--agree" in str(unasked.exception)
        # a folder with a file that nobody can read: it is named, and the other one is given
        (tmp_path / "folder").mkdir()
        text = text.rename(tmp_path / "folder" / text.name)
        (tmp_path / "folder" / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        (tmp_path / "folder" / ".hidden").write_text("nobody gives this")
        given = await told(tmp_path, "give", *NET, str(text.parent), "--agree", "--title", "Mine")
        (one,) = given["contributions"]
        refusals = [each for each in given["findings"] if each["outcome"] == "refuse"]
        assert [each["detail"].split(":")[0] for each in refusals] == ["photo.png"]

        (waiting,) = await told(tmp_path, "queue", "our kitchen")
        assert (waiting["id"], waiting["state"]) == (one["id"], "waiting")
        read = await command(tmp_path, "text", "our kitchen", one["id"][:12])
        assert read.stdout.split()[:5] == text.read_text().split()[:5]
        short = ("our kitchen", one["id"][:12])
        refused = await told(tmp_path, "refuse", *short, "--why", "too short", "--mend", "add more")
        assert refused["state"] == "refused"
        shown = await command(tmp_path, "show", "our kitchen")
        assert "too short" in shown.stdout
        assert "add more" in shown.stdout
        assert (await told(tmp_path, "accept", *short))["state"] == "accepted"
        assert (await told(tmp_path, "version", "our kitchen"))["number"] == 1

        folder = tmp_path / "kitchen-1"
        exported = await told(tmp_path, "export", "our kitchen", str(folder))
        lines = (folder / "documents.jsonl").read_text().splitlines()
        assert len(lines) == exported["documents"]
        again = await command(tmp_path, "export", "our kitchen", str(folder))
        assert "name a new folder" in str(again.exception)
        # a text that somebody changed on the disk is found
        path = next((tmp_path / "home" / "datanets").glob("*/texts/*/text"))
        path.write_bytes(path.read_bytes().replace(b"e", b"a", 1))
        changed = await command(tmp_path, "verify", "our kitchen")
        assert changed.exit_code == 4
        assert "not what was signed" in changed.output + changed.stderr

        path.unlink()
        assert (await command(tmp_path, "verify", *NET)).exit_code == 5  # that cannot be known

        taken = await told(tmp_path, "withdraw", *short)
        assert taken["contribution"]["state"] == "withdrawn"
        assert taken["paying"] == []
        stays = await command(tmp_path, "leave", "our kitchen")
        assert "hand-on" in str(stays.exception)
        alone = await command(tmp_path, "recover", *NET)
        assert "no other node is connected" in str(alone.exception)
        assert [row["name"] for row in await told(tmp_path, "list")] == ["our kitchen"]
        unknown = await command(tmp_path, "show", "nothing")
        assert "lists them" in str(unknown.exception)

        async with httpx.AsyncClient(base_url=url) as client:
            evil = await client.post(
                "/lorikeet/v1/datanets", json={"name": "x"}, headers={"origin": "http://evil.test"}
            )
            assert evil.status_code == 403
            wrong = await client.post("/lorikeet/v1/datanets", json={"nam": "x"})
            assert wrong.status_code == 400
            route = f"/lorikeet/v1/datanets/{made['id']}"
            assert (await client.get(route)).json()["info"]["name"] == "our kitchen"
            bad = await client.post(f"{route}/export", json={"folder": str(tmp_path)})
            assert bad.status_code == 400
            assert "name a new folder" in bad.text
