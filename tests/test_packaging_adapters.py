"""The adapters that come with the project: loadable, small, honest about their source."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_utils import keccak, to_checksum_address
from safetensors.torch import load_file

from factory.training.recipe import read_recipe
from node.catalogue.packaging import BaseIdentity, load_package
from node.catalogue.texts import find_listing, map_tokens

ADAPTERS = Path(__file__).resolve().parent.parent / "adapters"
NAMES = ["law", "medicine", "recipes", "verse"]
RECIPES = Path(__file__).resolve().parent.parent / "benchmarks" / "adapters" / "recipes"
SIZE_LIMIT_BYTES = 5_000_000
TEXTS_LIMIT_BYTES = 500_000
NUM_LAYERS = 30
NUM_TARGETS = 7

pytestmark = pytest.mark.parametrize("name", NAMES)


def push_file(name: str) -> dict[str, Any]:
    return tomllib.loads((ADAPTERS / name / "lorikeet.toml").read_text())


def config_of(name: str) -> dict[str, Any]:
    return json.loads((ADAPTERS / name / "adapter_config.json").read_text())


def test_weights_are_small_finite_and_not_zero(name: str) -> None:
    path = ADAPTERS / name / "adapter_model.safetensors"
    tensors = load_file(path)
    assert path.stat().st_size <= SIZE_LIMIT_BYTES
    assert len(tensors) == 2 * NUM_TARGETS * NUM_LAYERS
    assert all(
        tensor.isfinite().all() and tensor.count_nonzero() > 0 for tensor in tensors.values()
    )
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}


def test_ranks_are_what_the_configuration_says(name: str) -> None:
    rank = config_of(name)["r"]
    tensors = load_file(ADAPTERS / name / "adapter_model.safetensors")
    assert {t.shape[0] for key, t in tensors.items() if key.endswith("lora_A.weight")} == {rank}
    assert {t.shape[1] for key, t in tensors.items() if key.endswith("lora_B.weight")} == {rank}


def test_configuration_names_the_base_and_no_path(name: str) -> None:
    assert config_of(name)["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert '"/' not in (ADAPTERS / name / "adapter_config.json").read_text()


def test_push_file_says_who_gave_what_under_which_licence(name: str) -> None:
    said = push_file(name)
    assert said["name"] == name
    assert said["version"]
    assert said["licence"]
    assert said["source"]
    assert said["contributors"]
    for contributor in said["contributors"]:
        assert set(contributor) == {"name", "address", "source", "licence", "weight"}
        assert isinstance(contributor["weight"], int)
        assert contributor["weight"] > 0


def test_contributors_are_paid_at_their_development_keys(name: str) -> None:
    for contributor in push_file(name)["contributors"]:
        secret = hashlib.sha256(
            f"lorikeet demo contributor {contributor['name']}".encode()
        ).digest()
        point = PrivateKey(secret).public_key.format(compressed=False)[1:]
        assert contributor["address"] == to_checksum_address(keccak(point)[-20:])


def test_page_tells_a_loss_that_fell(name: str) -> None:
    page = (ADAPTERS / name / "README.md").read_text()
    before, after = re.search(r"\| ([\d.]+) before, ([\d.]+) after", page).groups()
    assert float(after) < 0.95 * float(before)


def test_it_is_published_with_its_text_and_what_was_measured(name: str) -> None:
    folder = ADAPTERS / name
    tokens = map_tokens(folder / "attribution.tokens")
    base = BaseIdentity(bytes(32), tokens.tokenizer_hash, bytes(32))
    manifest = load_package(folder, bytes(31) + b"\1", base).manifest
    origin = manifest.made_of
    assert origin is not None
    assert origin.attribution is not None
    assert [one.number for one in origin.datanets] == [1]
    listed = find_listing(manifest, folder, tokens)
    assert len({one.contribution for one in listed}) == len(listed) == 4
    assert sum(one.weight for one in manifest.contributors) == 10_000
    assert sum(file.stat().st_size for file in folder.glob("*.tokens")) <= TEXTS_LIMIT_BYTES
    page = (folder / "README.md").read_text()
    assert f"| λ | {origin.attribution.lambda_eighths}/8 of" in page
    assert f"| r | {figure(*origin.attribution.r_interval, origin.attribution.r_bps)} |" in page
    assert origin.datanets[0].datanet.hex() in page
    assert origin.datanets[0].digest.hex() in page


def test_its_recipe_is_of_its_datanet(name: str) -> None:
    recipe = read_recipe((RECIPES / f"{name}.toml").read_bytes())
    assert recipe.name == name
    said = push_file(name)["datanets"]
    assert [(one.id, one.version) for one in recipe.datanets] == [
        (one["id"], one["version"]) for one in said
    ]


def figure(low: int, high: int, mean: int) -> str:
    """How a page says a figure with its interval; the widest was not measured."""
    if (low, high) == (-10_000, 10_000):
        return "not measured"
    return f"{mean / 10_000:.2f} [{low / 10_000:.2f}, {high / 10_000:.2f}]"
