"""How a node comes by its base: from its own disk or from the swarm, with the card that describes
it, and how it is given on.
"""
