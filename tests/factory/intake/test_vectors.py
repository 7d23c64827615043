"""The vectors of intake, computed again in plain Python from docs/protocols/intake.md alone."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgpack

from tests.golden.generate import FOLDER

WORD = 1 << 64
VECTORS: dict[str, Any] = json.loads((FOLDER / "intake.json").read_text())


def shingles_of(words: list[str]) -> list[int]:
    numbers = [int.from_bytes(hashlib.sha256(w.encode()).digest()[:8], "little") for w in words]
    span = min(5, len(numbers))
    found = set()
    for start in range(len(numbers) - span + 1):
        h = 0
        for number in numbers[start : start + span]:
            h = (h * 0x9E3779B97F4A7C15 + number) % WORD
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB % WORD
        found.add(h ^ (h >> 31))
    return sorted(found)


def test_shingles_and_digests_follow_from_the_words() -> None:
    for text in VECTORS["texts"]:
        assert [str(number) for number in shingles_of(text["words"])] == text["shingles"]
        assert hashlib.sha256(" ".join(text["words"]).encode()).hexdigest() == text["digest"]


def test_a_trace_follows_from_digests_and_shingles() -> None:
    counts: dict[int, int] = {}
    digests = b""
    for text in VECTORS["texts"]:
        digests += bytes.fromhex(text["digest"])
        for number in text["shingles"]:
            counts[int(number)] = counts.get(int(number), 0) + 1
    trace = b"lorikeet trace 1".ljust(24, b"\0")
    trace += len(VECTORS["texts"]).to_bytes(4, "little") + len(counts).to_bytes(4, "little")
    trace += digests
    trace += b"".join(number.to_bytes(8, "little") for number in sorted(counts))
    trace += b"".join(counts[number].to_bytes(2, "little") for number in sorted(counts))
    assert trace.hex() == VECTORS["trace"]


def test_sketches_hold_the_least_shingles_and_say_what_is_common() -> None:
    read = []
    for length, sketch in zip((300, 150), VECTORS["sketches"], strict=True):
        numbers = shingles_of([f"word{number}" for number in range(length)])
        least = b"".join(number.to_bytes(8, "little") for number in numbers[:128])
        expected = ["lorikeet sketch", 1, len(numbers), least]
        assert bytes.fromhex(sketch) == msgpack.packb(expected)
        read.append((len(numbers), set(numbers[:128])))
    (a, least_a), (b, least_b) = read
    union = set(sorted(least_a | least_b)[:128])
    common = (
        len(union & least_a & least_b) * (a + b) // (len(union) + len(union & least_a & least_b))
    )
    assert VECTORS["shares_bps"] == [common * 10_000 // a, min(common * 10_000 // b, 10_000)]


def test_a_report_is_an_array_of_thirteen() -> None:
    report = msgpack.unpackb(bytes.fromhex(VECTORS["report"]["bytes"]))
    assert len(report) == 13
    kind, version, cleaner, rules, known = report[:5]
    assert (kind, version, cleaner) == ("lorikeet intake", 1, "lorikeet-intake 1")
    assert rules.hex() == VECTORS["report"]["rules"]
    assert known.hex() == VECTORS["report"]["known"]
    document = hashlib.sha256(VECTORS["texts"][0]["text"].encode()).digest()
    assert report[6:8] == [1, hashlib.sha256(document).digest()]
    assert report[8][0] == ["language", None, "0 of 1", "refuse"]
    assert report[9] == [["language", 1], ["too-short", 1]]
