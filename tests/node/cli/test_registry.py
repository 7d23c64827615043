"""`lorikeet registry` on a chain of its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from typer.testing import CliRunner

from node.cli import registry
from node.cli.client import CliError
from node.cli.registry import EXIT_UNREGISTERED
from node.config import CONFIG_FILE, Config, dump_config
from node.money.registering import ChainRegistry
from p2p.identity import write_private
from proofs.chain.devchain import DevChain
from proofs.hextext import from_hex, to_hex
from proofs.signing import Signer
from proofs.weights import WeightsDigest
from tests.node.catalogue.peft_folders import make_tensors, write_folder

PARENT = WeightsDigest(b"\1" * 32, b"\2" * 32)


@pytest.fixture
def home(chain: DevChain, tmp_path: Path) -> Path:
    """A home whose own key is nobody's, and maker.key."""
    config = Config(
        tmp_path,
        chain_rpc=(chain.rpc,),
        settlement=chain.settlement,
        channels=chain.channels,
        token=chain.token,
        registry=chain.registry,
    )
    (tmp_path / CONFIG_FILE).write_text(dump_config(config))
    write_private(tmp_path / "key", chain.secrets()[0].hex() + "\n")
    write_private(tmp_path / "maker.key", chain.secrets()[1].hex() + "\n")
    return tmp_path


def run(home: Path, *words: str, status: int = 0) -> Any:
    """What a command says in JSON; CliError as the command raises it."""
    done = CliRunner().invoke(registry.app, [*words, "--home", str(home), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def register(chain: DevChain, weights: WeightsDigest, royalty_bps: int, *parents: bytes) -> None:
    """Register weights to the maker."""
    client = chain.client(chain.secrets()[1])
    own = ChainRegistry(client.open_registry(from_hex(chain.registry)))
    maker = Signer(chain.secrets()[1])
    trio.run(
        partial(own.register, maker, weights, bytes(32), royalty_bps=royalty_bps, parents=parents)
    )
    client.close()


def test_whose_weights_are_what_they_were_made_of_and_handing_them_on(
    chain: DevChain, home: Path
) -> None:
    write_folder(home / "law", make_tensors(1))
    told = run(home, "show", str(home / "law"), status=EXIT_UNREGISTERED)
    assert told["registered"] is False
    weights = registry.weigh_folder(home / "law")
    register(chain, PARENT, 1_250)
    register(chain, weights, 0, PARENT.brain)

    maker = to_hex(Signer(chain.secrets()[1]).address)
    told = run(home, "show", str(home / "law"))
    assert (told["creator"], told["owner"], told["royalty_bps"]) == (maker, maker, 0)
    assert told["first_block"] > 0
    [parent] = told["parents"]
    assert (parent["weights"], parent["royalty_bps"]) == (to_hex(PARENT.brain), 1_250)
    assert run(home, "show", weights.half.hex()) == told | {"weights": to_hex(weights.half)}

    buyer = to_hex(Signer(chain.secrets()[2]).address)
    with pytest.raises(CliError, match="name the owner's with --key"):
        run(home, "hand-on", weights.brain.hex(), buyer)
    key = ("--key", str(home / "maker.key"))
    done = run(home, "hand-on", weights.half.hex(), buyer, *key)
    assert (done["from"], done["owner"]) == (maker, buyer)
    told = run(home, "show", "0x" + weights.brain.hex())
    assert (told["creator"], told["owner"]) == (maker, buyer)
    run(home, "hand-on", "77" * 32, buyer, *key, status=EXIT_UNREGISTERED)


def test_without_a_registry_it_says_what_to_set(home: Path) -> None:
    text = (home / CONFIG_FILE).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("registry")]
    (home / CONFIG_FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(CliError, match="set registry in"):
        run(home, "show", "11" * 32)
