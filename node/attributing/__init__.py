"""Says on whose text an answer drew: indexes of adapters, built once beside the daemon, what an
answer drew on, and the answers that this node asked for itself.
"""
