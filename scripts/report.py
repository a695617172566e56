"""Forwards to `finegrid report`; for one release."""

from finegrid.cli import forward

forward("report")
