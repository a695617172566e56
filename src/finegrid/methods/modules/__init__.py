"""Modules that several tuning methods inject: adapters, prefixes, weight masks, sparse deltas."""
