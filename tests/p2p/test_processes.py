"""What only real processes show: a provider killed in the middle of a fetch, a fetcher that starts
again, a quick end on SIGTERM.
"""

import subprocess
import time
from contextlib import contextmanager

import trio

from p2p.blocks import BlockStore, fetch_blocks
from p2p.peers import PeerAddress
from tests.node.forked import forked_python

from .helpers import eventually, open_hosts
from .test_block_fetch import fill


@contextmanager
def provider(folder, *bootstrap):
    """A running provider process and its address."""
    process = subprocess.Popen(
        [forked_python(), "-m", "tests.p2p.provider", str(folder), *bootstrap],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with process.stdout:
            word, address = process.stdout.readline().split()
            assert word == "ready"
            yield process, PeerAddress(address.rpartition("/")[2], (address,))
    finally:
        process.kill()
        process.wait()


async def test_a_provider_killed_in_mid_fetch_is_replaced_and_a_restarted_fetcher_goes_on(
    tmp_path,
):
    source = BlockStore(tmp_path / "source")
    sink = BlockStore(tmp_path / "sink")
    refs = fill(source, 60)
    with (
        provider(tmp_path / "source") as (_, first),
        provider(tmp_path / "source") as (victim, second),
    ):
        async with open_hosts(1) as (host,):
            num_kept = 0
            fetching = trio.CancelScope()

            def on_event(event):
                nonlocal num_kept
                num_kept += event.kind == "kept"
                if event.kind == "kept" and event.peer_id == second.peer_id and num_kept > 10:
                    victim.kill()
                if num_kept == 40:
                    fetching.cancel()

            with fetching:
                await fetch_blocks(
                    host, sink, refs, [first, second], deadline_s=60, on_event=on_event
                )
            assert fetching.cancelled_caught
        async with open_hosts(1) as (restarted,):
            num_before = len(sink.list())
            report = await fetch_blocks(
                restarted, BlockStore(tmp_path / "sink"), refs, [first, second], deadline_s=60
            )
    assert victim.returncode == -9
    assert num_before >= 40
    assert report.num_resumed == num_before
    assert report.blocks_by_peer == {first.peer_id: len(refs) - num_before}
    assert sink.list() == source.list()


async def test_a_node_ends_within_seconds_of_sigterm_with_peers_connected_and_they_notice(tmp_path):
    async with open_hosts(3) as hosts:
        with provider(tmp_path, hosts[0].addresses[0]) as (process, address):
            for host in hosts[1:]:
                await host.connect_to(address, 60)
            started = time.monotonic()
            process.terminate()
            await trio.to_thread.run_sync(process.wait)
            assert time.monotonic() - started < 60
            assert process.returncode == 0
            await eventually(lambda: not any(host.is_connected(address.peer_id) for host in hosts))
