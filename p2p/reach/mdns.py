"""Finds hosts on the local network by multicast DNS, as libp2p's mDNS page has it.

Says where we listen in TXT records `dnsaddr=…/p2p/PEERID`, and hands on whom it hears of. The
library's own says 0.0.0.0 to all, and its findings go nowhere. Connects to nobody.
"""

from __future__ import annotations

import logging
import secrets
import string
from collections.abc import Callable
from contextlib import suppress

import trio
import zeroconf

from ..addresses import split_peer
from ..dialling import Realm, ip_of, is_circuit, realm_of
from ..errors import InvalidInput
from ..peers import PeerAddress

SERVICE = "_p2p._udp.local."
NAME_CHARS = 40
MAX_ADDRESSES = 8
MAX_WAITING = 32  # findings that nobody has taken yet; more are dropped and come again
INFO_TIMEOUT_MS = 3000
SAY_AGAIN_S = 30.0

logger = logging.getLogger(__name__)


class Neighbours:
    """Who else is on the local network. `run` speaks and listens until cancelled."""

    def __init__(self, peer_id: str, addresses: Callable[[], list[str]]) -> None:
        self._peer_id = peer_id
        self._addresses = addresses
        letters = string.ascii_lowercase + string.digits
        self._name = "".join(secrets.choice(letters) for _ in range(NAME_CHARS))
        self._send, self.found = trio.open_memory_channel[PeerAddress](MAX_WAITING)

    async def run(self) -> None:
        """Announce ourselves and hear of others. A machine without multicast is only logged."""
        token = trio.lowlevel.current_trio_token()
        try:
            speaker = await trio.to_thread.run_sync(zeroconf.Zeroconf)
        except OSError as error:
            logger.warning("mDNS does not work here: %s", error)
            return
        try:
            browser = zeroconf.ServiceBrowser(speaker, SERVICE, handlers=[self._handler(token)])
            await self._keep_announced(speaker)
            browser.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 3.0):
                await trio.to_thread.run_sync(speaker.close)

    async def _keep_announced(self, speaker: zeroconf.Zeroconf) -> None:
        said: list[str] = []
        while True:
            now = [one for one in self._addresses() if is_for_neighbours(one)][:MAX_ADDRESSES]
            if now != said and now:
                info = self._service(now)
                await trio.to_thread.run_sync(
                    speaker.update_service if said else speaker.register_service, info
                )
                said = now
            await trio.sleep(SAY_AGAIN_S if said else 1.0)

    def _service(self, addresses: list[str]) -> zeroconf.ServiceInfo:
        properties = {f"dnsaddr{number or ''}": address for number, address in enumerate(addresses)}
        return zeroconf.ServiceInfo(
            SERVICE,
            f"{self._name}.{SERVICE}",
            port=4001,
            properties=properties,
            server=f"{self._name}.local.",
            parsed_addresses=[ip for ip in map(ip_of, addresses) if ip],
        )

    def _handler(self, token: trio.lowlevel.TrioToken) -> Callable[..., None]:
        def heard(
            zeroconf: zeroconf.Zeroconf,
            service_type: str,
            name: str,
            state_change: zeroconf.ServiceStateChange,
        ) -> None:
            """Runs in the browser's own thread, which may wait."""
            if state_change.name == "Removed" or name.startswith(self._name):
                return
            info = zeroconf.get_service_info(service_type, name, timeout=INFO_TIMEOUT_MS)
            peer = None if info is None else read_neighbour(info.properties)
            if peer is not None and peer.peer_id != self._peer_id:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(self._hand_on, peer)

        return heard

    def _hand_on(self, peer: PeerAddress) -> None:
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(peer)


def is_for_neighbours(address: str) -> bool:
    """Return whether an address is worth saying on the local network."""
    return not is_circuit(address) and realm_of(address) > Realm.LOOPBACK and bool(ip_of(address))


def read_neighbour(properties: dict[bytes, bytes | None]) -> PeerAddress | None:
    """Read a service's TXT records; None if they name no peer of our kind of key."""
    found: dict[str, list[str]] = {}
    for key, value in list(properties.items())[: 4 * MAX_ADDRESSES]:
        if not key.startswith(b"dnsaddr") or value is None:
            continue
        address = value.decode(errors="replace")
        try:
            peer_id, _ = split_peer(address)
        except InvalidInput:
            continue
        if is_for_neighbours(address):
            found.setdefault(peer_id, []).append(address)
    for peer_id, addresses in found.items():
        return PeerAddress(peer_id, tuple(addresses[:MAX_ADDRESSES]))
    return None
