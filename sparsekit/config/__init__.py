"""The edge between Hydra and everything else: typed values, built strictly."""
