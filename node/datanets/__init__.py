"""A node's part in datanets: holds their logs and texts, writes one's own, follows others'."""
