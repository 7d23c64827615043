"""Looks whether a node works, part by part: `lorikeet doctor`. Changes nothing.

machine.py   without its daemon: settings, keys, disk, ports, GPU, what is installed
network.py   of a running one: peers, reach, a record written into the DHT and read back, gossip
reporting.py what of it is safe to show in public: `lorikeet bugreport`, and the page
running.py   of a running one: engine, adapters, chain, gas, what waits for money, all of it
"""
