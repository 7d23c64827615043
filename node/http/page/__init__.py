"""The page of a node: its files, and the one stream of events that it lives on.

files.py    the files, under a policy that lets in no other host
live.py     what changes in the node, as one stream
static/     what the browser is given: modules, style, and the libraries in vendor/
"""

from .files import file_routes as file_routes
from .live import live_routes as live_routes
