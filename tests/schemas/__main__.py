"""Asks schemathesis what it finds in `/openapi.json` of a real daemon that has earned a receipt."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from tests.node.faces import shown
from tests.node.networks import ask, open_lab
from tests.node.tiny import make_adapter

HOOKS = Path(__file__).with_name("hooks.py")
# A refusal of what a body says, which no schema can, is 400 here, as the docs tell; hooks.py sees
# to it that its form is no reason.
CONFIG = """\
[generation]
allow-x00 = true
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "402", "403", "404", "503"]
[parameters]
digest = {digest}
# 404 there is for what the body names; the datanet of the path may well be here.
[[operations]]
include-path-regex = "/datanets/[^/]+/(judge|withdraw|appoint)$"
checks.ensure_resource_availability.enabled = false
"""


async def find_out(folder: Path, program: Path, arguments: Sequence[str]) -> int:
    """Run schemathesis against a daemon; return its exit status."""
    with open_lab(folder, chain_for=("node", "client", "aggregator")) as lab:
        async with (
            lab.daemon("node") as node,
            lab.daemon("client", role="gateway") as client,
            shown(node, folder / "node") as url,
        ):
            law = await node.push(make_adapter(folder / "law", "law", 1))
            paid = await ask(client, model=law.cid, node=node.host.peer_id)
            receipt = paid.ended.receipt
            assert receipt is not None, "an answer between nodes is paid"
            config = folder / "schemathesis.toml"
            config.write_text(CONFIG.format(digest=f'"{receipt}"'))
            command = [program, f"--config-file={config}", "run", f"{url}/openapi.json", *arguments]
            environment = {**_without_ours(os.environ), "SCHEMATHESIS_HOOKS": str(HOOKS)}
            done = await trio.run_process(
                command, check=False, cwd=folder, env=environment, stdin=subprocess.DEVNULL
            )
            return done.returncode


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


def main() -> int:
    """Do what the options say; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/schemathesis", description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="schemathesis itself")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        return trio.run(find_out, Path(folder), options.program.absolute(), arguments)


if __name__ == "__main__":
    sys.exit(main())
