"""C kernels for operations that are slow in torch, compiled on the machine that runs them."""
