"""Recipes: built, checked, scheduled, drawn."""
