"""One's own answers are remembered within bounds, and what the disk refuses costs nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from node.attributing.answers import MAX_DISPUTED, VERSION, OwnAnswer, OwnAnswers
from node.wire.infer import encode
from proofs.channel import ChannelTip
from proofs.receipt import commit, encode_body
from tests.golden.talks import ask
from tests.proofs.scene import config, receipt

SALT = bytes(range(16))


def answer(number: int) -> OwnAnswer:
    return OwnAnswer(
        VERSION,
        bytes([number]) * 32,
        encode(ask("kept", (1, 2), 8)),
        bytes(32),
        bytes(32),
        answer_ids=(number, 70_000),
        salt=SALT,
    )


def test_the_last_answers_are_remembered_and_the_oldest_goes_first(tmp_path: Path) -> None:
    answers = OwnAnswers(tmp_path / "answers", 3, print)
    for number in range(5):
        answers.keep(answer(number))
        os.utime(tmp_path / "answers" / (bytes([number]) * 32).hex(), (number, number))
    found = [answers.find(bytes([number]) * 32) for number in range(5)]
    assert found == [None, None, *map(answer, (2, 3, 4))]
    assert OwnAnswers(tmp_path / "answers", 3, print).find(bytes([4]) * 32) == answer(4)


def test_none_are_remembered_where_none_shall_be(tmp_path: Path) -> None:
    OwnAnswers(tmp_path / "answers", 0, print).keep(answer(1))
    assert not (tmp_path / "answers").exists()


def test_what_cannot_be_read_or_written_is_told_and_costs_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    answers = OwnAnswers(tmp_path / "answers", 3, lines.append)
    answers.keep(answer(1))
    (tmp_path / "answers" / (bytes([1]) * 32).hex()).write_bytes(b"\xc1" * 40)
    assert answers.find(bytes([1]) * 32) is None
    assert "cannot be read" in lines[-1]
    (tmp_path / "file").write_text("no folder")
    OwnAnswers(tmp_path / "file", 3, lines.append).keep(answer(2))
    assert "not remembered" in lines[-1]


def test_an_answer_whose_question_is_none_is_not_believed(tmp_path: Path) -> None:
    lines: list[str] = []
    answers = OwnAnswers(tmp_path, 3, lines.append)
    answers.keep(msgspec.structs.replace(answer(1), asked=b"\x91\xa3Ask"))
    assert answers.find(answer(1).receipt) is None
    assert "cannot be read" in lines[-1]


def test_evidence_is_kept_within_bounds_whatever_is_remembered(tmp_path: Path) -> None:
    answers = OwnAnswers(tmp_path / "answers", 0, print)
    for number in range(MAX_DISPUTED + 3):
        answers.accuse(msgspec.structs.replace(answer(number), body=b"1", node_signature=bytes(65)))
    assert len(list((tmp_path / "answers" / "disputed").iterdir())) == MAX_DISPUTED


def test_tokens_fit_the_receipt_that_commits_to_them_alone() -> None:
    body = encode_body(
        receipt(
            ChannelTip(config()),
            prompt_commitment=commit(SALT, (1, 2)),
            answer_commitment=commit(SALT, (5, 70_000)),
        )
    )
    assert answer(5).fits(body)
    assert not answer(6).fits(body)
