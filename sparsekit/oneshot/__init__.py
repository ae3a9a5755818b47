"""One-shot pruning: a sparse copy of a dense checkpoint, without training."""
