"""Forwards to `finegrid predict`; for one release."""

from finegrid.cli import forward

forward("predict")
