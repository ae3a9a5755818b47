"""Models and teachers: loading, pruning at load, inspection, inference over a dataset."""
