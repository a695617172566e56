"""Intervals, tests and comparisons of methods."""
