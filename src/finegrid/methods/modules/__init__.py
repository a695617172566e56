"""Modules that several tuning methods share."""
