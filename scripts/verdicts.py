"""Forwards to `finegrid verdicts`; for one release."""

from finegrid.cli import forward

forward("verdicts")
