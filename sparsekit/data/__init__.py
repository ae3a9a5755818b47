"""Datasets: reading, checking, numbering of labels, tokenization, batches."""
