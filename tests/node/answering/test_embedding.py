"""Texts become vectors of length 1 on one's own engine, whatever fails in the middle."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.answering.embedding import MAX_AT_ONCE, Embedder, to_unit
from node.answering.tokenizer import BaseTokenizer, load_tokenizer
from node.api.answers import EmbeddingRequest
from node.errors import BadRequest, EngineBusy, NoEngine, UnknownModel
from p2p.cid import Cid
from tests.node.tiny import make_base

LAW = Cid(b"l" * 32)


class Catalogue:
    """Knows one adapter, and remembers what was held."""

    def __init__(self) -> None:
        self.held: list[Cid] = []

    async def resolve(self, model: str) -> Cid | None:
        if model not in ("base", "law"):
            raise UnknownModel(model, ["law"])
        return LAW if model == "law" else None

    async def hold(self, cid: Cid) -> SimpleNamespace:
        self.held.append(cid)
        return SimpleNamespace(timings_ms={})


class Engine:
    """Gives each prompt its own first id as a direction; counts who is inside at once."""

    def __init__(self, failing: int = -1) -> None:
        self._failing = failing
        self.asked: list[tuple[list[int], bytes | None]] = []
        self.inside = 0
        self.most_inside = 0

    async def wait_up(self) -> object:
        return None

    async def embed(self, prompt_ids: Sequence[int], adapter: bytes | None) -> bytes:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await trio.lowlevel.checkpoint()
            self.asked.append((list(prompt_ids), adapter))
            if prompt_ids[0] == self._failing:
                raise EngineBusy("no room")
            return array("f", [prompt_ids[0], 3.0, 4.0]).tobytes()
        finally:
            self.inside -= 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BaseTokenizer:
    return load_tokenizer(make_base(tmp_path_factory.mktemp("embedding") / "base"))


async def test_each_input_gets_its_own_vector_in_order_and_few_are_in_the_engine_at_once(
    tokenizer: BaseTokenizer,
) -> None:
    engine = Engine()
    catalogue = Catalogue()
    embedder = Embedder(tokenizer, catalogue, engine, "16Uiu2Here")
    inputs = ("hello", *((number,) for number in range(3, 100)))
    answer = await embedder.embed(EmbeddingRequest("law", inputs))
    assert [array("f", one)[0] for one in answer.vectors[1:]] == pytest.approx(
        [number / math.hypot(number, 3, 4) for number in range(3, 100)], abs=1e-6
    )
    assert (answer.served_by, answer.model, answer.cid) == ("16Uiu2Here", "law", str(LAW))
    assert answer.prompt_tokens == len(tokenizer.encode_prompt("hello")) + 97
    assert catalogue.held == [LAW]
    assert {adapter for _, adapter in engine.asked} == {LAW.digest}
    assert engine.most_inside == MAX_AT_ONCE


async def test_the_bare_base_holds_nothing(tokenizer: BaseTokenizer) -> None:
    catalogue = Catalogue()
    engine = Engine()
    answer = await Embedder(tokenizer, catalogue, engine, "me").embed(
        EmbeddingRequest("base", ("a",), dimensions=2)
    )
    assert answer.cid is None
    assert catalogue.held == []
    assert len(answer.vectors[0]) == 2 * 4
    assert engine.asked[0][1] is None


async def test_one_that_fails_ends_all_with_its_own_error(tokenizer: BaseTokenizer) -> None:
    engine = Engine(failing=50)
    inputs = tuple((number,) for number in range(3, 100))
    with pytest.raises(EngineBusy, match="no room"):
        await Embedder(tokenizer, Catalogue(), engine, "me").embed(EmbeddingRequest("base", inputs))
    assert engine.inside == 0
    assert len(engine.asked) < 97


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (EmbeddingRequest("nobody", ("a",)), UnknownModel, "law"),
        (EmbeddingRequest("auto", ("a",)), BadRequest, "name one"),
        (EmbeddingRequest("base", ("a", "")), BadRequest, "input 1: the prompt is empty"),
        (EmbeddingRequest("base", ("a",), dimensions=4), BadRequest, "dimensions is 4"),
    ],
)
async def test_what_cannot_be_embedded_is_named(
    tokenizer: BaseTokenizer, request_: EmbeddingRequest, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await Embedder(tokenizer, Catalogue(), Engine(), "me").embed(request_)


async def test_a_daemon_without_an_engine_says_why_it_cannot(tokenizer: BaseTokenizer) -> None:
    with pytest.raises(NoEngine, match="carries no vectors"):
        await Embedder(tokenizer, Catalogue(), None, "me").embed(EmbeddingRequest("base", ("a",)))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40),
    st.integers(1, 40),
)
def test_a_vector_is_cut_and_then_has_length_one(numbers: list[float], dimensions: int) -> None:
    state = array("f", numbers).tobytes()
    if dimensions > len(numbers):
        with pytest.raises(BadRequest):
            to_unit(state, dimensions)
        return
    unit = array("f", to_unit(state, dimensions))
    assert len(unit) == dimensions
    if math.hypot(*numbers[:dimensions]) == 0:
        assert set(unit) == {0.0}
    else:
        assert math.hypot(*unit) == pytest.approx(1.0, abs=1e-5)
        most = max(range(dimensions), key=lambda at: abs(numbers[at]))
        assert math.copysign(1, unit[most]) == math.copysign(1, numbers[most])


def test_the_bytes_of_a_unit_vector_stand() -> None:
    assert to_unit(array("f", [3.0, -4.0]).tobytes()).hex() == "9a99193fcdcc4cbf"
