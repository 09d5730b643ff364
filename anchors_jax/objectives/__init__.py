"""The two readings of one head's output: a loss for training, candidates for detection."""
