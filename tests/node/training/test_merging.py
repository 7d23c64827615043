"""Adapters merged into one by commands, published, asked for, and their parents paid."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import BadRun
from factory.merged import normalised
from node.api.adapters import PushTold
from p2p.cid import Cid
from proofs.attribution.shares import POLICY, shares_for, terms_of
from proofs.manifest import WEIGHT_UNIT, parse_manifest

from ..networks import ask
from ..tiny import make_adapter
from .test_face import command, serving, told

WEIGHTS = "adapter_model.safetensors"


async def test_a_merge_is_published_and_its_parents_creators_and_givers_are_paid(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (daemon, _):
        folders = {
            name: make_adapter(tmp_path / name, name, seed, rank=4)
            for seed, name in enumerate(("law", "verse"))
        }
        (folders["law"] / "lorikeet.toml").write_text(
            'name = "law"\nlicence = "CC0-1.0"\n[[contributors]]\naddress = "0x' + "12" * 20 + '"\n'
        )
        infos = {
            name: await daemon.push(folder, tmp_path / f"{name}.key")
            for name, folder in folders.items()
        }
        law, verse = infos["law"].cid, infos["verse"].cid

        made = await told(tmp_path, "merge", "both", f"{law}:0.7", f"{verse}:0.7")
        assert "sum to 1.4 and are divided by it: 0.5, 0.5" in made["note"]
        assert [one["weight"] for one in made["parents"]] == [0.5, 0.5]
        paid = {(one["role"], one["address"]): one["part"] for one in made["paid"]}
        assert paid["data", "0x" + "12" * 20] == pytest.approx(0.075)
        assert sum(paid.values()) == pytest.approx(0.4)

        folder = Path(made["folder"])
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["lora_alpha"] == config["r"] == 4
        info = await daemon.push(folder, None, PushTold())
        manifest = parse_manifest(await daemon.block(Cid.parse(info.cid).digest.hex()))
        assert manifest.version == 3
        assert {str(Cid(one.digest)) for one in manifest.merged_of} == {law, verse}
        shares = shares_for(POLICY, bytes(20), terms_of(manifest))
        assert bytes([0x12]) * 20 in {share.address for share in shares if share.role == 2}
        assert (await ask(daemon, "hello", model="both")).text

        again = await command(tmp_path, "merge", "both", law, verse)
        assert "is there already" in str(again.exception)
        twice = await command(tmp_path, "merge", "two", law, "law")
        assert twice.exit_code != 0
        same = await command(tmp_path, "merge", "two", law, law)
        assert "are the same adapter" in str(same.exception)
        alone = await command(tmp_path, "merge", "two", law)
        assert "1 adapters were named" in str(alone.exception)
        based = await command(tmp_path, "merge", "two", law, "base")
        assert "is the base" in str(based.exception)
        nested = await command(tmp_path, "merge", "two", law, info.cid)
        assert "merged of others itself" in str(nested.exception)
        unknown = await command(tmp_path, "merge", "two", law, verse, "--method", "slerp")
        assert "dare_linear" in str(unknown.exception)
        nothing = await command(tmp_path, "merge", "two", f"{law}:1", f"{verse}:-1")
        assert "they are divided by their sum" in str(nothing.exception)
        wide = make_adapter(tmp_path / "wide", "wide", 3, rank=8)
        other = await daemon.push(wide)
        ranks = await command(tmp_path, "merge", "two", law, other.cid)
        assert "needs one rank for all" in str(ranks.exception)

        made_by = {}
        for name, method in (("a", "ties"), ("b", "dare_linear"), ("c", "dare_ties")):
            done = await told(tmp_path, "merge", name, law, verse, "--method", method)
            made_by[method] = sha256((Path(done["folder"]) / WEIGHTS).read_bytes()).digest()
        assert len(set(made_by.values())) == 3
        once_more = await told(tmp_path, "merge", "d", law, verse, "--method", "dare_ties")
        data = (Path(once_more["folder"]) / WEIGHTS).read_bytes()
        assert sha256(data).digest() == made_by["dare_ties"]


@given(st.lists(st.floats(0.5, 100), min_size=2, max_size=8))
def test_weights_are_divided_by_their_sum(weights: list[float]) -> None:
    parts = normalised(weights)
    assert sum(parts) == WEIGHT_UNIT
    total = sum(weights)
    for weight, part in zip(weights, parts, strict=True):
        assert abs(part - WEIGHT_UNIT * weight / total) <= len(weights)


@pytest.mark.parametrize(
    "weights", [(0.0, 0.0), (1.0, -1.0), (1.0, 0.0), (1.0, float("nan")), (3.0, -2.0)]
)
def test_weights_that_make_no_whole_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(BadRun):
        normalised(weights)
