"""Three contributors, a background and answers: bytes, bits, and what follows from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from proofs.attribution.background import Background, write_background
from proofs.attribution.blend import blend
from proofs.attribution.index import Index
from proofs.attribution.ladder import log2_table, measure
from proofs.attribution.listing import Listed, write_listing
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens
from proofs.origin import RULE

TOKENIZER = hashlib.sha256(b"tokenizer").digest()
POEM = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
LAW = [40, 41, 42, 43, 44, 45, 46, 47, 40, 41, 42, 48, 49, 50]
COMMON = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7]
EDITED = [11, 12, 13, 14, 15, 16, 17, 18, 99, 20, 21, 22, 23, 24]
FAR = [70_000, 40, 41, 42, 43, 44, 45, 46, 70_001, 8, 9]
CONTRIBUTIONS = [
    (1, [POEM, [*COMMON, 11, 12, 13]]),
    (0, [LAW, [1, 2, 3]]),
    (2, [POEM, EDITED]),
    (1, [FAR]),
]
LISTED = [
    (1, 0, hashlib.sha256(b"poems").digest(), "Poems", [3, 1]),
    (0, 1, hashlib.sha256(b"notes").digest(), "Notes on Part III", [1, 2]),
    (2, 0, hashlib.sha256(b"edited").digest(), "Poems, edited", [1, 2]),
    (1, 0, hashlib.sha256(b"far").digest(), "", [7]),
]
BACKGROUND = [COMMON, COMMON, [40, 41, 9, 9], [12, 1, 2, 3, 4]]
ANSWERS: list[tuple[list[int], list[int]]] = [
    ([5, 10, 11, 12], POEM[2:]),
    ([], LAW),
    ([99], COMMON),
    ([10, 11, 12, 13, 14, 15, 16, 17, 18], [99, 20, 21, 22, 23, 24, 88, 88]),
    ([40], [41, 42, 43, 44, 45, 46, 70_001, 8, 9, 9, 9]),
    ([1, 2, 3], [88, 89]),
    ([1], []),
]
STANDING = [5_000, 3_000, 2_000]
LAMBDA_EIGHTHS = 3


def ladder() -> dict[str, Any]:
    """Files by content and by bytes; the table; answers by bits of each and by basis points."""
    data = write_tokens(
        TOKENIZER,
        3,
        [Contribution(giver, documents) for giver, documents in CONTRIBUTIONS],
    )
    base_data = write_background(TOKENIZER, BACKGROUND)
    index = Index.build(read_tokens(data))
    background = Background.build(read_tokens(base_data))
    return {
        "rule": RULE,
        "table_digest": hashlib.sha256(log2_table().astype("<u4").tobytes()).hexdigest(),
        "tokenizer_hash": TOKENIZER.hex(),
        "contributions": [
            {"contributor": giver, "documents": documents} for giver, documents in CONTRIBUTIONS
        ],
        "tokens": data.hex(),
        "listing": write_listing([Listed(*row) for row in LISTED]).hex(),
        "owned_tokens": list(index.owned_tokens()),
        "background": BACKGROUND,
        "background_tokens": base_data.hex(),
        "standing": STANDING,
        "lambda_eighths": LAMBDA_EIGHTHS,
        "answers": [_answer(index, background, prompt, answer) for prompt, answer in ANSWERS],
        "blends": [_blend(*case) for case in BLENDS],
    }


def _answer(
    index: Index, background: Background, prompt: list[int], answer: list[int]
) -> dict[str, Any]:
    drawn = measure(index, background, prompt, answer)
    return {
        "prompt": prompt,
        "answer": answer,
        "foretold": drawn.foretold.tolist(),
        "bits": list(drawn.bits),
        "parts": list(blend(drawn.bits, STANDING, LAMBDA_EIGHTHS)),
    }


def _blend(bits: Sequence[int], standing: Sequence[int], lambda_eighths: int) -> dict[str, Any]:
    return {
        "bits": list(bits),
        "standing": list(standing),
        "lambda_eighths": lambda_eighths,
        "parts": list(blend(bits, standing, lambda_eighths)),
    }


BLENDS = [
    ([1 << 19, 0, 0], [1, 1, 1], 8),
    ([(1 << 19) - 1, 0, 0], [1, 1, 1], 8),
    ([1 << 20, 1 << 20, 1 << 20], [0, 0, 1], 4),
    ([786_432 * 8_192, 1, 0, 0], [1, 2, 3, 2_147_483_647], 7),
    ([7 << 16, 2 << 16], [10_000, 1], 0),
]
