"""What `experiments=quickstart` runs on, made on the spot: movie reviews and a small BERT."""
