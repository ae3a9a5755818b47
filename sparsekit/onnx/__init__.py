"""From a run's `model/` to its `deployment/`: trace, rewrite by passes, check, describe."""
