"""Optimal Brain Surgeon: the Fisher information of weights, from single gradients."""
