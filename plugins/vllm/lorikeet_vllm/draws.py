"""A logits processor of vLLM that makes its greedy choice Lorikeet's verifiable draw.

    vllm serve … --logits-processors lorikeet_vllm.draws:Draws

A request with terms (terms.py) is asked of vLLM with temperature 0 and nothing else that changes
logits; here its row is left with one id, the winner. Other requests' rows are not touched. Read
against vLLM 0.32: vllm/v1/sample/logits_processor/interface.py, and the second model runner's
vllm/v1/worker/gpu/sample/logits_processor/interface.py; the same class serves both. A processor
that vLLM only finds as an installed plug-in is not told what was drawn last, so it must be named.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SlotProcessor

from .mending import leave_out_bare_rows
from .terms import NoiseKey, Probe, Terms, derive_key, read_terms
from .winners import Draw, choose

VERSION = 1


@dataclass
class Answer:
    """One request that is being answered: the tokens that were asked, and what was counted of the
    answer; `output` is vLLM's own list of its tokens, which grows.
    """

    terms: Terms
    key: NoiseKey
    asked: list[int]
    before: list[int]
    output: list[int]
    seen: frozenset[int] = frozenset()
    counts: Counter[int] = field(default_factory=Counter)
    counted: int = 0

    def draw(self) -> Draw:
        """Return what decides the next token."""
        if self.terms.counts:
            self.counts.update(self.output[self.counted :])
            self.counted = len(self.output)
        position = len(self.asked) + len(self.before) + len(self.output)
        return Draw(self.terms, self.key, position, self.counts, self.seen)


@dataclass
class Told:
    """A probe that is being answered: its number, and then what this plug-in is, a byte a token."""

    text: bytes
    probe: int
    output: list[int]

    @property
    def token(self) -> int:
        """Return the next token; 0 after the end."""
        at = len(self.output)
        return self.probe if at == 0 else (*self.text, *bytes(at))[at - 1]


class Draws(LogitsProcessor, SlotProcessor):
    """Draws the tokens of the requests that have terms, in either model runner of vLLM."""

    def __init__(self, vllm_config: Any, *given: Any) -> None:
        """`given` is a device and whether memory is pinned; in the second runner its requests."""
        model = vllm_config.model_config
        made_of = model.quantization or str(model.dtype).removeprefix("torch.")
        self._text = f"{VERSION} {made_of}".encode()
        self._slots: Any = given[0]  # where it is not the second runner, nobody looks at it
        self._asked: dict[int, Terms | Probe] = {}
        if vllm_config.device_config.device_type == "cpu":
            leave_out_bare_rows()
        self._rows: dict[int, Answer | Told] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse terms that make no sense, before the request runs. Raises ValueError."""
        read_terms(sampling_params.extra_args)

    # --- the first model runner: rows are named in updates ---

    def is_argmax_invariant(self) -> bool:
        """It decides the greedy choice."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests as they come, go and move."""
        process_dict_updates(self._rows, batch_update, self._begin)

    def _begin(
        self, params: Any, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> Answer | Told | None:
        terms = read_terms(params.extra_args)
        return None if terms is None else self._answer(terms, prompt_ids or [], output_ids)

    # --- the second model runner: requests have slots ---

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Note a request's terms; return whether it has any that matter."""
        terms = read_terms(sampling_params.extra_args)
        self._asked.pop(req_idx, None)
        if terms is None or self._answer(terms, [], []) is None:
            return False
        self._asked[req_idx] = terms
        return True

    def _in_slots(self, ctx: Any) -> dict[int, Answer | Told]:
        """Return the rows of this step, read anew: the runner keeps the tokens on its device."""
        slots = ctx.idx_mapping_np.tolist()
        ends = ctx.seq_lens_upper_bound_np.tolist()
        state = self._slots
        rows = {}
        for row, (slot, end) in enumerate(zip(slots, ends, strict=True)):
            if slot in self._asked:
                asked = int(state.prompt_len.np[slot])
                tokens = state.all_token_ids.gpu[slot, :end].tolist()
                answer = self._answer(self._asked[slot], tokens[:asked], tokens[asked:])
                if answer is not None:
                    rows[row] = answer
        return rows

    # --- both ---

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Leave one id in each row that is ours."""
        rows = self._rows if ctx is None else self._in_slots(ctx)
        answers = {at: each for at, each in rows.items() if isinstance(each, Answer)}
        if answers:
            ours = torch.tensor(list(answers), device=logits.device)
            winners = choose(logits[ours], [each.draw() for each in answers.values()])
            logits[ours] = torch.full_like(logits[ours], -torch.inf).scatter_(
                1, winners.unsqueeze(1), 0.0
            )
        for at, each in rows.items():
            if isinstance(each, Told):
                logits[at] = -torch.inf
                logits[at, each.token] = 0.0
        return logits

    def _answer(
        self, terms: Terms | Probe, prompt: list[int], output: list[int]
    ) -> Answer | Told | None:
        if isinstance(terms, Probe):
            return Told(self._text, terms.probe, output)
        if terms.takes_best:
            return None
        cut = max(0, len(prompt) - terms.answered)
        seen = frozenset(prompt[:cut]) if terms.repetition_penalty != 1.0 else frozenset()
        counts = Counter(prompt[cut:]) if terms.counts else Counter[int]()
        return Answer(
            terms,
            derive_key(terms.seed),
            asked=prompt[:cut],
            before=prompt[cut:],
            output=output,
            seen=seen,
            counts=counts,
        )
