"""C kernels for operations that are slow in torch: of the wheel, or compiled on first use."""
