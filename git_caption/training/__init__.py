"""Training: one loop over combinations of parts."""
