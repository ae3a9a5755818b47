"""The `sparsekit` command: one file a verb."""
