"""Models: which weights are meant, loading them, and the points of the network."""
