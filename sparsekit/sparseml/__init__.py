"""SparseML, SparseZoo and DeepSparse: their recipe files, and their own environment."""
