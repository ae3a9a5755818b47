"""Models and teachers: loaded from checkpoints, pruned at load, inspected, run."""
