"""One driver for each side of the comparison; each runs as a process in that side's own
environment.
"""
