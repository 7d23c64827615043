"""`lorikeet registry` about disputes: real contracts on a chain whose clock the test has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from node.cli import registry
from node.cli.client import CliError
from node.cli.registry import EXIT_UNREGISTERED
from node.config import CONFIG_FILE, Config, dump_config
from p2p.identity import write_private
from proofs.chain.deploy import deploy_registry, placed_code
from proofs.chain.devchain import CHAIN_ID, FUND_WEI
from proofs.chain.evm import MemoryChain
from proofs.chain.rpc import Rpc
from proofs.chain.serve import serve_rpc
from proofs.hextext import to_hex
from tests.proofs.chain.disputable import DELAY_S, RULES, WEIGHTS, Disputable
from tests.proofs.chain.world import NAMES, START, address, deploy_world, secret


class Commands:
    """A home whose configuration names a registry, and what is called there."""

    def __init__(self, home: Path, scene: Disputable, at: bytes) -> None:
        self._home = home
        deployed = scene.world.deployment
        config = Config(
            home,
            chain_rpc=(scene.world.rpc.url,),
            settlement=to_hex(deployed.settlement),
            channels=to_hex(deployed.channels),
            token=to_hex(deployed.token),
            registry=to_hex(at),
        )
        (home / CONFIG_FILE).write_text(dump_config(config))
        write_private(home / "key", secret("payer").hex() + "\n")
        for name in ("other", "operator"):
            write_private(home / f"{name}.key", secret(name).hex() + "\n")

    def run(self, *words: str, by: str = "", status: int = 0) -> Any:
        """What a command says in JSON; CliError as the command raises it."""
        key = ("--key", str(self._home / f"{by}.key")) if by else ()
        told = CliRunner().invoke(registry.app, [*words, *key, "--home", str(self._home), "--json"])
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        assert told.exit_code == status, told.output
        return json.loads(told.stdout)


@pytest.fixture(scope="module")
def scene() -> Iterator[Disputable]:
    balances = dict.fromkeys([address("deployer"), *map(address, NAMES)], FUND_WEI)
    chain = MemoryChain(CHAIN_ID, placed_code(), balances, clock=lambda: START)
    with serve_rpc(chain) as url:
        opened = Disputable(deploy_world(Rpc(url), ()))
        yield opened
        opened.world.rpc.close()


def test_what_is_disputed_is_shown_answered_closed_and_lapses(
    scene: Disputable, tmp_path: Path
) -> None:
    run = Commands(tmp_path, scene, scene.registry).run
    digest = WEIGHTS.half.hex()
    by, maker = to_hex(address("payer")), to_hex(address("other"))
    with pytest.raises(CliError, match="are this key's already"):
        run("dispute", digest, by="other")
    run("dispute", "77" * 32, status=EXIT_UNREGISTERED)
    with pytest.raises(CliError, match=r"has 0\.00 LORI: send it 100\.00 LORI, or name"):
        run("dispute", digest, by="operator")

    assert run("show", digest)["disputes"] == []
    first, second = run("dispute", digest), run("dispute", digest)
    assert (first["number"], second["number"]) == (1, 2)
    assert (first["challenger"], first["state"], first["respondent"]) == (by, "open", None)
    assert first["bond"] == str(RULES.bond)
    first.pop("transaction"), second.pop("transaction")
    assert run("show", digest)["disputes"] == [first, second]
    with pytest.raises(CliError, match=r"it may be answered until .*; close it afterwards"):
        run("close", "1")
    with pytest.raises(CliError, match="ends by lorikeet registry close"):
        run("lapse", "1")

    answered = run("answer", "1", by="other")
    assert (answered["state"], answered["respondent"]) == ("answered", maker)
    with pytest.raises(CliError, match="afterwards lorikeet registry lapse"):
        run("close", "1")
    with pytest.raises(CliError, match="a vote may decide it until"):
        run("lapse", "1")
    scene.world.wait(RULES.judge_time)
    assert run("lapse", "1")["state"] == "closed"
    told = run("show", digest)
    assert (told["owner"], told["disputes"]) == (maker, [second]), "nobody decided the first"

    with pytest.raises(CliError, match=r"the time to answer was over .* registry close"):
        run("answer", "2", by="other")
    assert run("close", "2")["state"] == "closed"
    told = run("show", digest)
    assert (told["owner"], told["disputes"]) == (by, [])
    with pytest.raises(CliError, match="is closed: there is nothing left"):
        run("close", "2")
    with pytest.raises(CliError, match="there is no dispute 99: there were 2"):
        run("answer", "99")


def test_a_registry_without_disputes_says_so(scene: Disputable, tmp_path: Path) -> None:
    at = deploy_registry(scene.world.client("deployer").wallet, delay_s=DELAY_S, window_s=10)
    scene.register(at)
    run = Commands(tmp_path, scene, at).run
    assert run("show", WEIGHTS.brain.hex())["disputes"] == []
    with pytest.raises(CliError, match="it names no contract of disputes; set registry"):
        run("dispute", WEIGHTS.brain.hex())
    with pytest.raises(CliError, match="names no contract of disputes"):
        run("answer", "1")
