"""`lorikeet stake` and `lorikeet slash` on a chain of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from node.cli import stake
from node.cli.client import CliError
from node.config import CONFIG_FILE, Config, dump_config
from node.testnet.deciding import pass_time
from p2p.identity import write_private
from proofs.chain.deploy import DEVELOPMENT_STAKE
from proofs.chain.devchain import DevChain
from proofs.chain.rpc import Rpc
from proofs.codec import encode
from proofs.evidence import show_two_receipts
from proofs.hextext import to_hex
from proofs.signing import Signer
from proofs.stake import LORI
from proofs.voucher import ChannelConfig, operator_salt
from tests.proofs.chain.forks import sign_twice
from tests.proofs.scene import signer

slasher = typer.Typer()
slasher.command()(stake.slash)


def make_home(chain: DevChain, home: Path, secret: bytes, **settings: object) -> Path:
    """A home with this key, and another.key of somebody else's."""
    config = Config(
        home,
        chain_rpc=(chain.rpc,),
        settlement=chain.settlement,
        channels=chain.channels,
        token=chain.token,
        **settings,
    )
    home.mkdir(exist_ok=True)
    (home / CONFIG_FILE).write_text(dump_config(config))
    write_private(home / "key", secret.hex() + "\n")
    write_private(home / "another.key", chain.secrets()[1].hex() + "\n")
    return home


def run(home: Path, *words: str, app: typer.Typer = stake.app) -> Any:
    """What a command says in JSON; CliError as the command raises it."""
    done = CliRunner().invoke(app, [*words, "--home", str(home), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_stake_is_put_thawed_and_lost(chain: DevChain, tmp_path: Path) -> None:
    node = signer("a node")  # whose key has nothing: others stand behind it
    home = make_home(chain, tmp_path, chain.secrets()[0], stake=chain.stake)
    own = Signer(chain.secrets()[0]).address
    assert run(home, "show")["counted"] == "0"
    assert run(home, "add", "250")["own"] == str(250 * LORI)
    told = run(home, "show")
    assert (told["operator"], told["answers"]) == (to_hex(own), 2)
    behind = to_hex(node.address)
    run(home, "delegate", behind, "100.5")
    other = ("--key", str(home / "another.key"))
    run(home, "delegate", behind, "99.5", *other)

    thawing = run(home, "thaw", "50.25", "--operator", behind)
    assert (thawing["own"], thawing["own_thawing"]) == (str(50_250 * LORI // 1000),) * 2
    with pytest.raises(CliError, match="not 51"):
        run(home, "thaw", "51", "--operator", behind)
    with pytest.raises(CliError, match="cannot be taken yet"):
        run(home, "withdraw", "--operator", behind)

    evidence = home / "pair.evidence"
    evidence.write_bytes(two_receipts(chain))
    told = run(home, str(evidence), *other, app=slasher)
    lost = DEVELOPMENT_STAKE.lost(150 * LORI - 250 * LORI // 1000, 50_250 * LORI // 1000)
    assert told["culprit"] == behind
    assert int(told["bounty"]) == DEVELOPMENT_STAKE.bounty(lost)
    with pytest.raises(CliError, match="SlashedBefore"):
        run(home, str(evidence), app=slasher)

    rpc = Rpc(chain.rpc)
    pass_time(rpc, thawing["ready_at"])
    rpc.close()
    assert run(home, "withdraw", "--operator", behind)["own_thawing"] == "0"
    assert run(home, "show", "--operator", behind)["own"] == str(50_250 * LORI // 2000)


def test_what_cannot_be_done_is_told_with_its_mend(chain: DevChain, tmp_path: Path) -> None:
    home = make_home(chain, tmp_path / "without", chain.secrets()[2])
    with pytest.raises(CliError, match="set stake in"):
        run(home, "show")
    home = make_home(chain, tmp_path / "with", chain.secrets()[2], stake=chain.stake)
    for odd in ("nothing", "0", "1e-19", "nan", "inf"):
        with pytest.raises(CliError, match="is no amount"):
            run(home, "add", odd)
    with pytest.raises(CliError, match="name a file of evidence"):
        run(home, app=slasher)
    (home / "odd.evidence").write_bytes(b"\x90")
    with pytest.raises(CliError, match="evidence schema"):
        run(home, str(home / "odd.evidence"), app=slasher)
    with pytest.raises(CliError, match="NoOffence"):
        run(home, "--term", "1", app=slasher)


def two_receipts(chain: DevChain) -> bytes:
    """What a node signed twice, in its channel with somebody."""
    network = chain.deployment.network
    node, payer = signer("a node").address, signer("payer").address
    salt = operator_salt(node, bytes(12))
    config = ChannelConfig(payer, payer, network.settlement, node, network.token, 900, salt)
    receipts = sign_twice(config, network, "a node")
    return encode(show_two_receipts(config, *receipts, network))
