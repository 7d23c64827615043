"""Divides fees among those who earned them, in exact integers.

Knows no chain and pays nobody.
"""
