"""Linen modules: arrays in, predictions out; no targets and no losses."""
