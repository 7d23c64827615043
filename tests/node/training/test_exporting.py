"""Runs beside one another, and a run as a folder that peft reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from node.daemon import NodeDaemon
from node.training.desk import TrainingDesk

from ...p2p.helpers import eventually
from .test_chatting import begin, prepare
from .test_face import command, serving, told

WEIGHTS = "adapter_model.safetensors"


def desk_of(daemon: NodeDaemon) -> TrainingDesk:
    assert isinstance(daemon.training, TrainingDesk)
    return daemon.training


@pytest.mark.filterwarnings("ignore::FutureWarning")
async def test_runs_are_compared_and_one_is_exported_as_peft_reads_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, _):
        run = begin(daemon, tmp_path, epochs=4)
        prepare(daemon, tmp_path, "short", epochs=2)
        await eventually(lambda: not desk_of(daemon)._runs.is_alive, 60)
        unfinished = await command(tmp_path, "export", "short", str(tmp_path / "early"))
        assert "kept when it is finished" in str(unfinished.exception)

        assert {run["name"] for run in await told(tmp_path, "list")} == {"short", "tiny"}
        found = await told(tmp_path, "compare", "short", "tiny")
        fields = {one["field"]: one["values"] for one in found["differing"]}
        assert fields["train.epochs"] == ["2", "4"]
        assert "adapter.rank" not in fields
        assert [bool(one["verdict"]) for one in found["runs"]] == [False, True]
        assert found["runs"][1]["seconds"] > 0
        shown = await command(tmp_path, "compare", "short", "tiny")
        assert "train.epochs\t2\t4" in shown.output
        alone = await command(tmp_path, "compare", "tiny")
        assert "2 to 16 different runs" in str(alone.exception)

        out = tmp_path / "out" / "adapter"
        done = await command(tmp_path, "export", "tiny", str(out))
        assert done.exit_code == 0, done.exception
        assert {path.name for path in out.iterdir()} == {
            "README.md",
            "adapter_config.json",
            WEIGHTS,
            "evaluation.json",
            "recipe.toml",
        }
        twice = await command(tmp_path, "export", "tiny", str(out))
        assert "is there already" in str(twice.exception)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        ids = torch.tensor([[70, 71, 72]])
        plain = base(input_ids=ids).logits
        model = PeftModel.from_pretrained(base, out)
        assert not torch.equal(model(input_ids=ids).logits, plain)
        kept = load_file(out / WEIGHTS)
        assert kept.keys() == load_file(run / "adapter" / WEIGHTS).keys()
