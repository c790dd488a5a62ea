"""Data sets' rows as samples: one file per format."""
