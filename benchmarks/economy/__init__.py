"""A simulated economy over the real decision functions: which ways of cheating lose money."""
