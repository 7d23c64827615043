"""What a request asks of its choices, through the whole engine: penalties, grammars,
log-probabilities, guesses ahead, and the replay of each.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from engine.messages import (
    Cancel,
    Choosing,
    Failed,
    Grammar,
    Replay,
    Replayed,
    Sampling,
    Submit,
    Tokens,
    Vocabulary,
)

from .worlds import BOTH, Lab, make_base, some_tokens, submit, write_adapter

SEED = b"c" * 32
STOP = 319


def make_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Ids 0…255 are the bytes, some more are pairs and longer words, and the last one ends an
    answer.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("n", "a"),
        ("m", "e"),
        ("na", "me"),
        ("t", "r"),
        ("u", "e"),
        ("tr", "ue"),
        ("1", "2"),
        ('"', ":"),
    ]
    words = letters + [one + other for one, other in merges]
    vocab = {
        word: index
        for index, word in enumerate(
            [*words, *(f"<unused{index}>" for index in range(STOP - len(words)))]
        )
    }
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken("<stop>", special=True)])
    assert made.token_to_id("<stop>") == STOP
    made.save(str(folder / "tokenizer.json"))
    return made


ANY_KIND = {
    "plain": Sampling(SEED),
    "warm": Sampling(SEED, Choosing(0.8, 40, 0.95, min_p=0.02)),
    "greedy and penalised": Sampling(
        SEED, Choosing(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2)
    ),
    "warm and penalised": Sampling(
        SEED, Choosing(1.0, repetition_penalty=1.2, logit_bias=[(3, 4.0), (9, -100.0)])
    ),
    "regex": Sampling(SEED, Choosing(1.0, grammar=Grammar("regex", "[a-f]{3,9}(-[0-9]{2}){1,4}"))),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base whose text repeats itself now and then."""
    folder = tmp_path_factory.mktemp("base")
    make_base(folder)
    make_tokenizer(folder)
    return folder


def lab_of(base: Path, **settings: Any) -> Lab:
    lab = Lab(base, **settings)
    lab.engine.handle(Vocabulary(str(base / "tokenizer.json"), [STOP]))
    return lab


def ask(request_id: int, kind: str, tokens: int = 24, **fields: Any) -> Submit:
    return submit(
        request_id, some_tokens(20, 5) * 2, tokens=tokens, sampling=ANY_KIND[kind], **fields
    )


@BOTH
def test_every_kind_of_choice_is_the_same_alone_and_in_a_crowd_and_replays_with_no_miss(
    base: Path, kernels: str
) -> None:
    requests = [ask(number, kind, stop_ids=[STOP]) for number, kind in enumerate(ANY_KIND)]
    crowd = lab_of(base, kernels=kernels)
    together = crowd.run(*requests)
    for request in requests:
        alone = lab_of(base, kernels=kernels)
        assert alone.run(request)[request.request_id] == together[request.request_id]
        alone.engine.handle(
            Replay(
                99,
                request.prompt_ids,
                together[request.request_id],
                None,
                sampling=request.sampling,
            )
        )
        alone.drain()
        replayed = alone.end(99)
        assert isinstance(replayed, Replayed)
        assert max(replayed.margins) < 1e-3, request
        alone.close()
    crowd.close()


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_engine_goes_on_as_the_first_would_have(
    base: Path, kernels: str, dtype: str
) -> None:
    """A prefix computed as a prompt, rather than token by token, leaves the rest as it was."""
    first = lab_of(base, kernels=kernels, dtype=dtype)
    second = lab_of(base, kernels=kernels, dtype=dtype)
    for kind in ANY_KIND:
        whole = first.run(ask(1, kind, stop_ids=[STOP]))[1]
        for place in {1, 2, len(whole) // 2, len(whole) - 1} - {0}:
            request = ask(2, kind, tokens=24 - place, stop_ids=[STOP], num_answered=place)
            rest = msgspec.structs.replace(request, prompt_ids=request.prompt_ids + whole[:place])
            assert second.run(rest)[2] == whole[place:], (kind, place)
            second.messages.clear()
        first.messages.clear()
    first.close()
    second.close()


def test_what_its_grammar_has_ended_cannot_go_on(base: Path) -> None:
    lab = lab_of(base)
    sampling = Sampling(SEED, Choosing(grammar=Grammar("regex", "[ab]")))
    letters = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    for number, answered in enumerate(("a", "x")):
        ids = letters.encode(answered).ids
        lab.run(submit(number, [1, 2, *ids], sampling=sampling, num_answered=len(ids)))
        failed = lab.end(number)
        assert isinstance(failed, Failed)
        assert "nothing can follow" in failed.message
    assert lab.run(ask(9, "plain"))[9]
    lab.close()


def test_an_answer_under_other_rules_misses_in_the_replay(base: Path) -> None:
    lab = lab_of(base)
    plain = lab.run(ask(1, "plain"))[1]
    for number, kind in enumerate(("greedy and penalised", "regex"), 2):
        lab.engine.handle(
            Replay(number, ask(1, "plain").prompt_ids, plain, None, sampling=ANY_KIND[kind])
        )
        lab.drain()
        replayed = lab.end(number)
        assert isinstance(replayed, Replayed)
        assert max(replayed.margins) > 0.1
    lab.close()


@BOTH
@pytest.mark.parametrize("kind", list(ANY_KIND))
def test_guessing_ahead_leaves_every_text_as_it_was(base: Path, kernels: str, kind: str) -> None:
    plain = lab_of(base, kernels=kernels)
    guessing = lab_of(base, kernels=kernels, draft_tokens=4)
    requests = [ask(number, kind, tokens=60, credit=60, stop_ids=[STOP]) for number in range(2)]
    assert plain.run(*requests) == guessing.run(*requests)
    plain.close()
    guessing.close()


def test_guesses_come_true_where_text_repeats_and_save_steps(tmp_path: Path) -> None:
    make_base(
        tmp_path, spread=0.02
    )  # so little in it that a greedy answer soon goes round in a circle
    plain = lab_of(tmp_path)
    guessing = lab_of(tmp_path, draft_tokens=4)
    request = submit(1, some_tokens(12, 3), tokens=80)
    assert plain.run(request) == guessing.run(request)
    stats = guessing.engine._stats()
    assert stats.tokens_accepted > 20
    assert stats.tokens_accepted <= stats.tokens_drafted
    assert len(stats.steps) < len(plain.engine._stats().steps) - 20
    plain.close()
    guessing.close()


def test_guessing_ahead_never_passes_a_credit_or_the_length(base: Path) -> None:
    lab = lab_of(base, draft_tokens=4)
    lab.engine.handle(submit(1, [7, 8, 9] * 8, tokens=50, credit=5))
    lab.drain()
    assert len(lab.tokens(1)) == 5
    lab.close()


# --- structured output ---

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6, "pattern": "^[a-z]*$"},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "ok"],
    "additionalProperties": False,
}


def text_of(base: Path, tokens: list[int]) -> str:
    text: str = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json")).decode(tokens)
    return text


@BOTH
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_follows_its_schema_and_ends_when_it_is_complete(
    base: Path, kernels: str, temperature: float
) -> None:
    lab = lab_of(base, kernels=kernels)
    sampling = Sampling(
        SEED, Choosing(temperature, grammar=Grammar("json_schema", json.dumps(SCHEMA)))
    )
    answers = lab.run(
        *(
            submit(number, some_tokens(9, number), tokens=120, sampling=sampling)
            for number in range(3)
        )
    )
    for number, tokens in answers.items():
        answer = json.loads(text_of(base, tokens))
        assert set(answer) == {"name", "ok"}
        assert isinstance(answer["ok"], bool)
        assert lab.end(number).reason == "stop"  # type: ignore[union-attr]
    lab.close()


def test_an_answer_matches_its_expression(base: Path) -> None:
    lab = lab_of(base)
    sampling = Sampling(SEED, Choosing(1.0, grammar=Grammar("regex", "(yes|no), [0-9]{4}")))
    tokens = lab.run(submit(1, [1, 2, 3], tokens=40, sampling=sampling))[1]
    assert re.fullmatch("(yes|no), [0-9]{4}", text_of(base, tokens))
    lab.close()


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar("regex", "(a|"), "regex"),
        (Grammar("json_schema", '{"type": 5}'), "refused"),
        (Grammar("json_schema", "{"), "refused"),
        (Grammar("sql", "select"), "kind"),
        (Grammar("regex", "a" * 40_000), "limit"),
        (
            Grammar("json_schema", json.dumps({"$ref": "https://example.org/schema.json"})),
            "refused",
        ),
        (Grammar("regex", "(" * 2000 + "a" + ")" * 2000), "regex"),
        (
            Grammar(
                "json_schema",
                json.dumps(
                    {
                        "allOf": [
                            {"type": "string", "pattern": f"(a|b)*a(a|b){{{size}}}"}
                            for size in range(20, 40)
                        ]
                    }
                ),
            ),
            "too complex",
        ),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused_by_name_and_the_engine_goes_on(
    base: Path, grammar: Grammar, words: str
) -> None:
    lab = lab_of(base)
    lab.run(
        submit(1, [1, 2, 3], sampling=Sampling(SEED, Choosing(grammar=grammar))),
        submit(2, [1, 2, 3]),
    )
    failed = lab.end(1)
    assert isinstance(failed, Failed)
    assert failed.code == "bad_request"
    assert words in failed.message
    assert len(lab.tokens(2)) == 8
    lab.close()


def test_others_go_on_while_a_hostile_grammar_is_tried_and_its_request_can_be_cancelled(
    base: Path,
) -> None:
    lab = lab_of(base)
    hostile = {
        "allOf": [
            {"type": "string", "pattern": f"(a|b)*a(a|b){{{size}}}"} for size in range(20, 40)
        ]
    }
    lab.engine.handle(
        submit(
            1,
            [1, 2, 3],
            sampling=Sampling(SEED, Choosing(grammar=Grammar("json_schema", json.dumps(hostile)))),
        )
    )
    lab.engine.handle(submit(2, [1, 2, 3]))
    while lab.step():
        pass
    assert len(lab.tokens(2)) == 8
    assert {message.request_id for message in lab.messages} == {2}, "the other waits alone"  # type: ignore[union-attr]
    lab.engine.handle(Cancel(1))
    lab.drain()
    assert lab.end(1).reason == "cancelled"  # type: ignore[union-attr]
    lab.close()


def test_a_grammar_needs_to_know_what_tokens_spell(base: Path) -> None:
    lab = Lab(base)
    lab.run(submit(1, [1, 2, 3], sampling=Sampling(SEED, Choosing(grammar=Grammar("regex", "a")))))
    failed = lab.end(1)
    assert isinstance(failed, Failed)
    assert "Vocabulary" in failed.message
    lab.close()


# --- log-probabilities ---


@BOTH
def test_reported_log_probabilities_are_the_model_s(
    base: Path, kernels: str, tmp_path: Path
) -> None:
    lab = Lab(base, kernels=kernels)
    adapter = b"l" * 32
    lab.hold(adapter, write_adapter(tmp_path / "a", 3))
    prompt = some_tokens(10, 4)
    tokens = lab.run(
        submit(
            1,
            prompt,
            adapter=adapter,
            tokens=6,
            logprobs=3,
            sampling=Sampling(SEED, Choosing(2.0, presence_penalty=3.0)),
        )
    )[1]
    reports = [
        report
        for message in lab.messages
        if isinstance(message, Tokens)
        for report in message.logprobs
    ]
    assert len(reports) == len(tokens) == 6
    for report in reports:
        assert len(report.top) == 3
        assert report.logprob <= report.top[0][1] + 1e-6
        assert all(
            one[1] >= other[1] for one, other in zip(report.top, report.top[1:], strict=False)
        )
    greedy = lab.run(submit(2, prompt, adapter=adapter, tokens=1, logprobs=0))[2]
    assert reports[0].top[0][0] == greedy[0]
    lab.close()


def test_log_probabilities_equal_those_of_transformers(tmp_path: Path) -> None:
    model = make_base(tmp_path)
    prompt = some_tokens(10, 4)
    lab = Lab(tmp_path)
    token = lab.run(submit(1, prompt, tokens=1, logprobs=5))[1][0]
    [report] = next(message.logprobs for message in lab.messages if isinstance(message, Tokens))
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
    assert report.logprob == pytest.approx(float(expected[token]), abs=1e-4)
    assert [logprob for _, logprob in report.top] == pytest.approx(
        expected.topk(5).values.tolist(), abs=1e-4
    )
    lab.close()


@pytest.mark.parametrize("step_tokens", [7, 512])
def test_log_probabilities_of_given_tokens_equal_those_of_transformers(
    tmp_path: Path, step_tokens: int
) -> None:
    model = make_base(tmp_path)
    prompt = some_tokens(30, 4)
    lab = Lab(tmp_path, step_tokens=step_tokens)
    asked = Replay(1, prompt[:1], prompt[1:], None, Sampling(SEED), logprobs=2)
    lab.engine.handle(asked)
    lab.drain()
    replayed = lab.end(1)
    assert isinstance(replayed, Replayed)
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0, :-1].double().log_softmax(-1)
    assert len(replayed.logprobs) == len(replayed.margins) == len(prompt) - 1
    for report, token, row in zip(replayed.logprobs, prompt[1:], expected, strict=True):
        assert report.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [logprob for _, logprob in report.top] == pytest.approx(
            row.topk(2).values.tolist(), abs=1e-4
        )
    plain = msgspec.structs.replace(asked, request_id=2, logprobs=None)
    lab.engine.handle(plain)
    lab.drain()
    again = lab.end(2)
    assert isinstance(again, Replayed)
    assert (again.margins, again.logprobs) == (replayed.margins, [])
    lab.engine.handle(msgspec.structs.replace(asked, request_id=3, logprobs=21))
    lab.drain()
    assert isinstance(lab.end(3), Failed)
    lab.close()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sampling": Sampling(SEED, Choosing(min_p=1.5))}, "min_p"),
        ({"sampling": Sampling(SEED, Choosing(repetition_penalty=0.0))}, "repetition_penalty"),
        ({"sampling": Sampling(SEED, Choosing(presence_penalty=float("inf")))}, "presence_penalty"),
        (
            {"sampling": Sampling(SEED, Choosing(frequency_penalty=float("nan")))},
            "frequency_penalty",
        ),
        ({"sampling": Sampling(SEED, Choosing(logit_bias=[(5000, 1.0)]))}, "logit_bias"),
        ({"sampling": Sampling(SEED, Choosing(logit_bias=[(2, 1.0), (1, 1.0)]))}, "logit_bias"),
        ({"sampling": Sampling(SEED, Choosing(logit_bias=[(2, 1e9)]))}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_choices_out_of_range_are_refused_by_name(
    base: Path, change: dict[str, Any], word: str
) -> None:
    lab = Lab(base)
    lab.run(submit(1, [1, 2, 3], **change))
    failed = lab.end(1)
    assert isinstance(failed, Failed)
    assert failed.code == "bad_request"
    assert word in failed.message
    lab.close()
