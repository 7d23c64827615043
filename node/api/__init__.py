"""What the faces (HTTP, command line, test network) may ask of a daemon, and what they get back."""
