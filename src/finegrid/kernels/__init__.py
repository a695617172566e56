"""Faster stand-ins for modules of torch and transformers; `optimize.optimize` is the only door."""
