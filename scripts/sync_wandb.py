"""Forwards to `finegrid sync`; for one release."""

from finegrid.cli import forward

forward("sync")
