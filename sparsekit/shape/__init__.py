"""The structures of a BERT-like encoder: found, scored, chosen, and removed from its matrices."""
