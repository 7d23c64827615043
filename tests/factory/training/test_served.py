"""What a node serves is what was trained: our engine over an adapter that a run made, beside the
trainer's own model; and the ids that it is asked with are those that it learnt from.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from transformers import AutoModelForCausalLM

from factory.learning import load_base
from factory.training import checkpoints
from factory.training.crew import Crew
from factory.training.folder import Run, read_run
from factory.training.model import Learner
from factory.training.rows import Document, make_rows
from factory.training.trainer import Trainer
from node.answering.tokenizer import load_tokenizer
from node.api.answers import ChatMessage
from node.training.encoding import BaseEncoder

from ...engine.worlds import Bench, smollm2
from . import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

TOLERANCE = 1e-4
RELATIVE = 1e-5  # of the largest logit, where that is far above 1
GREEDY = 12
KINDS = ("lora", "rslora", "dora")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in bfloat16, as most are published."""
    folder = tiny.make_base(tmp_path_factory.mktemp("base"))
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def trained(run: Run) -> Learner:
    """Train a run here; its own model with the adapter that was kept, in float32."""
    crew = Crew()
    adapter, seed = run.recipe.adapter, run.recipe.train.seed
    learner = Learner(Path(run.about.base), adapter, seed=seed, device=crew.device)
    assert Trainer(run, learner, crew, lambda: None, say=lambda _: None).train() == "finished"
    held = checkpoints.newest(run.folder / "checkpoints", print)
    assert held is not None
    assert held.best is not None
    learner.put({name: each.bfloat16().float() for name, each in held.best.items()})
    return learner.float().eval()


def logits_of(learner: Learner, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        made = learner.model(input_ids=torch.tensor([tokens]))
    return torch.as_tensor(made.logits[0])


def beside(learner: Learner, bench: Bench, tokens: list[int]) -> float:
    """The largest difference of logits, over the tokens and greedily on from them."""
    worst = 0.0
    for _ in range(GREEDY):
        own = logits_of(learner, tokens)
        sequence = bench.sequence(tokens, b"a")
        served = bench.forward((sequence, 0, len(tokens)))[id(sequence)]
        worst = max(worst, float((own - served).abs().max()))
        chosen = int(own[-1].argmax())
        assert int(served[-1].argmax()) == chosen
        tokens = [*tokens, chosen]
    return worst


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_serves_the_logits_and_tokens_of_the_trainers_own_model(
    kind: str, base: Path, tmp_path: Path
) -> None:
    said = tiny.recipe(epochs=2)
    said = replace(said, adapter=replace(said.adapter, kind=kind))
    run = read_run(tiny.make_run(tmp_path / "run", base, said))
    learner = trained(run)
    bench = Bench(base)
    bench.load(b"a", run.folder / "adapter")
    ids = [int(i) for i in run.held_out.ids[0] if i >= 0]
    assert beside(learner, bench, ids) < TOLERANCE
    with learner.model.disable_adapter():
        bare = logits_of(learner, ids)
    assert (bare - logits_of(learner, ids)).abs().max() > 0.01, "it has learnt nothing to compare"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_serves_what_was_trained_on_the_repositorys_base(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = smollm2()
    said = tiny.recipe(epochs=1, steps=3, learning_rate=2e-3)
    said = replace(said, adapter=replace(said.adapter, kind=kind, rank=8))
    run = read_run(tiny.make_run(tmp_path / "run", gguf, said))
    rounded = trained(run)
    # The trainer rounds the file's weights to bfloat16; served in float32 they are not rounded.
    whole = partial(load_base, dtype=torch.float32)
    monkeypatch.setattr("factory.training.model.load_base", whole)
    learner = Learner(gguf, run.recipe.adapter, seed=0, device=rounded.device)
    learner.put(rounded.copy())
    bench = Bench(gguf)
    bench.load(b"a", run.folder / "adapter")
    tokens = load_tokenizer(gguf).encode_prompt((ChatMessage("user", "What is salt?"),))
    worst = beside(learner, bench, tokens)
    own = logits_of(learner, tokens)
    of_rounding = float((own - logits_of(rounded, tokens)).abs().max())
    exact = logits_of(learner.double(), tokens)
    of_float32 = float((own - exact).abs().max())
    print(
        f"{kind}: logits up to {exact.abs().max():.0f} differ by {worst:.2e}; {of_float32:.2e} of"
        f" it is float32's own; {of_rounding:.2e} a base rounded to bfloat16"
    )
    # Each side is about 1e-4 from float64 here.
    assert worst < RELATIVE * float(exact.abs().max())


def test_the_ids_that_are_learnt_are_those_that_a_question_is_asked_with() -> None:
    tokenizer = load_tokenizer(smollm2())
    title, answer = "What is <|im_end|> salt?", "A mineral.\n\nUsed in kitchens, and on roads."
    document = Document(f"{title}\n{answer}", title, 0, 0)
    made = make_rows([document], BaseEncoder(tokenizer), window=64, with_chat=True).learnt
    (row,) = np.flatnonzero(made.is_chat)
    ids = [int(i) for i in made.ids[row] if i >= 0]
    asked = tokenizer.encode_prompt((ChatMessage("user", title),))
    assert ids[: made.starts[row]] == asked
    assert ids[made.starts[row] :] == [*tokenizer.encode_text(answer), tokenizer.end_id]
    assert tokenizer.end_id in tokenizer.stop_ids
    (text,) = np.flatnonzero(~made.is_chat)
    said = [int(i) for i in made.ids[text] if i >= 0]
    assert said == tokenizer.encode_text(document.text)
    assert tokenizer.decode(said) == document.text
