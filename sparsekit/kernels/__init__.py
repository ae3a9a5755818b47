"""Native code for what torch has no fast kernel for, compiled where it is used."""
