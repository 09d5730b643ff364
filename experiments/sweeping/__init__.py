"""What `python -m experiments.sweep` is made of."""
