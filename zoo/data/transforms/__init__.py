"""Random changes of batches, keyed by seed, epoch and sample."""
