"""Weights in 4 bits are multiplied as they lie: to what their codes stand for, by every instruction
set that this processor has, with the same bits among any neighbours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.build import name_format
from engine.choose import choose_machine
from engine.config import Choice, EngineConfig, Stored, cpu_features
from engine.errors import ModelError
from engine.executor import library, native
from engine.executor.codes import pack_codes
from engine.executor.library import INSTRUCTION_SETS
from engine.executor.pages import HugePages
from engine.model.layers import ROW_BLOCK, make_q4_linear
from engine.model.weights import Weights, open_weights

from .four_bits import in_4_bits, round_to_4_bits
from .test_bases import SHAPE as GGUF_SHAPE
from .test_bases import write_gguf
from .test_executor import adapted, error, run_mixed
from .worlds import BOTH, KERNELS, Bench, make_base, some_tokens

SHAPES = {32: (96, 160), 64: (192, 320), 128: (256, 384)}
"""Group → hidden and MLP: the last block of a row is a part of one, where it can be."""
FORMS = [(group, offsets) for group in SHAPES for offsets in (False, True)]
NATIVE = pytest.mark.skipif("native" not in KERNELS, reason="no compiler, or an old processor")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Weights]:
    """A base for each group, in float32; one of them ties its head to the embedding."""
    folder = tmp_path_factory.mktemp("bases")
    opened = {}
    for group, (hidden, mlp) in SHAPES.items():
        make_base(
            folder / str(group),
            spread=0.1,
            hidden_size=hidden,
            intermediate_size=mlp,
            num_hidden_layers=2,
            num_attention_heads=hidden // 16,
            tie_word_embeddings=group == 64,
        )
        opened[group] = open_weights(folder / str(group))
    return opened


def random_weight(seed: int, rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(form=st.sampled_from(FORMS), blocks=st.integers(1, 5), seed=st.integers(0, 999))
def test_whole_numbers_are_multiplied_to_what_the_codes_stand_for(
    form: tuple[int, bool], blocks: int, seed: int
) -> None:
    """A row whose blocks all reach 127 is its own int8 form, so nothing is lost but by float32."""
    group, offsets = form
    columns = max(group, blocks * ROW_BLOCK // 2 // group * group)
    weight = round_to_4_bits(random_weight(seed, 40, columns), group, offsets)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(-126, 127, (7, columns), generator=draw).float()
    x[:, ::32] = 127
    exact = x.double() @ weight.dequantise().double().T
    torch.testing.assert_close(make_q4_linear(weight)(x).double(), exact, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("group", "offsets"), FORMS)
def test_any_numbers_are_multiplied_to_within_what_int8_loses(group: int, offsets: bool) -> None:
    weight = round_to_4_bits(random_weight(1, 64, 512), group, offsets)
    x = random_weight(2, 9, 512)
    exact = x @ weight.dequantise().T
    ours = make_q4_linear(weight)(x)
    assert error([ours], [exact]) < 0.01
    # half a step of each input, at most, times what it is multiplied by
    steps = x.view(9, -1, ROW_BLOCK).abs().amax(-1) / 127
    worst = weight.dequantise().abs().view(64, -1, ROW_BLOCK).sum(-1)
    assert ((ours - exact).abs() <= 0.5001 * steps @ worst.T + 1e-3).all()


@pytest.mark.parametrize(("group", "offsets"), FORMS)
def test_rows_looked_up_are_those_that_were_packed(group: int, offsets: bool) -> None:
    weight = round_to_4_bits(random_weight(3, 96, 256), group, offsets)
    packed = pack_codes(weight, torch.arange(96), HugePages())
    rows = torch.tensor([0, 95, 17, 17, 31, 32, 64])
    assert packed.has_offsets == offsets
    assert torch.equal(packed.lookup(rows), weight.dequantise()[rows])


@pytest.fixture(scope="module")
def twins(bases: dict[int, Weights]) -> list[tuple[Weights, list[torch.Tensor]]]:
    """Bases without and with offsets, and the logits of their twins."""
    made = [in_4_bits(bases[32], 32), in_4_bits(bases[128], 128, with_offsets=True)]
    return [(base, run_mixed(base, torch.float32, "torch", Stored.Q4)) for base in made]


@NATIVE
@pytest.mark.parametrize(
    "instructions", [each.name for each in library.usable_sets(cpu_features())]
)
def test_every_instruction_set_agrees_with_the_twin(
    twins: list[tuple[Weights, list[torch.Tensor]]],
    instructions: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32 they differ where a last bit turns an activation's rounding; what that comes to
    in these chaotic models was at most 0.8 % when this was written.
    """
    chosen = next(each for each in library.INSTRUCTION_SETS if each.name == instructions)
    if library.find_compiler() is None:
        pytest.skip("only the best instruction set is built here")
    monkeypatch.setattr(native, "usable_sets", lambda features: [chosen])
    for base, twin in twins:
        assert error(run_mixed(base, torch.float32, "native", Stored.Q4), twin) < 0.02


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("group", "but"),
    [(32, ()), (64, ("v_proj", "embed_tokens")), (128, ("down_proj", "lm_head"))],
)
def test_a_base_gives_the_logits_of_what_its_codes_stand_for(
    bases: dict[int, Weights],
    kernels: str,
    dtype: torch.dtype,
    group: int,
    but: tuple[str, ...],
) -> None:
    """With linears among them that lie otherwise, in int8: fused with such as lie in 4 bits, an
    embedding, a head. Most of the error is that of activations in int8.
    """
    base = in_4_bits(bases[group], group, with_offsets=group != 64, but=but)
    exact = run_mixed(base, torch.float32, "torch", Stored.PLAIN)
    assert error(run_mixed(base, dtype, kernels, Stored.Q4), exact) < 0.09


@BOTH
def test_logits_are_those_of_transformers_over_the_dequantised_weights(
    kernels: str, tmp_path: Path
) -> None:
    model = make_base(tmp_path / "base", spread=0.05, **GGUF_SHAPE)
    meant = write_gguf(tmp_path / "base", tmp_path / "base.gguf", "llama", "Q4_1")
    model.load_state_dict(meant, strict=False)
    bench = Bench(tmp_path / "base.gguf", torch.float32, kernels, stored=Stored.Q4)
    tokens = some_tokens(60, 1, bench.config.vocab_size)
    sequence = bench.sequence(tokens)
    with torch.inference_mode():
        exact = model(torch.tensor([tokens])).logits[0]
    assert error([bench.forward((sequence, 0, 60))[id(sequence)]], [exact]) < 0.03


@BOTH
@pytest.mark.parametrize(("group", "offsets"), [(32, True), (64, False)])
def test_a_row_has_the_same_bits_alone_and_among_any_neighbours_on_any_threads(
    bases: dict[int, Weights], kernels: str, group: int, offsets: bool
) -> None:
    dtype = torch.bfloat16 if offsets else torch.float32
    base = in_4_bits(bases[group], group, offsets, but=("v_proj",) if offsets else ())
    benches = [Bench(base, dtype, kernels, threads, Stored.Q4) for threads in (1, 3)]
    for bench in benches:
        bench.put(b"all", adapted(bench.config, 3, 5, dtype, everything=True))  # type: ignore[arg-type]
    tokens = some_tokens(70, 4)
    whole = benches[0].sequence(tokens, b"all")
    alone = benches[0].forward((whole, 0, 70))[id(whole)]
    for bench in benches:
        for cuts in ((1, 5, 13, 30, 63, 70), (33, 50, 70), (2, 6, 70)):
            sequence = bench.sequence(tokens, b"all")
            other = bench.sequence(some_tokens(70, 5))
            parts = []
            for start, end in zip((0, *cuts), cuts, strict=False):
                chunks = ((other, 0, end), (sequence, start, end))
                logits = bench.forward(*(chunks if start % 2 else chunks[1:]))
                parts.append(logits[id(sequence)])
            assert torch.equal(torch.cat(parts), alone)


@BOTH
@pytest.mark.parametrize("stored", [Stored.INT8, Stored.Q4])
def test_numbers_that_are_not_finite_never_become_a_token(
    bases: dict[int, Weights], kernels: str, stored: Stored
) -> None:
    """Rounded to bytes a NaN would be a number like any other."""
    base = in_4_bits(bases[32])

    def read(name: str) -> torch.Tensor:
        tensor = base.stored(name)
        return tensor * float("nan") if name == "model.norm.weight" else tensor

    bench = Bench(replace(base, stored=read), torch.bfloat16, kernels, stored=stored)
    sequence = bench.sequence(some_tokens(3, 1))
    output = bench.decoder.run(bench.batch((sequence, 0, 3)).input, bench.cache.pool)
    assert not output.finite.any()


def test_what_lies_in_4_bits_is_served_so_unless_something_else_is_asked_for(
    tmp_path: Path,
) -> None:
    make_base(tmp_path / "base", spread=0.05, **GGUF_SHAPE)
    for kind in ("Q4_0", "Q4_K", "Q8_0"):
        write_gguf(tmp_path / "base", tmp_path / f"{kind}.gguf", "llama", kind)

    def chosen(name: str, dtype: str) -> str:
        asked = EngineConfig(tmp_path / name, dtype=dtype, kernels="torch")
        return choose_machine(asked, open_weights(tmp_path / name)).dtype.name

    assert [chosen(f"{kind}.gguf", "auto") for kind in ("Q4_0", "Q4_K")] == ["q4", "q4"]
    assert chosen("Q4_0.gguf", "q4") == "q4"
    assert [chosen("Q4_0.gguf", name) for name in ("bfloat16", "int8")] == ["bfloat16", "int8"]
    assert {chosen("Q8_0.gguf", "auto"), chosen("base", "auto")} <= {"bfloat16", "float32"}
    for name in ("Q8_0.gguf", "base"):
        with pytest.raises(ModelError, match="--dtype q4 is for bases whose linears lie in 4 bits"):
            chosen(name, "q4")


def test_the_kernels_and_in_4_bits_the_activations_are_part_of_the_formats_name() -> None:
    q4 = Choice(torch.bfloat16, "", Stored.Q4)
    assert name_format(q4, "native avx512 q4") == "avx512/q4"
    assert name_format(replace(q4, dtype=torch.float32), "native avx2 q4") == "avx2/q4-f32"
    assert name_format(q4, "torch q4") == "torch/q4"
    assert name_format(q4, "cuda, NVIDIA H200, 4 bits") == "cuda/q4"
    for plain in (Choice(torch.bfloat16, ""), Choice(torch.bfloat16, "", Stored.INT8)):
        assert name_format(plain, "torch") == f"torch/{plain.name}"
        names = [name_format(plain, f"native {each.name}") for each in INSTRUCTION_SETS]
        assert len(set(names)) == len(INSTRUCTION_SETS)
        assert max(map(len, names)) <= 16  # what a receipt has room for
