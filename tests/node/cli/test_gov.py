"""`lorikeet gov` on a chain of its own, from a text to a version."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from node.cli import gov
from node.cli.client import CliError
from node.config import CONFIG_FILE, Config, dump_config
from node.testnet.deciding import pass_time
from p2p.identity import write_private
from proofs.chain.devchain import DevChain, known_secret
from proofs.chain.rpc import Rpc

TEXT = "# Raise the floor\n\nGrounds.\n\n```parameters\nprices.prompt-floor = 5\n```\n"


@pytest.fixture
def home(chain: DevChain, tmp_path: Path) -> Path:
    """A home whose own key has gas and no vote; deployer.key has all of them."""
    config = Config(
        tmp_path,
        chain_rpc=(chain.rpc,),
        settlement=chain.settlement,
        channels=chain.channels,
        token=chain.token,
        governor=chain.governor,
    )
    (tmp_path / CONFIG_FILE).write_text(dump_config(config))
    write_private(tmp_path / "key", chain.secrets()[0].hex() + "\n")
    write_private(tmp_path / "deployer.key", known_secret("deployer").hex() + "\n")
    (tmp_path / "text.md").write_text(TEXT)
    return tmp_path


def run(home: Path, *words: str) -> Any:
    """What a command says in JSON; CliError as the command raises it."""
    done = CliRunner().invoke(gov.app, [*words, "--home", str(home), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_text_becomes_a_version(chain: DevChain, home: Path) -> None:
    text, key = str(home / "text.md"), ("--key", str(home / "deployer.key"))
    with pytest.raises(CliError, match="has 0 votes"):
        run(home, "propose", text)
    report = home / "report.json"
    report.write_text(json.dumps({"changes": {"prices.prompt-floor": "6"}}))
    with pytest.raises(CliError, match="other changes"):
        run(home, "propose", text, "--report", str(report), *key)
    report.write_text(json.dumps({"changes": {"prices.prompt-floor": "5"}}))
    number = run(home, "propose", text, "--report", str(report), *key)["number"]
    (listed,) = run(home, "list")
    assert listed["number"] == number
    assert listed["title"] == "Raise the floor"
    assert listed["changes"] == {"prices.prompt-floor": "5"}
    assert listed["simulation"] == hashlib.sha256(report.read_bytes()).hexdigest()
    with pytest.raises(CliError, match="no epoch"):
        run(home, "simulate", number[:12], "--from", "http://127.0.0.1:1")

    with pytest.raises(CliError, match="GovernorUnexpectedProposalState"):
        run(home, "queue", number)  # however long this took: nobody voted

    rpc = Rpc(chain.rpc)
    pass_time(rpc, listed["votes_from"])
    with pytest.raises(CliError, match="had no votes"):
        run(home, "vote", number[:12], "for")
    with pytest.raises(CliError, match="no vote"):
        run(home, "vote", number, "perhaps", *key)
    assert int(run(home, "vote", number[-12:], "for", "--reason", "it is fair", *key)["for"]) > 0
    pass_time(rpc, listed["votes_until"])
    due_at = run(home, "queue", number)["executable_from"]
    pass_time(rpc, due_at)
    assert run(home, "execute", number)["state"] == "executed"
    told = run(home, "parameters")
    (floor,) = [one for one in told["parameters"] if one["name"] == "prices.prompt-floor"]
    assert (told["version"], told["newest"]) == (1, 2), "the epoch is not over yet"
    assert (floor["value"], floor["next"]) == ("0", "5")
    assert run(home, "show", number)["text"].startswith(TEXT.rstrip())
    rpc.close()


def test_what_cannot_be_done_says_why(home: Path) -> None:
    with pytest.raises(CliError, match="lorikeet gov list"):
        run(home, "show", "999999")
    with pytest.raises(CliError, match="NotGuardian"):
        run(home, "pause", "5")
    (home / "text.md").write_text("# A title\n")
    with pytest.raises(CliError, match="```parameters"):
        run(home, "propose", str(home / "text.md"))
    with pytest.raises(CliError, match="no epoch"):
        (home / "text.md").write_text(TEXT)
        run(home, "simulate", str(home / "text.md"), "--from", "http://127.0.0.1:1")
    with pytest.raises(CliError, match="lorikeet gov list"):
        run(home, "simulate", str(home / "nothing.md"))
    (home / CONFIG_FILE).write_text("")
    with pytest.raises(CliError, match="no governor is configured"):
        run(home, "list")
