from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.verdict import MILLION, SAME, Calibration, Pairing, Thresholds, judge
from node.verifying.limits import UNCALIBRATED, choose_limits, find_limits, find_obstacle
from node.verifying.trust import FORGIVING, HALF_S, LIE_APART_S, MAX_FILE_BYTES, MAX_ROWS, Trust

NODE, OTHER = (bytes([number]) * 20 for number in (1, 2))
LAW, VERSE = (bytes([number]) * 32 for number in (1, 2))
CALIBRATED = Thresholds(cap=250_000, mean=500, variance=96, one_in=10_000)
LIMITS = choose_limits(CALIBRATED)
JUNK = 0.25


def convict(trust: Trust, now: float, adapter: bytes = LAW) -> int:
    """How many answers it takes whose margins are junk's; none of them is suspicious alone here."""
    for number in range(1, 100):
        if trust.learn(NODE, adapter, JUNK, LIMITS, now, is_suspicious=False):
            return number
    raise AssertionError("never convicted")


def test_a_convicted_node_loses_its_weight_and_has_it_again_in_time() -> None:
    trust = Trust()
    assert convict(trust, now=1_000.0) == 3
    assert trust.weight(NODE, 1_000.0) == 0.0
    assert trust.weight(NODE, 1_000.0 + HALF_S) == 0.5
    assert trust.weight(NODE, 1_000.0 + 20 * HALF_S) > 0.999
    assert trust.weight(NODE, 0.0) == 0.0  # a clock that went back forgives nothing
    assert trust.weight(OTHER, 1_000.0) == 1.0


def test_who_is_convicted_again_waits_twice_as_long() -> None:
    trust = Trust()
    convict(trust, now=0.0)
    convict(trust, now=0.0)
    assert trust.weight(NODE, HALF_S) == pytest.approx(1 - 2**-0.5)
    assert trust.weight(NODE, 2 * HALF_S) == 0.5


def test_a_node_weighs_what_its_worst_adapter_does() -> None:
    trust = Trust()
    trust.learn(NODE, VERSE, 0.0, LIMITS, 0.0, is_suspicious=False)
    convict(trust, now=0.0)
    assert trust.weight(NODE, 0.0) == 0.0


def test_one_differing_answer_has_all_that_follow_replayed_and_good_ones_end_that() -> None:
    trust = Trust()
    assert not trust.is_watched(NODE, LAW, 0.0)
    trust.learn(NODE, LAW, JUNK, LIMITS, 0.0, is_suspicious=True)
    assert trust.is_watched(NODE, LAW, 0.0)
    assert not trust.is_watched(NODE, VERSE, 0.0)
    for _ in range(300):
        trust.learn(NODE, LAW, 0.0, LIMITS, 0.0, is_suspicious=False)
    assert not trust.is_watched(NODE, LAW, 0.0)


def test_an_answer_that_differs_takes_a_weeks_weight_and_each_further_one_twice_as_much() -> None:
    trust = Trust()
    for number in range(1, 4):
        trust.learn(NODE, LAW, 0.006, LIMITS, 1_000.0, is_suspicious=True)
        assert trust.weight(NODE, 1_000.0) == 0.0
        assert trust.weight(NODE, 1_000.0 + HALF_S * 2 ** (number - 1)) == 0.5
    assert trust.weight(OTHER, 1_000.0) == 1.0


def test_an_honest_nodes_rare_false_alarms_never_add_up() -> None:
    trust = Trust()
    for number in range(1, 20 * FORGIVING + 1):
        is_suspicious = number % FORGIVING == 0
        trust.learn(NODE, LAW, 0.0, LIMITS, 1_000.0, is_suspicious=is_suspicious)
    assert trust.weight(NODE, 1_000.0 + HALF_S) == 0.5


def test_a_new_nodes_answers_are_all_replayed_and_fewer_the_more_were() -> None:
    trust = Trust()
    assert trust.one_in(NODE, LAW, most=100) == 1
    for number in range(1, 150):
        trust.learn(NODE, LAW, 0.0, LIMITS, 0.0, is_suspicious=False)
        assert trust.one_in(NODE, LAW, most=100) == min(number + 1, 100)
    assert trust.one_in(NODE, VERSE, most=100) == 1
    assert trust.one_in(OTHER, LAW, most=100) == 1


def test_a_lie_takes_the_weight_at_once_and_each_further_one_twice_as_long() -> None:
    trust = Trust()
    trust.catch(NODE, LAW, 1_000.0)
    for soon in (0.0, 1_000.0 + LIE_APART_S / 2):
        assert trust.catch(NODE, LAW, soon) is None, "one fault, met by several requests"
    assert trust.weight(NODE, 1_000.0) == 0.0
    assert trust.weight(NODE, 1_000.0 + HALF_S) == 0.5
    assert trust.reason(NODE, 1_000.0) == "caught 1 x at what it signed or sent"
    trust.catch(NODE, LAW, 1_000.0 + LIE_APART_S)
    assert trust.weight(NODE, 1_000.0 + LIE_APART_S + 2 * HALF_S) == 0.5
    assert trust.weight(NODE, 1_000.0 + 100 * HALF_S) > 0.999
    assert trust.reason(NODE, 1_000.0 + 100 * HALF_S) == trust.reason(OTHER, 0.0) == ""


def test_lies_and_replays_speak_beside_each_other() -> None:
    trust = Trust()
    trust.catch(NODE, LAW, 5.0)
    trust.learn(NODE, LAW, 0.0, LIMITS, 5.0 + 10 * HALF_S, is_suspicious=False)
    assert trust.weight(NODE, 5.0 + HALF_S) == 0.5, "good answers make no lie undone"
    convict(trust, now=5.0 + 10 * HALF_S)
    trust.learn(NODE, LAW, JUNK, LIMITS, 5.0 + 10 * HALF_S, is_suspicious=True)
    assert trust.weight(NODE, 5.0 + 10 * HALF_S) == 0.0
    reason = trust.reason(NODE, 5.0 + 10 * HALF_S)
    assert reason == "1 of 5 replayed answers differ, caught 1 x at what it signed or sent"


def test_a_file_from_before_lies_were_kept_is_read(tmp_path: Path) -> None:
    trust = Trust()
    convict(trust, now=5.0)
    trust.save(tmp_path / "trust")
    rows = msgspec.msgpack.decode((tmp_path / "trust").read_bytes())
    (tmp_path / "trust").write_bytes(msgspec.msgpack.encode([row[:6] for row in rows]))
    again = Trust()
    again.load(tmp_path / "trust")
    assert again == trust


def test_of_a_second_adapter_the_first_answer_is_replayed_and_then_as_few_as_of_the_node() -> None:
    trust = Trust()
    for _ in range(9):
        trust.learn(NODE, LAW, 0.0, LIMITS, 0.0, is_suspicious=False)
    assert trust.one_in(NODE, VERSE, most=100) == 1
    trust.learn(NODE, VERSE, 0.0, LIMITS, 0.0, is_suspicious=False)
    assert trust.one_in(NODE, VERSE, most=100) == trust.one_in(NODE, LAW, most=100) == 11


def test_what_is_known_outlives_a_restart_and_spoilt_files_are_refused(tmp_path: Path) -> None:
    trust = Trust()
    convict(trust, now=5.0)
    trust.catch(NODE, LAW, 6.0)
    trust.save(tmp_path / "trust")
    again = Trust()
    again.load(tmp_path / "trust")
    assert again == trust
    assert again.weight(NODE, 6.0) == 0.0
    again.load(tmp_path / "nothing")
    for spoilt in (b"\xc1", b"\x91\x01", bytes(MAX_FILE_BYTES + 1)):
        (tmp_path / "trust").write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"."):
            again.load(tmp_path / "trust")


def test_rows_are_bounded_and_fit_their_file(tmp_path: Path) -> None:
    trust = Trust()
    for number in range(MAX_ROWS + 10):
        trust.learn(number.to_bytes(20, "big"), LAW, JUNK, LIMITS, 0.0, is_suspicious=True)
        trust.catch(number.to_bytes(20, "big"), LAW, 0.0)
    trust.save(tmp_path / "trust")
    again = Trust()
    again.load(tmp_path / "trust")
    assert again == trust
    assert not again.is_watched(bytes(20), LAW, 0.0)  # the oldest made room
    for known in (trust, again):
        assert known.weight(bytes(20), 0.0) == 1.0
        assert known.weight((MAX_ROWS + 9).to_bytes(20, "big"), 0.0) == 0.0


def test_an_honest_node_whose_format_is_the_hardest_to_replay_is_not_convicted() -> None:
    trust = Trust()
    for _ in range(2_000):
        assert not trust.learn(NODE, LAW, 0.00049, LIMITS, 0.0, is_suspicious=False)
    assert not trust.is_watched(NODE, LAW, 0.0)


# --- limits ---


def test_a_creators_limits_are_taken_unless_they_let_more_pass_than_the_wide_ones() -> None:
    assert LIMITS.thresholds == CALIBRATED
    assert LIMITS.are_calibrated
    assert LIMITS.mean == pytest.approx(0.0005)
    for lax in (
        Thresholds(250_000, 200_000, 96, one_in=2),
        Thresholds(100 * MILLION, 1_000_000, 96, one_in=2),
        Thresholds(100 * MILLION, 500, 10_000 * MILLION, one_in=2),
    ):
        assert choose_limits(lax).thresholds == UNCALIBRATED
    harsh = Thresholds(cap=1, mean=0, variance=0, one_in=2)
    assert choose_limits(harsh).thresholds == UNCALIBRATED
    assert not choose_limits(None).are_calibrated


@settings(derandomize=True, deadline=None)
@given(st.integers(32, 2_000))
def test_by_the_wide_limits_junk_differs_and_kernel_noise_does_not(tokens: int) -> None:
    assert judge([5.0] * tokens, UNCALIBRATED).outcome == "suspicious"
    assert judge([0.01] * tokens, UNCALIBRATED).outcome == "honest"


def test_answers_are_held_to_the_limits_of_the_two_that_made_and_replayed_them() -> None:
    across = msgspec.structs.replace(CALIBRATED, mean=900)
    found = Calibration(("amx", "avx2"), (Pairing("int8", "q4", across, "amx avx2 0.7"),))

    def limits(served: str, own: str, published: Calibration | None = found) -> Thresholds | None:
        chosen = find_limits(published, served, own)
        return None if chosen is None else chosen.thresholds

    assert limits("amx/q4", "amx/q4") == limits("vnni/q4", "vnni/q4", None) == SAME
    assert limits("amx/int8", "avx2/q4") == across
    assert limits("vnni/int8", "amx/q4") is None  # of these kernels nobody measured any
    assert limits("avx2/q4", "amx/int8") is None
    assert limits("torch/q4", "torch/q4") == limits("amx/q4", "vnni/q4") == UNCALIBRATED
    assert limits("amx/int8", "vnni/int8", None) == UNCALIBRATED
    assert limits("amx/int8", "avx2/q4", None) is None


def test_answers_of_formats_that_nobody_calibrated_are_not_judged() -> None:
    assert find_obstacle("float32", "bfloat16") is None
    assert find_obstacle("amx/float32", "cuda/bfloat16") is None
    assert find_obstacle("torch/q4", "torch/q4") is None
    pairs = [("amx/int8", "amx/bfloat16"), ("amx/q4", "amx/bfloat16"), ("amx/q4", "avx2/q4-f32")]
    for served, own in [*pairs, ("vllm/bfloat16", "amx/bfloat16"), ("vllm/int8", "vllm/int8")]:
        assert served in (find_obstacle(served, own) or "")
    assert "no named format" in (find_obstacle("", "") or "")
