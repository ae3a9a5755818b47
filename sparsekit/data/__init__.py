"""Data sets: read, checked, labelled, tokenized and batched."""
