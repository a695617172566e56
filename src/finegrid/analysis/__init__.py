"""Measurements in parameter space, told from the deltas of finished runs; nothing is trained."""
