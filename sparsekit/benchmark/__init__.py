"""Times a model and its dense baselines on every runtime of this machine."""
