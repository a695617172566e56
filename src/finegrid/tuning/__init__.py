"""A search for learning rates, read from its trials."""
