"""Forwards to `finegrid tune`; for one release."""

from finegrid.cli import forward

forward("tune")
