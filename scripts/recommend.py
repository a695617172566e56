"""Forwards to `finegrid recommend`; for one release."""

from finegrid.cli import forward

forward("recommend")
