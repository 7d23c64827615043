"""Serves the daemon's HTTP face on loopback: OpenAI's routes for any client, `/lorikeet/v1` for the
command line.
"""
