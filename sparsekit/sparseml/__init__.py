"""SparseML, SparseZoo and DeepSparse: their recipes, and the environment that runs them."""
