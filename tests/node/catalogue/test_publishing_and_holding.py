"""An adapter's way: published by one node, found by name, fetched and served by another, refused
when it does not fit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from engine.messages import MAX_ADAPTER_CONFIG_BYTES
from node.catalogue.packaging import BaseIdentity, load_package, read_calibration
from node.errors import AdapterError, NodeRefused, UnknownModel, WrongBase
from p2p.cid import Cid
from tests.node.networks import ask, open_lab
from tests.node.tiny import make_adapter, make_base


async def test_an_adapter_is_published_found_by_name_fetched_and_served_by_others(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        creator_id = lab.identity("creator").peer_id
        async with (
            lab.daemon("creator") as creator,
            lab.daemon("empty", publishers=(creator_id,)) as empty,
        ):
            law = await creator.push(make_adapter(tmp_path / "law", "law", 1, padding_rank=1024))
            calibrated = make_adapter(tmp_path / "verse", "verse", 2)
            (calibrated / "verification.json").write_text('{"kernels": ["amx"], "across": []}')
            verse = await creator.push(calibrated)
            assert law.creator == creator_id
            assert law.size_bytes > 3 * 256 * 1024
            async with lab.daemon("gateway", role="gateway", publishers=(creator_id,)) as gateway:
                texts = {
                    model: await ask(gateway, model=model)
                    for model in ("base", "law", f"{creator_id}/verse", verse.cid)
                }
                assert len({answered.text for answered in texts.values()}) == 3
                assert texts[verse.cid].token_ids == texts[f"{creator_id}/verse"].token_ids
                assert texts["law"].started.cid == law.cid

                fetched = await ask(gateway, model="law", node=empty.host.peer_id)
                assert fetched.token_ids == texts["law"].token_ids
                assert {
                    "lookup",
                    "fetch",
                    "verify",
                    "load",
                    "prefill",
                    "first_token",
                } <= fetched.ended.timings_ms.keys()
                providers = await gateway.host.dht.find_providers(Cid.parse(law.cid))
                assert {peer.peer_id for peer in providers} == {creator_id, empty.host.peer_id}

                report = await empty.pull("verse")
                assert sum(report.blocks_by_peer.values()) == 3
                [limits] = lab.config("empty").home.rglob("verification.json")
                assert read_calibration(limits).kernels == ("amx",)
                with trio.fail_after(60), pytest.raises(UnknownModel, match="did you mean law"):
                    await ask(gateway, model="lax")
                with trio.fail_after(60), pytest.raises(UnknownModel):
                    await ask(gateway, model="no such name!")
            again = {info.name: (info.state, info.providers) for info in await empty.adapters()}
            assert again == {"law": ("ready", 2), "verse": ("ready", 2)}
        async with lab.daemon("empty") as empty:
            # its publisher is gone; the blocks are here
            assert (await ask(empty, model=law.cid)).token_ids == fetched.token_ids
            assert empty.telemetry.counters["adapters_pulled"] > 0


@pytest.mark.parametrize(
    "text", ["", "{}", '{"cap": -1, "mean": 0, "variance": 0, "one_in": 2}', " " * 5000]
)
def test_senseless_thresholds_are_refused_before_an_adapter_is_signed(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "verification.json").write_text(text)
    with pytest.raises(AdapterError, match=r"verification\.json"):
        read_calibration(tmp_path / "verification.json")


def test_nothing_is_published_that_the_engine_would_not_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(b" " * (MAX_ADAPTER_CONFIG_BYTES + 1))
    with pytest.raises(AdapterError, match=f"the limit is {MAX_ADAPTER_CONFIG_BYTES}"):
        load_package(tmp_path, bytes(31) + b"\1", BaseIdentity(bytes(32), bytes(32), bytes(32)))


async def test_an_adapter_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        make_base(tmp_path / "other base", seed=7)
        async with (
            lab.daemon("creator", base_path=str(tmp_path / "other base")) as creator,
            lab.daemon("node") as node,
        ):
            alien = await creator.push(make_adapter(tmp_path / "alien", "alien", 1))
            with pytest.raises(WrongBase, match="alien"):
                await node.pull(alien.cid)
            with pytest.raises(AdapterError, match="surprise"):
                await node.push(
                    make_adapter(
                        tmp_path / "strange",
                        "strange",
                        1,
                        extra="base_model.model.surprise.lora_A.weight",
                    )
                )
            with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
                (tmp_path / "empty").mkdir()
                (tmp_path / "empty" / "adapter_config.json").write_text("{}")
                await node.push(tmp_path / "empty")
            with pytest.raises(NodeRefused) as refused:
                await ask(node, model="base", node=creator.host.peer_id)
            assert refused.value.code == "wrong_base"
