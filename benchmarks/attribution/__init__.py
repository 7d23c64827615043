"""Measurements of attribution: how soon, how large, how well it follows training without somebody,
and whom it can be made to pay.
"""
