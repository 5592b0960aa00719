"""Search in vectors, and its quality."""
