"""Keeps a certificate that another program renews: a connection sees the one on the disk now."""

from __future__ import annotations

import ssl
from pathlib import Path


class Certificate:
    """A PEM file with the chain, and one with its key. Raises OSError or ssl.SSLError where they
    are not that.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._seen = self._written()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Return what the next connection is served with; a new file that cannot be read changes
        nothing.
        """
        try:
            written = self._written()
            if written != self._seen:
                self._context = self._load()
                self._seen = written
        except (OSError, ssl.SSLError):
            pass  # it is being written: look again at the next connection
        return self._context

    def _written(self) -> tuple[int, int]:
        return self._chain.stat().st_mtime_ns, self._key.stat().st_mtime_ns

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._chain, self._key)
        context.set_alpn_protocols(["http/1.1"])  # by which a browser opens WebSockets
        return context
