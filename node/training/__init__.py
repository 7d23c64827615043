"""A daemon's part in training: makes runs of recipes and datanets, and minds their processes."""
