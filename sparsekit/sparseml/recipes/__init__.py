"""SparseML's recipe files: read as they are, converted to sparsekit's recipes, and written back."""
