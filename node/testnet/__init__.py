"""Runs a whole network on one machine: a chain, a bootstrap node, an aggregator, volunteers and a
client, each its own process.
"""
