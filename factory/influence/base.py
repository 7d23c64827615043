"""The base with an adapter on its upper layers, and what its lower layers make of a row.

Decides what is computed once: the lower layers are frozen, so their states are the same in every
training; the head is cut to the ids that occur, for nothing else is ever learnt or drawn. Knows no
contributors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..errors import BadRun
from ..learning import load_base
from .lora import LowRankLinear, add_low_rank
from .recipe import Recipe

NOT_LEARNT = -100  # what cross_entropy leaves out


class Given(nn.Module):
    """Stands where a lower layer stood: hands on the states that were computed before, if any."""

    states: Tensor | None = None

    def forward(self, hidden: Tensor, *_args: Any, **_options: Any) -> Tensor:
        """Return the given states, whatever comes from below."""
        return hidden if self.states is None else self.states


class Base:
    """The frozen base, its adapter and its cut head.

    `ids` are the token ids that the head knows, ascending; targets and logits count in them.
    """

    def __init__(self, recipe: Recipe, ids: npt.NDArray[np.int64]) -> None:
        self.ids = ids
        place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = load_base(Path(recipe.base), place, attn_implementation="eager")
        self.device = next(self.model.parameters()).device
        self._cut_head()
        self.layers: Any = self.model.get_decoder().layers
        num_upper = recipe.upper_layers or len(self.layers)
        if num_upper > len(self.layers):
            raise BadRun(f"upper_layers is {num_upper}, and the base has {len(self.layers)} layers")
        self.num_lower = len(self.layers) - num_upper
        self.lower = [self.layers[i] for i in range(self.num_lower)]
        self.loras: list[LowRankLinear] = [
            lora
            for i in range(self.num_lower, len(self.layers))
            for lora in add_low_rank(self.layers[i], recipe.rank, recipe.alpha / recipe.rank)
        ]

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained, in the layers' order."""
        return [tensor for lora in self.loras for tensor in (lora.down, lora.up)]

    def begin(self, seed: int) -> None:
        """Put the adapter where every training of that seed starts."""
        generator = torch.Generator().manual_seed(seed)
        for lora in self.loras:
            lora.draw(generator)

    @torch.no_grad()
    def states(self, rows: Tensor) -> Tensor | None:
        """Return what the lower layers make of rows [n, window]: [n, window, hidden]; None if the
        adapter begins at the bottom.
        """
        if not self.num_lower:
            return None
        caught: list[Tensor] = []
        hook = self.lower[-1].register_forward_hook(lambda _m, _i, out: caught.append(out))
        upper = {i: self.layers[i] for i in range(self.num_lower, len(self.layers))}
        try:
            for i in upper:
                self.layers[i] = Given()
            self.model.get_decoder()(input_ids=rows, use_cache=False)
        finally:
            hook.remove()
            for i, layer in upper.items():
                self.layers[i] = layer
        return caught[0]

    @contextmanager
    def above(self) -> Iterator[Given]:
        """Leave the lower layers out while the block runs; it sets the states that they gave."""
        given = Given()
        try:
            for i in range(self.num_lower):
                self.layers[i] = given if i == self.num_lower - 1 else Given()
            yield given
        finally:
            for i, layer in enumerate(self.lower):
                self.layers[i] = layer

    def loss(self, given: Given, rows: Tensor, states: Tensor | None, targets: Tensor) -> Tensor:
        """Return the loss of every target in nats, [n, window - 1]; 0 where nothing is learnt.

        Rows [n, window] hold any id beyond their end; targets [n, window - 1] count in `ids`.
        """
        given.states = states
        logits = self.model(input_ids=rows, use_cache=False).logits[:, :-1]
        flat = logits.reshape(-1, logits.shape[-1]).float()
        each = nn.functional.cross_entropy(
            flat, targets.reshape(-1), ignore_index=NOT_LEARNT, reduction="none"
        )
        return each.view(targets.shape)

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        num_tokens: int,
        temperature: float,
    ) -> list[list[int]]:
        """Draw an answer for each prompt, from its own seed; all prompts have one length."""
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        cache = DynamicCache()
        fed = torch.tensor(prompts, device=self.device)
        answers: list[list[int]] = [[] for _ in prompts]
        for _ in range(num_tokens):
            logits = self.model(input_ids=fed, past_key_values=cache, use_cache=True).logits[:, -1]
            odds = torch.softmax(logits.float().cpu() / temperature, dim=-1).cumsum(dim=-1)
            lots = torch.cat([torch.rand(1, 1, generator=draw) for draw in draws])
            places = torch.searchsorted(odds, lots * odds[:, -1:], right=True)
            places = places.clamp_(max=len(self.ids) - 1)  # where rounding took a lot to the end
            chosen = self.ids[places[:, 0].numpy()].tolist()
            for answer, token in zip(answers, chosen, strict=True):
                answer.append(token)
            fed = torch.tensor(chosen, device=self.device)[:, None]
        return answers

    @torch.no_grad()
    def _cut_head(self) -> None:
        head = self.model.get_output_embeddings()
        if self.ids[-1] >= head.weight.shape[0]:
            raise BadRun(
                f"rows hold the id {self.ids[-1]}, and the base has {head.weight.shape[0]}"
            )
        keep = torch.from_numpy(self.ids).to(self.device)
        cut = nn.Linear(head.in_features, len(keep), bias=head.bias is not None, device="meta")
        cut.weight = nn.Parameter(head.weight[keep].clone(), requires_grad=False)
        if head.bias is not None:
            cut.bias = nn.Parameter(head.bias[keep].clone(), requires_grad=False)
        self.model.set_output_embeddings(cut)
