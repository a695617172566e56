"""Forwards to `finegrid references`; for one release."""

from finegrid.cli import forward

forward("references")
