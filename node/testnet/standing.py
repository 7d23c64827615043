"""Runs `lorikeet testnet up`: a network that stands until somebody ends it.

Decides what the user is told; network.py does the rest.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import trio
from rich.console import Console

from proofs.chain.structs import FeeToken

from .asking import NodeClient
from .faults import plan_faults, run_faults
from .network import Network, open_network
from .plan import GATEWAY, plan_network


async def stand(
    home: Path,
    num_volunteers: int,
    folders: Sequence[Path],
    *,
    keep: bool,
    answer_time_s: int | None,
    fees: FeeToken = "dollars",
    faults_seed: int | None = None,
) -> None:
    """Bring it up, publish, say what to try; then wait to be cancelled, unless it is to be kept.

    With `faults_seed`, the last volunteer is behind a wall, and faults come upon all but the first,
    which publishes.
    """
    console = Console(highlight=False, soft_wrap=True)
    plan = replace(plan_network(home, num_volunteers), fees=fees)
    if answer_time_s is not None:
        plan = replace(plan, answer_time_s=answer_time_s)
    names = [one.name for one in plan.volunteers]
    if faults_seed is not None:
        plan = replace(plan, walled=frozenset(names[-1:]))
    async with open_network(
        plan, lambda name, state: console.print(f"[bold]{name:<12}[/bold] {state}"), keep=keep
    ) as network:
        await network.wait_for_engines()
        published = await publish(network, folders, console)
        console.print(advice(network, published), markup=False)
        if not keep:
            console.print("Ctrl-C ends it.", style="dim")
            if faults_seed is not None:
                planned = plan_faults(names[1:], seed=faults_seed)
                await run_faults(network, planned, Random(faults_seed), network.progress)
            await trio.sleep_forever()
    console.print("It stays up.")


def find_folders(adapters: Path) -> list[Path]:
    """List every adapter folder in there, as absolute paths."""
    return sorted(path.parent for path in adapters.resolve().glob("*/adapter_config.json"))


async def publish(network: Network, folders: Sequence[Path], console: Console) -> list[str]:
    """Push adapter folders to the first volunteer; return their names."""
    names: list[str] = []
    async with NodeClient(network.nodes[network.plan.volunteers[0].name].url) as client:
        for folder in folders:
            info = await client.push(folder)
            console.print(f"[bold]{info.name:<12}[/bold] published as {info.cid}")
            names.append(info.name)
    return names


def advice(network: Network, names: list[str]) -> str:
    """Return what to try, ready to be copied."""
    name = names[0] if names else "base"
    command = own_command()
    home = network.plan.home / GATEWAY
    url = network.client.url
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}]})
    listing = f'openai.OpenAI(base_url="{url}/v1", api_key="-").models.list()'
    return f"""
The network is up. Try:
  {command} run {name} "Tell me about parrots." --home {home}
  {command} status --home {home}
  curl {url}/v1/chat/completions -d '{body}'
  python -c 'import openai; print({listing})'   # pip install openai
End it with:
  {command} testnet down --home {network.plan.home}
"""


def own_command() -> str:
    """Return how this installation's `lorikeet` is called from here."""
    command = Path(sys.executable).with_name("lorikeet")
    if shutil.which("lorikeet") == str(command):
        return "lorikeet"
    return (
        str(command.relative_to(Path.cwd())) if command.is_relative_to(Path.cwd()) else str(command)
    )
