"""A model as a static page, which computes in the browser with the kernels of runtime=sparse."""
