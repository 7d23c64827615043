"""Has another program compute behind the engine's border: a running vLLM server.

Speaks the messages of `engine/messages.py` on one side and HTTP on the other; knows no text, no
peers, no money and no tensors.
"""
