"""Hydra sweeper of finegrid."""
