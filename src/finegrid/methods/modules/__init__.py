"""Modules that several tuning methods inject: adapters, weight masks, sparse deltas."""
