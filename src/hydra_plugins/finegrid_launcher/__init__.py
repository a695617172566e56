"""Hydra launchers of finegrid."""
