"""From a datanet to an adapter by commands, against a real daemon and real trainings."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from typer.testing import Result

from factory.training.journal import read_status
from node.cli.client import CliError
from node.daemon import NodeDaemon
from node.training.desk import TrainingDesk

from .. import faces
from ..datanets.people import charter, giving, hush
from ..faces import shown
from ..forked import forked_python
from ..networks import ask, open_lab, until


@asynccontextmanager
async def serving(folder: Path, *bootstrap: str) -> AsyncIterator[tuple[NodeDaemon, str]]:
    """A daemon with a tiny base and its HTTP face, whose trainings are forks."""
    with open_lab(folder) as lab:
        home = folder / "home"
        lab.bootstrap = bootstrap
        async with lab.daemon("home") as running, shown(running, home) as url:
            train_by_forks(running)
            yield running, url
            await until(lambda: not running.training._runs.is_alive)


def train_by_forks(daemon: NodeDaemon) -> None:
    """Have a daemon's trainings be forks, and its backgrounds a few samples."""
    daemon.training = TrainingDesk(
        daemon.config.home / "runs",
        daemon.datanets,
        daemon.training._base,
        (forked_python(), "-m", "factory.training"),
        num_samples=4,
    )
    daemon.training.take_network(daemon)


async def command(folder: Path, *arguments: str) -> Result:
    """`lorikeet train …`."""
    return await faces.command(folder / "home", "train", *arguments)


async def told(folder: Path, *arguments: str) -> Any:
    """What a command prints as JSON; it must do well."""
    return await faces.told(folder / "home", "train", *arguments)


def write_story(path: Path, seed: int) -> Path:
    """A text in which no 13 bytes come twice, so that what is held out is nowhere learnt."""
    dice = random.Random(seed)
    names = ["".join(dice.choice("aeioulnrstkmp") for _ in range(9)) for _ in range(240)]
    told = [
        f"{name.capitalize()} {dice.choice(['and', 'is', 'of'])} {name[::-1]}." for name in names
    ]
    rows = [json.dumps({"text": " ".join(told[at : at + 8])}) for at in range(0, len(told), 8)]
    path.write_text("\n".join(rows) + "\n")
    return path


async def test_a_newcomer_trains_an_adapter_and_asks_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, url):
        datanet = await daemon.datanets.create(charter("kitchen", languages=()))
        for seed in (1, 2):
            text = write_story(tmp_path / f"{seed}.jsonl", seed)
            given = await daemon.datanets.give(datanet.id, giving(text), hush)
            for one in given.contributions:
                await daemon.datanets.judge(datanet.id, one.id, "accept", ("", "", ""))
        await daemon.datanets.make_version(datanet.id)

        recipe = tmp_path / "cook.toml"
        made = await command(tmp_path, "new", "cook", "--datanet", "kitchen", "--out", str(recipe))
        assert made.exit_code == 0, made.exception
        again = await command(tmp_path, "new", "cook", "--datanet", "kitchen", "--out", str(recipe))
        assert "is there already" in str(again.exception)
        recipe.write_text(
            recipe.read_text().replace('epochs = "auto"', "epochs = 1\nbatch_tokens = 128")
            + "[rows]\nwindow = 64\n[evaluate]\ntokens = 8\nprompts = ['What is the rice?']\n"
        )

        checked = await told(tmp_path, "check", str(recipe), "--threads", "1")
        assert checked["people"] == 1
        assert checked["steps"] > 30
        assert checked["seconds_a_step"] > 0
        fields = {one["field"]: one for one in checked["fields"]}
        assert fields["adapter.rank"]["value"] == "4"
        assert fields["adapter.rank"]["is_decided"]
        assert not fields["train.epochs"]["is_decided"]
        assert not list((tmp_path / "home" / "runs").glob(".*"))

        bad = tmp_path / "bad.toml"
        bad.write_text(recipe.read_text().replace("window = 64", "window = 6"))
        refused = await command(tmp_path, "check", str(bad))
        assert "line 15: rows.window" in str(refused.exception)

        begun = await told(tmp_path, "start", str(recipe), "--threads", "1")
        assert begun["state"] == "working"
        twice = await command(tmp_path, "start", str(recipe))
        assert "lorikeet train delete cook" in str(twice.exception)

        paused = await told(tmp_path, "pause", "cook")
        assert paused["state"] == "paused"
        assert paused["step"] < paused["num_steps"]
        idle = await command(tmp_path, "pause", "cook")
        assert "nobody works on the run cook: it is paused" in str(idle.exception)

        resumed = await told(tmp_path, "resume", "cook")
        assert resumed["state"] == "working"
        folder = tmp_path / "home" / "runs" / "cook"
        pid = read_status(folder).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed = await command(tmp_path, "watch", "cook")
        assert killed.exit_code != 0
        assert (await told(tmp_path, "status", "cook"))["run"]["state"] == "stopped"

        await told(tmp_path, "resume", "cook")
        watched = await command(tmp_path, "watch", "cook")
        assert watched.exit_code == 0, watched.exception
        assert "cook is finished" in watched.output + watched.stderr
        (listed,) = await told(tmp_path, "status")
        assert listed["state"] == "finished"
        assert listed["best"] < listed["first"]

        tried = await told(tmp_path, "evaluate", "cook")
        assert tried["held_out"]["adapter"] < tried["held_out"]["base"]
        assert tried["answers"][0]["prompt"]
        assert tried["verdict"].startswith("of what it never saw it loses")
        assert tried["is_good"]

        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            events = await client.get("/lorikeet/v1/runs/cook/events?after=5")
            first = json.loads(events.text.split("\n\n")[0].removeprefix("data: "))
            assert first["steps"][0]["step"] == 6
            unknown = await client.get("/lorikeet/v1/runs/nothing/events")
            assert unknown.status_code == 404
            assert "lorikeet train status" in unknown.text
            evil = await client.post(
                "/lorikeet/v1/runs/cook/resume", json={}, headers={"origin": "http://evil.test"}
            )
            assert evil.status_code == 403

        published = await told(tmp_path, "publish", "cook")
        assert published["version"] == "1"
        answered = await ask(daemon, "What is the rice?", model="cook@1")
        assert answered.text
        verified = await told(tmp_path, "verify", "cook", "--train", "--threads", "1")
        assert {one["outcome"] for one in verified["compared"]} == {"agrees"}, verified
        gone = await command(tmp_path, "delete", "cook", "--yes")
        assert gone.exit_code == 0, gone.exception
        assert await told(tmp_path, "status") == []
        assert isinstance((await command(tmp_path, "watch", "cook")).exception, CliError)
