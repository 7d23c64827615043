"""The public face of a node, where the operator wants one (`web_listen`): a page that asks the
network by itself, and on the same port the libp2p WebSocket by which it does.

    face.py ──a request for a WebSocket──▶ the host, as any peer's
       │   └──anything else──▶ hypercorn: the page's files, /node.json
       ├── bank.py          deposits and refunds of who pays
       ├── heads.py         what a connection begins with (pure)
       ├── places.py        how many browsers there may be (pure)
       └── certificate.py   TLS, where no proxy in front does it

What the page runs is built from web/ by scripts/web. No route of the API is here.
"""

from .face import serve_web

__all__ = ["serve_web"]
