"""What a run's checkpoints answer, while the run goes on."""

from __future__ import annotations

from pathlib import Path

import httpx
from msgspec.structs import replace

from factory.training import checkpoints
from factory.training.recipe import EvaluatePart
from node.daemon import NodeDaemon

from ...factory.training.tiny import make_run, recipe
from ...p2p.helpers import eventually
from ..networks import ask
from .test_face import command, serving, told

GREEDY = ("--raw", "--temperature", "0", "--max-tokens", "6")


def begin(daemon: NodeDaemon, folder: Path, **train: object) -> Path:
    """A run over the daemon's own base, at work."""
    run = prepare(daemon, folder, "tiny", **train)
    daemon.training._runs.begin(run)
    return run


def prepare(daemon: NodeDaemon, folder: Path, name: str, **train: object) -> Path:
    """A run over the daemon's own base, not begun."""
    said = replace(
        recipe(**train),
        base=daemon.training._base().identity.base.hex(),
        evaluate=EvaluatePart(tokens=8),
    )
    home = folder / "home"
    (home / "runs").mkdir(exist_ok=True)
    return make_run(home / "runs" / name, folder / "base", said)


def steps_of(run: Path) -> list[int]:
    return checkpoints.steps_in(run / "checkpoints")


async def test_a_checkpoint_answers_while_the_run_goes_on_and_is_gone_then(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, url):
        run = begin(daemon, tmp_path, epochs=600)
        early = await command(tmp_path, "chat", "tiny", "hello")
        if early.exit_code:
            assert "has no checkpoint yet" in str(early.exception)
        await eventually(lambda: len(steps_of(run)) >= 2)

        words = await told(tmp_path, "chat", "tiny", "hello", *GREEDY, "--base")
        begun, *rest = words
        assert begun["step"] >= 25
        ended = [word for word in rest if "tokens" in word]
        assert [word["by"] for word in ended] == ["base", "adapter"]
        by_base = "".join(word.get("text", "") for word in rest if word["by"] == "base")
        asked = await ask(daemon, "hello", model="base", max_tokens=6)
        assert by_base == asked.text

        best = await told(tmp_path, "chat", "tiny", "hello", *GREEDY, "--best")
        assert best[0]["held_out"] is not None
        status = (await told(tmp_path, "status", "tiny"))["run"]
        assert status["state"] == "working"
        assert status["step"] >= begun["step"]

        assert daemon.engine is not None
        await eventually(lambda: not daemon.engine._link.kept())
        assert daemon.held() == []
        assert not list((tmp_path / "home" / "runs").glob(".*"))

        await told(tmp_path, "pause", "tiny")
        kept = steps_of(run)
        newest = checkpoints.path_of(run / "checkpoints", kept[-1])
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        shown = await command(tmp_path, "chat", "tiny", "hello", *GREEDY)
        assert shown.exit_code == 0, shown.exception
        assert f"step {kept[-1]} is damaged" in shown.stderr
        assert f"the checkpoint of step {kept[-2]}" in shown.stderr
        none = await command(tmp_path, "chat", "tiny", "hello", "--step", "1")
        assert f"those of {kept[0]}, " in str(none.exception)
        for path in (run / "checkpoints").iterdir():
            path.write_bytes(b"\0" * 64)
        ruined = await command(tmp_path, "chat", "tiny", "hello")
        assert "every checkpoint of tiny is damaged" in str(ruined.exception)

        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            body = {"text": "hello", "which": "best", "step": 25}
            both = await client.post("/lorikeet/v1/runs/tiny/chat", json=body)
            assert both.status_code == 400
            assert "name one of them" in both.text
            evil = await client.post(
                "/lorikeet/v1/runs/tiny/chat", json=body, headers={"origin": "http://evil.test"}
            )
            assert evil.status_code == 403


async def test_a_finished_runs_adapter_answers_as_it_does_when_it_is_published(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (daemon, _):
        run = begin(daemon, tmp_path, epochs=6, learning_rate=0.1)
        await eventually(lambda: not daemon.training._runs.is_alive, 60)
        words = await told(tmp_path, "chat", "tiny", "hello", *GREEDY)
        assert words[0]["step"] is None
        said = "".join(word.get("text", "") for word in words)
        info = await daemon.push(run / "adapter")
        asked = await ask(daemon, "hello", model=info.cid, max_tokens=6)
        assert said == asked.text
