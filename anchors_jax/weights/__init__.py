"""Weights from elsewhere: released checkpoints into our networks, and ours into plain files."""
