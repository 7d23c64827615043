"""The executor of a device against the torch twins, and whole answers of one engine replayed by the
other. Marked `mark.gpu` where a card runs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.cuda import tables
from engine.cuda.accelerator import Accelerator
from engine.cuda.device import HostDevice, Work
from engine.cuda.graphs import BUCKETS, MIXED_ROWS, Key, bucket_of, rank_of
from engine.cuda.kernels import REFERENCES
from engine.messages import Choosing, Embed, Embedded, Replay, Replayed, Sampling
from tests.engine.gpu.worlds import (
    LLAMA,
    MODELS,
    NEEDS_INTERPRETER,
    PLACES,
    Narrow,
    RandomAdapters,
    accelerator,
    random_adapter,
    random_weights,
)
from tests.engine.worlds import Bench, Lab, some_tokens, submit

TOLERANCE = 1e-4
"""Of the largest logit, in float32."""


def open_bench(
    model: str,
    place: str | Accelerator | None,
    dtype: torch.dtype = torch.float32,
    layers: int | None = None,
) -> Bench:
    """Four adapters of all kinds over a base; `place` None: the torch twins."""
    place = accelerator(place) if isinstance(place, str) else place
    config = replace(MODELS[model], layers=layers or MODELS[model].layers)
    bench = Bench(random_weights(config), dtype, accelerator=place)
    bench.put(b"all", random_adapter(config, 1, 5, dtype, everything=True))
    bench.put(b"some", random_adapter(config, 2, 16, dtype))
    bench.put(b"ends", random_adapter(config, 3, 1, dtype, ends=True))
    bench.put(b"large", random_adapter(config, 4, 60, dtype, everything=True))
    return bench


def run_mixed(
    bench: Bench, lengths: tuple[tuple[int, bytes | None], ...], decode_steps: int = 2
) -> torch.Tensor:
    """All logits of a step of prompts, of steps of one token each, and of one in which some decode
    and a new prompt comes.
    """
    sequences = [
        bench.sequence(some_tokens(length + decode_steps + 1, length), adapter)
        for length, adapter in lengths
    ]
    steps = [
        bench.forward(*((s, 0, length) for s, (length, _) in zip(sequences, lengths, strict=True)))
    ]
    for more in range(decode_steps):
        steps.append(
            bench.forward(
                *(
                    (s, length + more, length + more + 1)
                    for s, (length, _) in zip(sequences, lengths, strict=True)
                )
            )
        )
    fresh = bench.sequence(some_tokens(19, 99), lengths[0][1])
    ends = [length + decode_steps for length, _ in lengths]
    steps.append(
        bench.forward(
            (fresh, 0, 19), *((s, end, end + 1) for s, end in zip(sequences, ends, strict=True))
        )
    )
    return torch.cat([step[id(s)] for step in steps for s in [*sequences, fresh] if id(s) in step])


def assert_near(ours: torch.Tensor, exact: torch.Tensor) -> None:
    assert ours.shape == exact.shape
    assert float((ours - exact).abs().max()) <= TOLERANCE * float(exact.abs().max())


MIXED = ((5, None), (40, b"all"), (131, b"some"), (1, b"ends"), (33, b"large"), (70, None))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", MODELS)
def test_logits_equal_the_twins_with_all_kinds_of_adapters_in_prompts_and_decoding(
    model: str, place: str
) -> None:
    assert_near(
        run_mixed(open_bench(model, place), MIXED), run_mixed(open_bench(model, None), MIXED)
    )


@NEEDS_INTERPRETER
@pytest.mark.parametrize("model", ["qwen3", pytest.param("biased", marks=pytest.mark.slow)])
def test_the_kernels_themselves_make_those_logits(model: str) -> None:
    few = ((3, b"all"), (18, None), (1, b"ends"))
    assert_near(
        run_mixed(open_bench(model, "interpreter", layers=1), few, 1),
        run_mixed(open_bench(model, None, layers=1), few, 1),
    )


@pytest.mark.parametrize("place", PLACES)
def test_graphs_of_every_size_give_what_launches_give(place: str) -> None:
    """Batches of one less than a bucket, so that each graph has a row of padding; twice, so that it
    is replayed with other rows.

    So are the graphs of the prompts before them: 11, 33, 77 and 165 rows.
    """
    bench = open_bench("llama", place)
    twin = open_bench("llama", None)
    names = [None, b"all", None, b"some"]
    for rows in (1, 3, 7, 15):
        for seed in (rows, rows + 50):
            steps = []
            for each in (bench, twin):
                each._next_page = 1
                sequences = [
                    each.sequence(
                        some_tokens(12, seed + index), names[index % 4] if rows > 1 else None
                    )
                    for index in range(rows)
                ]
                prompts = each.forward(*((s, 0, 11) for s in sequences))
                step = each.forward(*((s, 11, 12) for s in sequences))
                steps.append(
                    torch.cat([rows_of[id(s)] for rows_of in (prompts, step) for s in sequences])
                )
            assert_near(*steps)
    captured = bench.decoder._executor._graphs._graphs  # type: ignore[attr-defined]
    assert {key.rows for key in captured if not key.runs} == {1, 4, 8, 16}
    assert {key.rows for key in captured if key.runs} == {64, 128, 192}


@pytest.mark.parametrize("place", PLACES)
def test_the_same_step_has_the_same_bits_again_and_padding_changes_nobody_s(place: str) -> None:
    bench = open_bench("llama", place)
    sequences = [
        bench.sequence(some_tokens(20, seed), adapter)
        for seed, adapter in ((1, None), (2, b"all"), (3, b"large"))
    ]
    bench.forward(*((s, 0, 19) for s in sequences))
    first = bench.forward(*((s, 19, 20) for s in sequences))
    again = bench.forward(*((s, 19, 20) for s in sequences))
    assert all(torch.equal(first[id(s)], again[id(s)]) for s in sequences)


class Lazy(HostDevice):
    """Work beside a block is done as late as it may be: when the block ends."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    @contextmanager
    def beside(self, work: Work) -> Iterator[None]:
        yield
        self.times += 1
        work()


@pytest.mark.parametrize("rows", [1, 3])
def test_an_adapter_s_shrinking_may_end_as_late_as_the_product_that_it_is_beside(rows: int) -> None:
    """Nothing reads its scratch before, and the next linear's does not write there while it is
    read.
    """
    device = Lazy()
    logits = []
    for each in (HostDevice(), device):
        bench = open_bench("biased", Narrow(each, REFERENCES))
        sequences = [bench.sequence(some_tokens(12, 3 + row), b"all") for row in range(rows)]
        bench.forward(*((s, 0, 11) for s in sequences))
        step = bench.forward(*((s, 11, 12) for s in sequences))
        logits.append(torch.cat([step[id(s)] for s in sequences]))
    assert device.times == 2 * 4 * MODELS["biased"].layers, "every linear of both steps"
    assert torch.equal(*logits)


@pytest.mark.parametrize("place", PLACES)
def test_a_step_names_the_lowest_id_of_the_highest_logit_and_what_is_not_finite(place: str) -> None:
    bench = open_bench("llama", place)
    bench.put(b"burst", random_adapter(LLAMA, 9, 4, torch.float32))
    bench.bank._room.view(torch.float32)[bench._room // 4 - 100 :].fill_(float("inf"))
    one = bench.sequence(some_tokens(40, 3))
    other = bench.sequence(some_tokens(40, 3), b"burst")
    with torch.inference_mode():
        output = bench.decoder.run(
            bench.batch((one, 0, 40), (other, 0, 40)).input, bench.cache.pool
        )
    logits = output.logits.cpu()
    assert output.best[:40].tolist() == logits[:40].argmax(-1).tolist()
    assert output.finite[:40].all()
    assert not output.finite[40:].any()
    assert np.array_equal(output.row(7), logits[7].numpy())
    picked = output.pick([3, 5], [np.array([1, 9], np.int32), np.array([], np.int32)])
    assert [part.tolist() for part in picked] == [logits[3, [1, 9]].tolist(), []]


@pytest.mark.parametrize("place", PLACES)
def test_what_lies_in_cells_that_nobody_wrote_changes_nothing(place: str) -> None:
    """Pages are not cleaned on a device: a NaN that somebody left must not be read."""
    bench = open_bench("llama", place)
    twin = open_bench("llama", None)
    bench.cache.pool.fill_(float("nan"))
    assert_near(run_mixed(bench, MIXED[:3]), run_mixed(twin, MIXED[:3]))


def test_buckets_and_ranks_round_up() -> None:
    assert [bucket_of(rows) for rows in (1, 3, 9, 256, 257)] == [1, 4, 16, 256, None]
    assert [bucket_of(rows, MIXED_ROWS) for rows in (2, 65, 257, 513)] == [64, 128, 384, None]
    assert [rank_of(rank) for rank in (0, 1, 16, 17, 300)] == [0, 16, 16, 32, 512]
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert list(MIXED_ROWS) == sorted(set(MIXED_ROWS))
    assert Key(4, 0) != Key(4, 16)


def test_fewer_pages_leave_every_table_of_a_graph_where_it_is() -> None:
    """A graph's views are made for the most pages; each step uploads only those that it has."""
    full = tables.decode_room(8, 8 * 64)
    short = tables.decode_room(8, 3)
    buffer = torch.arange(full.words, dtype=torch.int32)
    for name in ("tokens", "positions", "cells", "tiles", "runs", "logit_rows"):
        assert torch.equal(
            getattr(tables.split(buffer, full), name),
            getattr(tables.split(buffer[: short.words], short), name),
        )
    assert (
        tables.split(buffer, full).pages[0] == tables.split(buffer[: short.words], short).pages[0]
    )


# --- answers ---

SEED = b"g" * 32
KINDS = (
    Sampling(SEED),
    Sampling(SEED, Choosing(0.8, 40, 0.95, min_p=0.02)),
    Sampling(SEED, Choosing(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2)),
    Sampling(SEED, Choosing(1.0, repetition_penalty=1.2, logit_bias=[(3, 4.0), (9, -100.0)])),
)


def open_lab(place: str | None, **settings: object) -> Lab:
    lab = Lab(
        random_weights(LLAMA),
        accelerator=None if place is None else accelerator(place),
        load=RandomAdapters(LLAMA),
        **settings,
    )
    for number in range(6):
        lab.hold(bytes([number]) * 32, Path(str(number)))
    return lab


@pytest.mark.parametrize("place", PLACES)
def test_answers_made_on_one_executor_are_replayed_by_the_other_with_no_miss(place: str) -> None:
    """Six adapters over four slots, prompts and decoding mixed, every kind of choice."""
    labs = {
        "device": open_lab(place, max_adapters=4, step_tokens=24),
        "processor": open_lab(None, max_adapters=4),
    }
    requests = [
        submit(
            number,
            some_tokens(9 + number, number),
            None if number % 7 == 6 else bytes([number % 6]) * 32,
            tokens=12,
            sampling=KINDS[number % len(KINDS)],
        )
        for number in range(12)
    ]
    answers = {name: lab.run(*requests) for name, lab in labs.items()}
    assert all(len(tokens) == 12 for made in answers.values() for tokens in made.values())
    for maker, judge in (("device", "processor"), ("processor", "device")):
        lab = labs[judge]
        for request in requests:
            lab.engine.handle(
                Replay(
                    100 + request.request_id,
                    request.prompt_ids,
                    answers[maker][request.request_id],
                    request.adapter,
                    sampling=request.sampling,
                )
            )
        lab.drain()
        for request in requests:
            replayed = lab.end(100 + request.request_id)
            assert isinstance(replayed, Replayed)
            assert max(replayed.margins) < 1e-3, (maker, request)
        lab.messages.clear()
    for lab in labs.values():
        lab.close()


@pytest.mark.parametrize("place", PLACES)
def test_an_embedding_is_the_same_on_either_beside_those_that_decode(place: str) -> None:
    """Prompts of one token, which make a step of decoding's shape, and longer ones, in chunks."""
    given = []
    for where in (place, None):
        lab = open_lab(where, max_adapters=4, step_tokens=24)
        for number in range(3):
            lab.engine.handle(
                submit(number, some_tokens(5, number), bytes([number]) * 32, tokens=6)
            )
        lab.step()
        for number in range(6):
            prompt = some_tokens(1 + 13 * (number % 3), number)
            adapter = None if number == 5 else bytes([number]) * 32
            lab.engine.handle(Embed(100 + number, prompt, adapter))
        lab.drain()
        found = {m.request_id: m.vector for m in lab.messages if isinstance(m, Embedded)}
        assert len(found) == 6
        given.append(torch.tensor([array("f", found[number]).tolist() for number in sorted(found)]))
        lab.close()
    device, processor = given
    assert (device - processor).abs().max() < 1e-4 * processor.abs().max()


@pytest.mark.parametrize("place", PLACES)
def test_a_dishonest_answer_misses_by_as_much_on_either(place: str) -> None:
    """Made with one adapter, replayed as another's: the margins are large, and the same."""
    device = open_lab(place)
    processor = open_lab(None)
    margins = []
    for number, sampling in enumerate(KINDS):
        request = submit(
            number, some_tokens(9, number), bytes([1]) * 32, tokens=12, sampling=sampling
        )
        answer = processor.run(request)[number]
        for lab in (device, processor):
            lab.engine.handle(
                Replay(100 + number, request.prompt_ids, answer, bytes([2]) * 32, sampling=sampling)
            )
            lab.drain()
            replayed = lab.end(100 + number)
            assert isinstance(replayed, Replayed)
            margins.append(replayed.margins)
    assert max(map(max, margins)) > 1.0
    for ours, theirs in zip(margins[::2], margins[1::2], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)
    device.close()
    processor.close()


@pytest.mark.parametrize("place", PLACES)
def test_log_probabilities_and_guesses_ahead_work_where_logits_stay_on_the_device(
    place: str,
) -> None:
    device = open_lab(place, draft_tokens=4)
    processor = open_lab(None, draft_tokens=4)
    request = submit(1, [7, 8, 9] * 8, bytes([2]) * 32, tokens=30, logprobs=3)
    assert device.run(request) == processor.run(request)
    ours, theirs = (
        [each for m in lab.messages for each in getattr(m, "logprobs", [])]
        for lab in (device, processor)
    )
    assert [each.logprob for each in ours] == pytest.approx(
        [each.logprob for each in theirs], abs=1e-3
    )
    device.close()
    processor.close()
