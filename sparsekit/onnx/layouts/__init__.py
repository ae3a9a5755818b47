"""Deployments in the folders that other servers and clients expect."""
