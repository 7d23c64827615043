"""Reaches hosts behind routers: learns whether others can dial us, keeps places at relays, carries
for others, punches holes, asks routers, finds neighbours.
"""
