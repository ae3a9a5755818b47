"""Whether a compressed model is as good as its dense baseline: a paired test of non-inferiority."""
