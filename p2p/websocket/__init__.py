"""WebSocket as a transport, beside TCP: what a browser can dial, and what passes a web proxy.

    address.py: which addresses are WebSockets ──▶ transport.py dials, listener.py accepts
                both shake hands (handshake.py) ──▶ stream.py: bytes in, bytes out ──▶ Noise

Our own, over wsproto: what the library's does wrong stands in tests/p2p/test_websocket.py, a test
for each fault. Knows no peer.
"""
