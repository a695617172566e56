"""Forwards to `finegrid export`; for one release."""

from finegrid.cli import forward

forward("export")
