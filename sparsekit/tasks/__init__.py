"""What a model is trained for: one file a task."""
