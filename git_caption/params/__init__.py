"""Frozen parameter dataclasses and their strict parsing. Imports no torch."""
