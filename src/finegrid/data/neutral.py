"""A fixed text about many things, which no task is about."""

from pathlib import Path


def text() -> str:
    """19 kB of English."""
    return (Path(__file__).parent / "neutral.txt").read_text(encoding="utf-8")
