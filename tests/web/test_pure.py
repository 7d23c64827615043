"""The modules of the browser's page under Node: those that touch nothing against the golden vectors
(pure.test.mjs), what they do when nodes, tabs and stores fail (faults.test.mjs); and that what a
node serves is what they were built into.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proofs.attribution.background import Background, write_background
from proofs.attribution.credit import credit
from proofs.attribution.explain import explain
from proofs.attribution.index import Index
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens
from tests.proofs.attribution.world import TOKENIZER, make_world

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NODE = shutil.which("node")
BUILT = ROOT / "node" / "http" / "web" / "static" / "web.js"
MAX_GZIP_BYTES = 200_000
DEADLINE_S = 240

needs_packages = pytest.mark.skipif(
    NODE is None or not (ROOT / "web" / "node_modules" / ".lorikeet-lock").exists(),
    reason="no packages here (scripts/npm web)",
)


@needs_packages
def test_the_modules_agree_with_the_golden_vectors_and_survive_faults() -> None:
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--test", "--test-reporter=tap", *map(str, sorted(HERE.glob("*.test.mjs")))],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


Questions = list[tuple[list[int], list[int]]]


@pytest.mark.skipif(NODE is None, reason="no Node here")
def test_whose_words_an_answer_has_is_the_same_as_in_python() -> None:
    worlds = [made_up(seed) for seed in range(12)] + [learnt("law")]
    shown = [[text.hex(), nobodys.hex(), asked] for text, nobodys, asked in worlds]
    assert NODE is not None
    done = subprocess.run(
        [NODE, HERE / "measure.mjs"],
        input=json.dumps({"texts": shown}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == [told(*world) for world in worlds]
    assert any(one["spans"] for each in found for one in each)


def made_up(seed: int) -> tuple[bytes, bytes, Questions]:
    """A small world of people who copy one another."""
    world = make_world(seed, 4)
    given = [Contribution(giver, documents) for giver, documents in world.contributions]
    text = write_tokens(TOKENIZER, world.people, given)
    return text, write_background(TOKENIZER, world.common), world.questions


def learnt(name: str) -> tuple[bytes, bytes, Questions]:
    """What an adapter here learnt from, and answers that have runs of it."""
    folder = ROOT / "adapters" / name
    text, nobodys = (
        (folder / f"{kind}.tokens").read_bytes() for kind in ("attribution", "background")
    )
    tokens = read_tokens(text)
    chance = random.Random(name)
    asked: Questions = []
    for _ in range(3):
        answer: list[int] = []
        for _ in range(6):
            document = tokens.document(chance.randrange(tokens.num_documents)).tolist()
            start = chance.randrange(len(document))
            answer += document[start : start + chance.randint(1, 30)]
            answer.append(chance.randrange(49_152))
        asked.append((answer[:5], answer[5:]))
    return text, nobodys, asked


def told(text: bytes, nobodys: bytes, asked: Questions) -> list[dict[str, Any]]:
    """What Python says of each question."""
    index = Index.build(read_tokens(text))
    background = Background.build(read_tokens(nobodys))
    return [_told(index, background, prompt, answer) for prompt, answer in asked]


def _told(
    index: Index, background: Background, prompt: list[int], answer: list[int]
) -> dict[str, Any]:
    found = explain(index, background, prompt, answer)
    return {
        "bits": list(found.drawn.bits),
        "known": found.known,
        "parts": [list(one) for one in credit(found.drawn.bits, 8, 32)],
        "spans": [
            {
                "start": span.start,
                "end": span.end,
                "contributor": span.place.contributor,
                "contribution": span.place.contribution,
                "document": span.place.document,
                "bits": span.bits,
            }
            for span in found.spans
        ],
    }


@needs_packages
def test_what_is_committed_is_what_the_sources_give() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "web", "--check"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_visit_costs_at_most_200_kb() -> None:
    assert len(gzip.compress(BUILT.read_bytes())) <= MAX_GZIP_BYTES


def test_the_page_is_in_what_is_installed() -> None:
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(ROOT))
    packed = {
        Path(one.distribution_path).as_posix() for one in builder.recurse_selected_project_files()
    }
    files = {path.relative_to(ROOT).as_posix() for path in BUILT.parent.iterdir()}
    assert files <= packed
