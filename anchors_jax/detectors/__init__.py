"""A detector closes over its model, anchors and objective, and is four pure functions."""
