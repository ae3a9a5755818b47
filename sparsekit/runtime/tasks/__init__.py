"""The half of each task that needs no torch: texts to tokens, outputs to answers."""
