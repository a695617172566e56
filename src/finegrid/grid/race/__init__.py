"""Races: a comparison that stops what cannot change its answer."""
