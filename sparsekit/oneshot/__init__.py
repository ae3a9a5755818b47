"""One-shot pruning: prunes a dense checkpoint without training."""
