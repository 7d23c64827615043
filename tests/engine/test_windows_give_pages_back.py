"""Where all layers slide, a sequence keeps the pages of its window alone, and its text stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.kv.pages import ZERO_PAGE, PagePool
from engine.kv.prefix import PrefixCache
from engine.messages import Submit
from engine.model.config import from_huggingface
from engine.page_tables import PageTables
from engine.sampler import Chooser
from engine.sequence import Sequence

from .worlds import BOTH, Lab, greedy, make_base, some_tokens, submit

PAGE = 16
WINDOW = 32
PAGES_OF_A_WINDOW = WINDOW // PAGE + 1


@pytest.mark.parametrize(
    ("kind", "changes", "widest"),
    [
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": None}, None),
        ("gemma2", {"sliding_window": 64}, None),
        ("gemma2", {"sliding_window": 64, "layer_types": ["sliding_attention"] * 4}, 64),
        ("llama", {"sliding_window": 64}, None),
    ],
)
def test_only_where_all_layers_slide_is_there_a_widest_window(
    kind: str, changes: dict[str, object], widest: int | None
) -> None:
    config = from_huggingface({"model_type": kind, "num_hidden_layers": 4, **changes})
    assert config.widest_window == widest


@pytest.mark.parametrize("window", [1, 15, 16, 17, 32, 100])
def test_a_page_is_left_as_soon_as_no_later_token_sees_it(window: int) -> None:
    tokens = some_tokens(100, 1)
    sequence = Sequence(
        1,
        1,
        tokens,
        len(tokens),
        adapter=None,
        chooser=Chooser(greedy(), tokens),
        max_length=1024,
        credit=1,
        stop_ids=frozenset(),
        arrived_s=0.0,
    )
    cache = PrefixCache(PagePool(20))
    tables = PageTables(cache, PAGE, lambda adapter: adapter, window)
    for computed in range(1, 100):
        tables.grow(sequence, computed, [])
        sequence.computed = computed
        tables.publish(sequence)
        tables.leave_behind(sequence)
        tables.check([sequence], [])
        seen = range(max(0, computed + 1 - window), computed)
        for index, page in enumerate(sequence.pages):
            is_seen = any(index * PAGE <= token < (index + 1) * PAGE for token in seen)
            is_open = (index + 1) * PAGE > computed
            assert (page == ZERO_PAGE) == (not is_seen and not is_open)
    assert tables.num_held(sequence) < len(sequence.pages) or window == 100
    tables.give_back(sequence)
    assert cache.num_available == 20


@BOTH
def test_sequences_longer_than_the_pool_go_on_together(tmp_path: Path, kernels: str) -> None:
    model = make_base(tmp_path, "mistral", spread=0.15, num_hidden_layers=2, sliding_window=WINDOW)
    lab = Lab(tmp_path, kernels=kernels, kv_tokens=12 * PAGE)
    prompts = {number: some_tokens(20, number) for number in (1, 2, 3)}
    requests: list[Submit] = [submit(each, prompts[each], tokens=90) for each in prompts]
    for request in requests:
        lab.engine.handle(request)
    least_free = 12
    steps = 0
    while lab.step():
        steps += 1
        least_free = min(least_free, lab.engine._stats().kv_pages_free)
    assert least_free >= 12 - 3 * (PAGES_OF_A_WINDOW + 1)
    assert steps < 100, "nobody had to compute anything again"
    for number, prompt in prompts.items():
        tokens = lab.tokens(number)
        assert len(tokens) == 90
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens
    lab.close()
