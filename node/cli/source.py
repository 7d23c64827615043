"""Decides where commands that believe nobody take blocks from: some node's HTTP address, or the
network itself by libp2p. Whoever gives a block is not believed either: it is named by its hash.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx
import trio
import typer

from proofs.hextext import from_hex

from ..config import CONFIG_FILE, Config, load_config
from ..running import read_running
from .client import EXIT_USAGE, CliError, find_url

if TYPE_CHECKING:
    from ..money.audit import GetBlock

BLOCK_DEADLINE_S = 60.0
OPEN_DEADLINE_S = 30.0
MAX_BLOCK_BYTES = 1 << 20
P2P = "p2p"

Source = Annotated[
    str,
    typer.Option(
        "--from",
        help="Whose blocks to take: any node's HTTP address, or p2p for whoever has them. Else"
        " this home's daemon's, and p2p where none runs.",
    ),
]


class NoBlock(CliError):
    """A block is not to be had, or not yet."""


@contextmanager
def open_source(home: Path, source: str) -> Iterator[GetBlock]:
    """A way to get blocks: over libp2p for "p2p", else by HTTP."""
    if not source and read_running(home) is None:
        source = P2P
    opened = open_p2p(load_config(home)) if source == P2P else open_http(source or find_url(home))
    with opened as get_block:
        yield get_block


@contextmanager
def open_http(url: str) -> Iterator[GetBlock]:
    """Blocks of one node, by HTTP."""
    mend = "name another node with --from, or the whole network with --from p2p"
    try:
        http = httpx.Client(base_url=url, trust_env=False, timeout=BLOCK_DEADLINE_S)
    except httpx.InvalidURL as error:
        raise CliError(f"--from {url}: {error}", EXIT_USAGE) from error

    def get(digest: bytes) -> bytes:
        try:
            answer = http.get(f"/lorikeet/v1/blocks/{digest.hex()}")
        except httpx.HTTPError as error:
            raise NoBlock(f"{url} gives no blocks ({error}); {mend}") from error
        if answer.status_code != httpx.codes.OK or len(answer.content) > MAX_BLOCK_BYTES:
            status = answer.status_code
            raise NoBlock(f"{url} does not have block {digest.hex()} (status {status}); {mend}")
        return answer.content

    with http:
        yield get


@contextmanager
def open_p2p(config: Config) -> Iterator[GetBlock]:
    """Blocks of whoever has them, over libp2p, as a node that nobody knows. It runs in a thread of
    its own for as long as the block does.
    """
    if not config.bootstrap:
        path = config.home / CONFIG_FILE
        raise CliError(
            f"no peer is known to get blocks from: set bootstrap in {path}, or name a node's HTTP"
            " address with --from",
            EXIT_USAGE,
        )
    peer = _Stranger(config)
    thread = threading.Thread(target=peer.run, daemon=True)
    thread.start()
    try:
        yield peer.wait_open()
    finally:
        peer.close()
        thread.join(OPEN_DEADLINE_S)


class _Stranger:
    """A peer for one command. `run` belongs to its own thread, the rest to the command's."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._open = threading.Event()
        self._error: Exception | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._fetch: Callable[[bytes], Awaitable[bytes]] | None = None

    def run(self) -> None:
        """Be on the network until `close`."""
        try:
            trio.run(self._serve)
        except Exception as error:  # the top of this thread: the command tells of it
            self._error = error
        finally:
            self._open.set()

    async def _serve(self) -> None:
        from p2p.blocks.store import BlockStore
        from p2p.host import NetworkConfig, open_host
        from p2p.identity import Identity

        from ..money.published import Published
        from ..telemetry import Telemetry

        config = self._config
        network = NetworkConfig(
            listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=config.bootstrap, network=config.network
        )
        with tempfile.TemporaryDirectory() as folder, self._scope:
            async with open_host(Identity.generate(), network) as host:
                first = [config.aggregator, *config.witnesses]
                published = Published(
                    host,
                    BlockStore(Path(folder)),
                    from_hex(config.settlement),
                    first,
                    telemetry=Telemetry(),
                )
                self._fetch = published.batch
                self._token = trio.lowlevel.current_trio_token()
                self._open.set()
                await trio.sleep_forever()

    def wait_open(self) -> GetBlock:
        """The way to get blocks, once this peer is on the network."""
        if not self._open.wait(OPEN_DEADLINE_S) or self._token is None:
            raise CliError(f"the network cannot be joined: {self._error or 'it took too long'}")
        return self._get

    def _get(self, digest: bytes) -> bytes:
        from p2p.errors import P2pError

        assert self._token is not None
        assert self._fetch is not None
        try:
            return trio.from_thread.run(self._fetch, digest, trio_token=self._token)
        except P2pError as error:
            raise NoBlock(f"nobody gives block {digest.hex()}: {error}") from error

    def close(self) -> None:
        """Leave the network."""
        if self._token is not None:
            self._token.run_sync_soon(self._scope.cancel)
