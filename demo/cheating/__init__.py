"""Nodes that take money for answers which they did not compute as asked, and auditors that lie: for
the demo and for tests. No daemon knows of them, and nothing of this is installed.
"""
