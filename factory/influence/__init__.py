"""What each contributor's text did to an adapter's answers, found by training again without it.

A run is a folder (`folder.py`). `python -m factory.influence RUN` trains the adapter of the recipe
and draws answers from it, then trains it again without each contributor (the same steps, the same
order, every other row where it was), without random halves of them, and a few times more from
another seed. What an answer's loss gains when a contributor is left out is his effect on it, in
nats. The effects give standing weights, the blend's λ, and how well the payable rule follows them.

`plan.py` says what is trained, `campaign.py` does it, `training.py` is one training,
`measures.py` and `fitting.py` judge. Only this package's own process imports torch.
"""
