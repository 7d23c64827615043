"""What every step works with: the running network, a client of each node, and somebody who only
watches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from node.api.adapters import AdapterInfo
from node.testnet.asking import Asking, NodeClient
from node.testnet.network import Network
from node.testnet.plan import BOOTSTRAP, GATEWAY, NETWORK
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.peers import PeerAddress
from proofs.chain.client import ChainClient
from proofs.chain.governance import Governance
from proofs.hextext import from_hex
from proofs.manifest import Manifest

from .record import Record, require
from .stage import Stage

CONNECT_DEADLINE_S = 10.0


@dataclass
class Scene:
    """The stage and everybody on it."""

    network: Network
    stage: Stage
    record: Record
    nodes: dict[str, NodeClient]
    # a peer of our own, to look into the DHT and to fetch what is published, trusting no node's
    # word
    watcher: Host
    chain: ChainClient
    store: BlockStore  # what the watcher fetched
    published: dict[str, AdapterInfo] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    mixed: dict[str, str] = field(default_factory=dict)  # cocktails that answered, by CID

    @property
    def governance(self) -> Governance:
        """What the network's people decide at."""
        assert self.network.chain is not None
        return self.chain.open_governance(from_hex(self.network.chain.governor))

    @property
    def client(self) -> NodeClient:
        """The gateway."""
        return self.nodes[GATEWAY]

    @property
    def holders(self) -> list[PeerAddress]:
        """Where to get what was published with an epoch: whoever runs and keeps a copy."""
        return [
            PeerAddress(node.peer_id, tuple(node.running.p2p))
            for name, node in self.network.nodes.items()
            if name != BOOTSTRAP and node.child.is_running
        ]

    def peer_id(self, name: str) -> str:
        """A node's identity."""
        return self.network.nodes[name].peer_id

    def name_of(self, peer_id: str) -> str:
        """A node's name in this play."""
        return next(
            (name for name, node in self.network.nodes.items() if node.peer_id == peer_id),
            peer_id[-8:],
        )

    def adapter_of(self, key: str) -> str:
        """The adapter's name behind a CID, its digest in hex, or "base"."""
        known = {info.cid: name for name, info in self.published.items()} | self.mixed
        return next(
            (name for cid, name in known.items() if key in (cid, digest_of(cid))),
            "base" if key in ("base", "") else key,
        )

    def note(self, answer: Asking) -> None:
        """Keep an answer for the record; it must be one."""
        facts = answer.facts
        require(answer.text.strip(), f"the answer of {answer.model} has text")
        require(facts.get("receipt"), f"the answer of {answer.model} left a receipt")
        if facts.get("parents"):
            self.mixed[facts["cid"]] = answer.model
        self.record.answers.append(
            {
                "adapter": answer.model,
                "cid": facts["cid"],
                "prompt": answer.prompt,
                "text": answer.text,
                "tokens": answer.tokens,
                "served_by": facts["served_by"],
                "receipt": facts["receipt"],
            }
        )


def digest_of(cid: str) -> str:
    """The digest in a CID, as hex."""
    return Cid.parse(cid).digest.hex()


@asynccontextmanager
async def open_scene(network: Network, stage: Stage, record: Record) -> AsyncIterator[Scene]:
    """Clients and watcher for the length of the demo."""
    async with AsyncExitStack() as stack:
        nodes = {
            name: await stack.enter_async_context(NodeClient(node.url))
            for name, node in network.nodes.items()
        }
        bootstrap = network.nodes[BOOTSTRAP].running.p2p[0]
        watcher = await stack.enter_async_context(
            open_host(Identity.generate(), NetworkConfig(bootstrap=(bootstrap,), network=NETWORK))
        )
        await watcher.connect(bootstrap, CONNECT_DEADLINE_S)
        chain = network.chain
        assert chain is not None
        yield Scene(
            network,
            stage,
            record,
            nodes,
            watcher=watcher,
            chain=chain.client(chain.secrets()[0]),
            store=BlockStore(network.plan.home / "watcher"),
        )


def folders_of(root: Path, names: Sequence[str]) -> dict[str, Path]:
    """The adapters' folders; all must be there."""
    folders = {name: root / name for name in names}
    missing = [
        str(folder)
        for folder in folders.values()
        if not (folder / "adapter_model.safetensors").is_file()
    ]
    require(
        not missing,
        f"trained adapters are in {', '.join(missing) or root} (python -m benchmarks.adapters"
        " makes them)",
    )
    return folders
