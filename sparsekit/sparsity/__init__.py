"""Zeros in weights: masks, which layers have them, and Optimal Brain Surgeon, as functions."""
