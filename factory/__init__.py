"""Makes adapters out of people's texts: taking texts in, and measuring whose text mattered.

    intake/       documents → clean text → checks → a report that anybody can rerun

Knows no peer, no chain and no engine.
"""
