"""What an adapter does beside its base, as numbers and one sentence.

Computes from losses and token ids; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import BadRun

FILE = "evaluation.json"
MAX_PACKED_BYTES = 1 << 20
LEAST_GAIN = 0.02
"""By so much less of what it never saw must it lose than the base."""
MUCH_FORGOTTEN = 0.1
LONG_RUN = 16
"""Tokens in a row as they stand in a text: from here on it is called memorised."""


class Beside(msgspec.Struct, frozen=True):
    """What base and adapter lose of some text, in nats a token; of how many tokens."""

    of: str
    base: float
    adapter: float
    tokens: int

    @property
    def gain(self) -> float:
        """The part of the base's loss that the adapter spares."""
        return 1 - self.adapter / self.base if self.base else 0.0


class Answer(msgspec.Struct, frozen=True):
    """A prompt and what both went on with, as token ids; how long the longest run of the adapter's
    answer is that stands so in what it learnt, and how many of its tokens are in long runs.
    """

    prompt: tuple[int, ...]
    is_own: bool
    base: tuple[int, ...]
    adapter: tuple[int, ...]
    longest_run: int
    in_long_runs: int


class Evaluation(msgspec.Struct, frozen=True):
    """All that was measured. `held_out` is None where nothing was; `unseen` are people of whom
    nothing was learnt; `forgetting` is on the base's own words.
    """

    verdict: str
    is_good: bool
    held_out: Beside | None
    people: tuple[Beside, ...]
    unseen: tuple[Beside, ...]
    learnt: Beside
    forgetting: Beside
    answers: tuple[Answer, ...]

    @property
    def memorised(self) -> float:
        """The part of the answers' tokens that stand in long runs in what was learnt."""
        total = sum(len(answer.adapter) for answer in self.answers)
        return sum(answer.in_long_runs for answer in self.answers) / total if total else 0.0


def pack(found: Evaluation) -> bytes:
    """Write an evaluation as it is published: one form for the same values."""
    return msgspec.msgpack.encode(found)


def unpack(data: bytes) -> Evaluation:
    """Read a published evaluation from bytes nobody vouched for; raises BadRun."""
    try:
        found = msgspec.msgpack.decode(data, type=Evaluation) if _is_small(data) else None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRun(f"it is no evaluation: {error}") from error
    if found is None or pack(found) != data:
        raise BadRun(f"it is larger than {MAX_PACKED_BYTES} bytes, or not in its one form")
    return found


def _is_small(data: bytes) -> bool:
    return len(data) <= MAX_PACKED_BYTES


def verdict_of(
    held_out: Beside | None, learnt: Beside, forgetting: Beside, memorised: float
) -> tuple[bool, str]:
    """Return whether it is worth publishing, and why, in a sentence."""
    if held_out is None:
        return False, "nobody knows whether it learnt anything: nothing was held out"
    if held_out.gain < LEAST_GAIN:
        how = f"{held_out.gain:.1%} less" if held_out.gain > 0 else f"{-held_out.gain:.1%} more"
        mend = (
            "it knows what it was shown by heart; collect more, or train fewer epochs"
            if learnt.gain > 2 * LEAST_GAIN
            else "it hardly learnt; collect more of one kind, or train longer"
        )
        return False, f"of what it never saw it loses {how} than the base, not 2 % less: {mend}"
    said = f"of what it never saw it loses {held_out.gain:.1%} less than the base"
    if forgetting.gain < -MUCH_FORGOTTEN:
        said += f", and {-forgetting.gain:.0%} more of what the base says by itself"
    if memorised:
        said += f"; {memorised:.0%} of its words in {LONG_RUN} and more in a row are others'"
    return True, said


def runs_in(answer: Sequence[int], text: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return for each place of an answer how many tokens, up to it, stand so in a text."""
    lengths = np.zeros(len(text) + 1, np.int32)
    found = np.zeros(len(answer), np.int64)
    for place, token in enumerate(answer):
        lengths[1:] = np.where(text == token, lengths[:-1] + 1, 0)
        found[place] = lengths.max()
    return found


def in_long_runs(runs: npt.NDArray[np.int64]) -> int:
    """Return how many places are part of a run of LONG_RUN and more."""
    part = np.zeros(len(runs), bool)
    for place in np.flatnonzero(runs >= LONG_RUN):
        part[place - runs[place] + 1 : place + 1] = True
    return int(part.sum())
