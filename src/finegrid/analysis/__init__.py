"""Measurements in parameter space, from the deltas of finished runs; nothing is trained."""
