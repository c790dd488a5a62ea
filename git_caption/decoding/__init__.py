"""From the language model's probabilities to text."""
