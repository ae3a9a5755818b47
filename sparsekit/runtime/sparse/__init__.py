"""Our own runtime for the encoders that we export: C kernels that leave zeros out."""
