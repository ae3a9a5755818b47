"""Pruning modifiers: masks, and the schedules that grow them."""
