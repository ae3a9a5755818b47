"""Graph rewrites: each takes the graph and the model's layers, and logs how often it applied."""
