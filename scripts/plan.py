"""Forwards to `finegrid plan`; for one release."""

from finegrid.cli import forward

forward("plan")
