"""Runs a `deployment/` folder, without torch or the training stack."""
