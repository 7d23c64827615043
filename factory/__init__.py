"""Makes adapters out of people's texts: taking texts in, and measuring whose text mattered.

    intake/       documents → clean text → checks → a report that anybody can rerun
    influence/    rows and owners → trainings without each person → weights, λ, how good they are

Knows no peer, no chain and no engine.
"""
