"""A world of which only some people were left out yet: what can be said about those.

    python -m benchmarks.attribution.so_far RUN

RUN is a world's folder (`worlds.py` makes it under its --work). r is over the people who were left
out; LDS needs halves and is not told. Writes
benchmarks/results/MACHINE-attribution-NAME-so-far.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from msgspec import to_builtins

from benchmarks import write_result
from factory.influence.campaign import BARE, Campaign
from factory.influence.fitting import Evidence, blended, fit
from factory.influence.folder import read_run
from factory.influence.measures import estimate, estimate_pooled, r_each
from factory.influence.plan import WHOLE, without
from factory.influence.result import given_tokens
from proofs.attribution.background import Background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import read_tokens

from .attacks import BY_ANSWER_ALONE


def main() -> None:
    """Judge what is there, print and write it."""
    folder = Path(sys.argv[1])
    run = read_run(folder)
    found = Campaign(run, print, lambda: 0.0).found()
    there = [i for i in range(run.num_contributors) if without(i) in found.losses]
    whole = found.losses[WHOLE]
    effects = np.stack([found.losses[without(i)] - whole for i in there], axis=1)
    index = Index.build(read_tokens((folder / "attribution.tokens").read_bytes()))
    background = Background.build(read_tokens((folder / "background.tokens").read_bytes()))
    bits = np.array(
        [
            measure(index, background, prompt.ids, answer).bits
            for prompt, answer in zip(run.prompts, found.answers, strict=True)
        ]
    )
    owned = np.array(index.owned_tokens()) / np.array(given_tokens(index.tokens))
    evidence = Evidence(
        effects=effects,
        bits=bits[:, there],
        stayed=np.zeros((0, len(there)), dtype=bool),
        half_losses=np.zeros((0, len(whole))),
        owned=owned[there],
        none_bits=run.recipe.none_bits,
        seed=run.recipe.seed,
    )
    fitted = fit(evidence)
    ladder = blended(evidence.bits, fitted.standing_bps, BY_ANSWER_ALONE, evidence.none_bits)
    of_owner = np.array([effects[k, there.index(one.owner)] for k, one in enumerate(run.prompts)])
    above = of_owner > np.median(of_owner)
    everybody = blended(bits, [1] * run.num_contributors, BY_ANSWER_ALONE, evidence.none_bits)
    seed = run.recipe.seed
    figures = {
        "left_out": [run.recipe.contributors[i] for i in there],
        "missing": found.missing,
        "answers": len(whole),
        "gain_nats": float((found.losses[BARE] - whole).mean()),
        "owner_left_out_costs_nats": float(of_owner.mean()),
        "lambda_eighths": fitted.lambda_eighths,
        "payable_r": fitted.r,
        "ladder_alone_r": estimate(r_each(ladder, effects), seed),
        "ladder_pooled_r": estimate_pooled(evidence.bits.astype(np.float64), effects, seed),
        "above_median_payable_r": estimate(fitted.r_each[above], seed),
        "above_median_ladder_r": estimate(r_each(ladder, effects)[above], seed),
        "by_answer_percent": dict(
            zip(run.recipe.contributors, _percent(everybody.mean(axis=0) / 100), strict=True)
        ),
        "owned_percent": (100 * owned).round(1).tolist(),
        "mean_effects_nats": effects.mean(axis=0).round(3).tolist(),
        "effects": effects.round(4).tolist(),
        "bits": bits.tolist(),
    }
    write_result(f"attribution-{folder.name.lower()}-so-far", to_builtins(figures))
    for name, value in figures.items():
        if name not in ("effects", "bits"):
            print(name, value)


def _percent(values: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in values]


if __name__ == "__main__":
    main()
