"""Random tables with keys of every kind, cut into windows of every type, on both engines."""
