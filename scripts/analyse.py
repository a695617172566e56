"""Forwards to `finegrid analyse`; for one release."""

from finegrid.cli import forward

forward("analyse")
