"""`scripts/demo`: a small network does the main job with a real model, and every claim that is
shown is checked. Nobody imports it.
"""
