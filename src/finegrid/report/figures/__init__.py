"""Figures of a report. Uses matplotlib."""
