"""Rows in, ordered rows out: decoded by worker processes, computed in chunks, committed, resumed and joined."""
