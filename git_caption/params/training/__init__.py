"""Parameters of `train.py`, a file for each group of keys."""
