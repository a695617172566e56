"""Forwards to `finegrid status`; for one release."""

from finegrid.cli import forward

forward("status")
