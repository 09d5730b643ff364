"""Anchors as data: which shapes cover a data set, which of a trained detector are needed."""
