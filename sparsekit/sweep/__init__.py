"""Sweeps: which jobs there are, which of them are done, what became of each.

Imports no torch, except for `trial`, which a job's own training imports.
"""
