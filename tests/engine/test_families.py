"""What differs between families stands in one table, and reading a base follows it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.model.config import from_huggingface
from engine.model.families import FAMILIES, GGUF_FAMILIES, Family, is_biased
from engine.model.gguf_config import Tensors, from_gguf

LAYERS = 8


def huggingface(family: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": family,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 100,
        **changes,
    }


def gguf(family: str, **changes: Any) -> dict[str, Any]:
    fields = {
        "attention.head_count": 4,
        "embedding_length": 64,
        "block_count": LAYERS,
        "vocab_size": 100,
        "feed_forward_length": 96,
        "context_length": 512,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **({"expert_count": 8, "expert_used_count": 2} if family.endswith("moe") else {}),
        **changes,
    }
    named = {f"{family}.{name}": value for name, value in fields.items()}
    return {"general.architecture": family, **named}


@pytest.mark.parametrize(
    ("family", "declared", "qkv", "out"),
    [
        ("llama", False, False, False),
        ("llama", True, True, True),
        ("mistral", True, False, False),
        ("qwen2", False, True, False),
        ("qwen2", True, True, False),
        ("qwen3", False, False, False),
        ("qwen3", True, True, True),
        ("smollm3", True, True, True),
    ],
)
def test_biases_are_the_family_s_or_declared(
    family: str, declared: bool, qkv: bool, out: bool
) -> None:
    config = from_huggingface(huggingface(family, attention_bias=declared))
    assert (config.qkv_bias, config.out_bias) == (qkv, out)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_family_is_read_from_a_folder(family: Family) -> None:
    config = from_huggingface(huggingface(family.name))
    assert config.qk_norm == family.qk_norm
    unrotated = {3, 7} if family.rotation_gap == 4 else set()
    assert config.unrotated == unrotated


@pytest.mark.parametrize("family", GGUF_FAMILIES.values(), ids=list(GGUF_FAMILIES))
def test_every_family_that_gguf_knows_is_read_from_a_file(family: Family) -> None:
    config = from_gguf(gguf(family.gguf), Tensors(frozenset({"output.weight"})))
    assert config.unrotated == ({3, 7} if family.rotation_gap == 4 else set())


@given(name=st.one_of(st.none(), st.integers(), st.lists(st.text()), st.text(max_size=60)))
def test_another_family_is_refused_by_its_name_and_all_that_are_served_are_told(name: Any) -> None:
    if isinstance(name, str) and name in FAMILIES:
        return
    with pytest.raises(ModelError, match="is not served; we serve llama, mistral") as told:
        from_huggingface(huggingface("llama", model_type=name))
    assert str(name)[:20] in str(told.value) or repr(str(name)[:40]) in str(told.value)
    with pytest.raises(ModelError, match="is not served; we serve llama, qwen2"):
        from_gguf({"general.architecture": name}, Tensors(frozenset()))


def test_a_base_may_say_which_layers_do_not_rotate_where_its_family_has_any() -> None:
    rotates = [1, 0] * (LAYERS // 2)
    config = from_huggingface(huggingface("smollm3", no_rope_layers=rotates))
    assert config.unrotated == {1, 3, 5, 7}
    assert from_huggingface(huggingface("llama", no_rope_layers=rotates)).unrotated == set()


@given(rule=st.sampled_from([True, False, None]), declared=st.booleans())
def test_a_rule_that_is_not_as_declared_is_the_family_s(rule: bool | None, declared: bool) -> None:
    assert is_biased(rule, declared) == (declared if rule is None else rule)
