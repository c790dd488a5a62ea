"""Texts to token ids and back, and prompts."""
