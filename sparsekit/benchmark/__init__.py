"""A model on every runtime of this machine, beside its dense twin: files, timings, words, chart."""
