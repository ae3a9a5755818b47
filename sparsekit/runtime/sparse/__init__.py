"""sparsekit's own runtime for exported encoders: C kernels that skip zeros."""
