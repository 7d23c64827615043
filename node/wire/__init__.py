"""What peers say to one another, and the machines that decide who says, pays and signs what when.

Pure: no socket, no clock, no disk, no event loop.
"""
