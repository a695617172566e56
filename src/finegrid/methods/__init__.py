"""Tuning methods: one file each, each a callback that freezes, masks or injects."""
