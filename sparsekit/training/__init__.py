"""Training with a recipe: the trainer, its arguments, the order of rows, and CPU acceleration."""
