"""Publishes the adapters under adapters/ anew: datanets of the texts that they were trained on, the
ids of what each has learnt, and how well the payable rule follows training without somebody.
"""
