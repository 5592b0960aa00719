"""Training: losses, the order of batches, the loop, checkpoints."""
