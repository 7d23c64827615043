"""Which adapters there are: published, found, held."""
