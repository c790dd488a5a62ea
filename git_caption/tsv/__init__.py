"""Tab-separated rows: read by number through an index, written atomically, with typed columns."""
