"""What is taken out of a run's checkpoints, in the form in which it is served."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from factory.training.taking import take

from . import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_best_of_a_checkpoint_is_the_adapter_that_the_run_keeps(
    tmp_path: Path, kind: str
) -> None:
    base = tiny.make_base(tmp_path / "base")
    said = tiny.recipe()
    run = tiny.make_run(
        tmp_path / "run", base, replace(said, adapter=replace(said.adapter, kind=kind))
    )
    assert tiny.finish(run) == 0
    out = tmp_path / "out"
    out.mkdir()
    taken = take(run, out, "best")
    assert taken.held_out is not None
    kept = load_file(run / "adapter" / WEIGHTS)
    found = load_file(out / WEIGHTS)
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    ids = torch.tensor([[5, 6, 7]])
    said_by = []
    for folder in (run / "adapter", out):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
        said_by.append(model(input_ids=ids).logits)
    torch.testing.assert_close(*said_by, rtol=1e-4, atol=1e-4)
