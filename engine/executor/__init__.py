"""Runs a step's program: in C++ where there is a compiler, in torch everywhere. Schedules
nothing.
"""
