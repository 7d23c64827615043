"""Makes the adapters under adapters/: datanets of their texts, trainings by their recipes, the ids
of what each has learnt, and how well the payable rule follows training without somebody.
"""
