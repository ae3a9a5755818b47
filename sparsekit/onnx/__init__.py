"""From a run's `model/` to its `deployment/`: traced, rewritten by passes, checked, described."""
