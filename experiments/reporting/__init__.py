"""What `python -m experiments.report` is made of."""
