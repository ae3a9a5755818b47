"""An HTTP server of deployments: dynamic batches, three dialects, metrics. Imports no torch."""
