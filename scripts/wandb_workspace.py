"""Forwards to `finegrid workspace`; for one release."""

from finegrid.cli import forward

forward("workspace")
