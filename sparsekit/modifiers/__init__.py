"""Modifiers: what a recipe does to the model, the loss and the optimizer, epoch by epoch."""
