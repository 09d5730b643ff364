"""What `python -m experiments.run` is made of."""
