"""Metrics of captions and answers, and the tokenizer that stands in where there is no Java."""
