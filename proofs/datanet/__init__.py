"""Datanets: who gave which text to a community, under which rules, and in which order. Pure."""
