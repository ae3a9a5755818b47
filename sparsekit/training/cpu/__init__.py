"""Faster training on a CPU: optimizer, dropout, attention, sparse matmuls, memory reuse."""
