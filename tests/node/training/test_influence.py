"""Whose text mattered to a run, measured by commands and a real process."""

from __future__ import annotations

from pathlib import Path

from ...p2p.helpers import eventually
from .test_chatting import begin
from .test_face import command, serving, told


async def test_whose_text_mattered_is_measured_by_a_process_that_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (daemon, _):
        begin(daemon, tmp_path, epochs=2)
        early = await command(tmp_path, "influence", "tiny")
        assert "measured when it is finished" in str(early.exception)
        await eventually(lambda: not daemon.training._runs.is_alive, 60)

        nothing = await told(tmp_path, "influence", "tiny", "--show")
        assert nothing["state"] == "new"
        idle = await command(tmp_path, "influence", "tiny", "--stop")
        assert "nobody measures" in str(idle.exception)

        short = await command(tmp_path, "influence", "tiny", "--minutes", "0", "--threads", "1")
        assert short.exit_code == 0, short.exception
        assert "tiny: paused: time is over" in short.stderr
        assert "go on with: lorikeet train influence tiny" in short.stderr

        begun = await told(tmp_path, "influence", "tiny", "--minutes", "30", "--threads", "1")
        assert begun["state"] == "working"
        refused = await command(tmp_path, "delete", "tiny", "--yes")
        assert "--stop" in str(refused.exception)
        stopped = await told(tmp_path, "influence", "tiny", "--stop")
        assert stopped["state"] in ("stopped", "finished")

        whole = await command(tmp_path, "influence", "tiny", "--minutes", "30", "--threads", "1")
        assert whole.exit_code == 0, whole.exception
        assert "tiny: finished" in whole.stderr
        await eventually(lambda: not daemon.training._influences.are_alive)
        found = await told(tmp_path, "influence", "tiny", "--show")
        assert found["state"] == "finished"
        assert [person["name"] for person in found["people"]] == ["Farida", "Karim", "Nasreen"]
        assert abs(sum(person["weight"] for person in found["people"]) - 1) < 1e-9
        assert found["lambda_eighths"] is not None
        assert found["r"]["low"] <= found["r"]["mean"] <= found["r"]["high"]
